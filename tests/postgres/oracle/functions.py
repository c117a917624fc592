"""Every volatile function that SQL can call, and how it is called.

A line is the function's signature as regprocedure prints it, and either ``= `` and the
statements, or ``- `` and why no test calls it. A signature alone is called with made-up
arguments, and may refuse them.
"""

from __future__ import annotations

from tests.vocabulary import OperationalError

from .rows import ANY, Row

FUNCTIONS = """\
amvalidate(oid)
array_sample(anyarray,integer)
array_shuffle(anyarray)
binary_upgrade_add_sub_rel_state(text,oid,"char",pg_lsn) - only a server in binary upgrade mode takes the call
binary_upgrade_create_empty_extension(text,text,boolean,text,oid[],text[],text[]) - only a server in binary upgrade mode takes the call
binary_upgrade_logical_slot_has_caught_up(name) - only a server in binary upgrade mode takes the call
binary_upgrade_replorigin_advance(text,pg_lsn) - only a server in binary upgrade mode takes the call
binary_upgrade_set_missing_value(oid,text,text) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_array_pg_type_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_heap_pg_class_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_heap_relfilenode(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_index_pg_class_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_index_relfilenode(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_multirange_array_pg_type_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_multirange_pg_type_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_pg_authid_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_pg_enum_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_pg_tablespace_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_pg_type_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_toast_pg_class_oid(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_next_toast_relfilenode(oid) - only a server in binary upgrade mode takes the call
binary_upgrade_set_record_init_privs(boolean) - only a server in binary upgrade mode takes the call
brin_desummarize_range(regclass,bigint)
brin_summarize_new_values(regclass)
brin_summarize_range(regclass,bigint)
clock_timestamp()
current_query()
currtid2(text,tid)
currval(regclass) = SELECT nextval('o_sequence'), currval('o_sequence')
cursor_to_xml(refcursor,integer,boolean,boolean,text) = DECLARE c CURSOR WITH HOLD FOR SELECT 1; SELECT cursor_to_xml('c', 1, false, false, '')
cursor_to_xmlschema(refcursor,boolean,boolean,text)
dblink(text)
dblink(text,boolean)
dblink(text,text) = SELECT * FROM dblink('o_here', 'SELECT 1') AS t (a int)
dblink(text,text,boolean)
dblink_build_sql_delete(text,int2vector,integer,text[])
dblink_build_sql_insert(text,int2vector,integer,text[],text[])
dblink_build_sql_update(text,int2vector,integer,text[],text[])
dblink_cancel_query(text)
dblink_close(text)
dblink_close(text,boolean)
dblink_close(text,text)
dblink_close(text,text,boolean)
dblink_connect(text) = SELECT dblink_connect('o_here')
dblink_connect(text,text) = SELECT dblink_connect('link', 'o_here')
dblink_connect_u(text) = SELECT dblink_connect_u('o_here')
dblink_connect_u(text,text) = SELECT dblink_connect_u('link', 'o_here')
dblink_current_query()
dblink_disconnect() = SELECT dblink_connect('o_here'); SELECT dblink_disconnect()
dblink_disconnect(text) = SELECT dblink_connect('link', 'o_here'); SELECT dblink_disconnect('link')
dblink_error_message(text)
dblink_exec(text)
dblink_exec(text,boolean)
dblink_exec(text,text) = SELECT dblink_exec('o_here', 'SET app.user_id = 42')
dblink_exec(text,text,boolean)
dblink_fdw_validator(text[],oid)
dblink_fetch(text,integer)
dblink_fetch(text,integer,boolean)
dblink_fetch(text,text,integer)
dblink_fetch(text,text,integer,boolean)
dblink_get_connections()
dblink_get_notify()
dblink_get_notify(text)
dblink_get_pkey(text)
dblink_get_result(text)
dblink_get_result(text,boolean)
dblink_is_busy(text)
dblink_open(text,text)
dblink_open(text,text,boolean)
dblink_open(text,text,text)
dblink_open(text,text,text,boolean)
dblink_send_query(text,text) = SELECT dblink_connect('link', 'o_here'); SELECT dblink_send_query('link', 'SELECT 1')
gen_random_uuid()
gin_clean_pending_list(regclass)
isn_weak(boolean) = SELECT isn_weak(true)
lastval() = SELECT nextval('o_sequence'), lastval()
lo_close(integer)
lo_creat(integer)
lo_create(oid)
lo_export(oid,text)
lo_from_bytea(oid,bytea)
lo_get(oid)
lo_get(oid,bigint,integer)
lo_import(text) - reads a file of the server's machine into a large object
lo_import(text,oid) - reads a file of the server's machine into a large object
lo_lseek(integer,integer,integer)
lo_lseek64(integer,bigint,integer)
lo_open(oid,integer) = BEGIN; SELECT lo_open(lo_create(0), 131072)
lo_put(oid,bigint,bytea)
lo_tell(integer)
lo_tell64(integer)
lo_truncate(integer,integer)
lo_truncate64(integer,bigint)
lo_unlink(oid)
loread(integer,integer)
lowrite(integer,bytea)
nextval(regclass) = SELECT nextval('o_sequence')
normal_rand(integer,double precision,double precision) = SELECT normal_rand(3, 0, 1)
pg_advisory_lock(bigint) = SELECT pg_advisory_lock(4711)
pg_advisory_lock(integer,integer) = SELECT pg_advisory_lock(47, 11)
pg_advisory_lock_shared(bigint) = SELECT pg_advisory_lock_shared(4711)
pg_advisory_lock_shared(integer,integer) = SELECT pg_advisory_lock_shared(47, 11)
pg_advisory_unlock(bigint)
pg_advisory_unlock(integer,integer)
pg_advisory_unlock_all()
pg_advisory_unlock_shared(bigint)
pg_advisory_unlock_shared(integer,integer)
pg_advisory_xact_lock(bigint)
pg_advisory_xact_lock(integer,integer)
pg_advisory_xact_lock_shared(bigint)
pg_advisory_xact_lock_shared(integer,integer)
pg_available_wal_summaries()
pg_backup_start(text,boolean) = SELECT pg_backup_start('x', true)
pg_backup_stop(boolean) = SELECT pg_backup_start('x', true); SELECT pg_backup_stop(false)
pg_blocking_pids(integer)
pg_cancel_backend(integer) = SELECT pg_cancel_backend(pg_backend_pid())
pg_clear_attribute_stats(text,text,text,boolean)
pg_clear_relation_stats(text,text)
pg_collation_actual_version(oid)
pg_control_checkpoint()
pg_control_init()
pg_control_recovery()
pg_control_system()
pg_copy_logical_replication_slot(name,name)
pg_copy_logical_replication_slot(name,name,boolean) = SELECT pg_copy_logical_replication_slot('o_logical', 'x_slot', true)
pg_copy_logical_replication_slot(name,name,boolean,name) = SELECT pg_copy_logical_replication_slot('o_logical', 'x_slot', true, 'pgoutput')
pg_copy_physical_replication_slot(name,name)
pg_copy_physical_replication_slot(name,name,boolean) = SELECT pg_copy_physical_replication_slot('o_physical', 'x_slot', true)
pg_create_logical_replication_slot(name,name,boolean,boolean)
pg_create_logical_replication_slot(name,name,boolean,boolean,boolean) = SELECT pg_create_logical_replication_slot('x_slot', 'pgoutput', true)
pg_create_physical_replication_slot(name,boolean,boolean) = SELECT pg_create_physical_replication_slot('x_slot', true, true)
pg_create_restore_point(text)
pg_current_logfile()
pg_current_logfile(text)
pg_current_wal_flush_lsn()
pg_current_wal_insert_lsn()
pg_current_wal_lsn()
pg_database_collation_actual_version(oid)
pg_database_size(name)
pg_database_size(oid)
pg_drop_replication_slot(name) = SELECT pg_create_physical_replication_slot('x_slot'); SELECT pg_drop_replication_slot('x_slot')
pg_export_snapshot() = SELECT pg_export_snapshot()
pg_extension_config_dump(regclass,text)
pg_get_aios()
pg_get_backend_memory_contexts()
pg_get_loaded_modules()
pg_get_multixact_members(xid)
pg_get_sequence_data(regclass)
pg_get_shmem_allocations()
pg_get_shmem_allocations_numa()
pg_get_wait_events()
pg_get_wal_replay_pause_state()
pg_get_wal_resource_managers()
pg_get_wal_summarizer_state()
pg_hba_file_rules()
pg_ident_file_mappings()
pg_import_system_collations(regnamespace) - creates hundreds of collations
pg_indexes_size(regclass)
pg_is_in_recovery()
pg_is_wal_replay_paused()
pg_isolation_test_session_is_blocked(integer,integer[])
pg_jit_available()
pg_last_committed_xact()
pg_last_wal_receive_lsn()
pg_last_wal_replay_lsn()
pg_last_xact_replay_timestamp()
pg_lock_status()
pg_log_backend_memory_contexts(integer)
pg_log_standby_snapshot()
pg_logical_emit_message(boolean,text,bytea)
pg_logical_emit_message(boolean,text,bytea,boolean)
pg_logical_emit_message(boolean,text,text)
pg_logical_emit_message(boolean,text,text,boolean)
pg_logical_slot_get_binary_changes(name,pg_lsn,integer,text[]) = SELECT count(*) FROM pg_logical_slot_get_binary_changes('o_logical', NULL, 1, 'proto_version', '1', 'publication_names', 'x')
pg_logical_slot_get_changes(name,pg_lsn,integer,text[]) = SELECT count(*) FROM pg_logical_slot_get_changes('o_text', NULL, 1)
pg_logical_slot_peek_binary_changes(name,pg_lsn,integer,text[]) = SELECT count(*) FROM pg_logical_slot_peek_binary_changes('o_logical', NULL, 1, 'proto_version', '1', 'publication_names', 'x')
pg_logical_slot_peek_changes(name,pg_lsn,integer,text[]) = SELECT count(*) FROM pg_logical_slot_peek_changes('o_text', NULL, 1)
pg_ls_archive_statusdir()
pg_ls_dir(text)
pg_ls_dir(text,boolean,boolean)
pg_ls_logdir()
pg_ls_logicalmapdir()
pg_ls_logicalsnapdir()
pg_ls_replslotdir(text)
pg_ls_summariesdir()
pg_ls_tmpdir()
pg_ls_tmpdir(oid)
pg_ls_waldir()
pg_nextoid(regclass,name,regclass)
pg_notification_queue_usage()
pg_notify(text,text) = LISTEN somebody; SELECT pg_notify('somebody', 'secret')
pg_partition_ancestors(regclass)
pg_partition_tree(regclass)
pg_prepared_xact()
pg_promote(boolean,integer) - ends the recovery of a standby
pg_read_binary_file(text)
pg_read_binary_file(text,bigint,bigint)
pg_read_binary_file(text,bigint,bigint,boolean)
pg_read_binary_file(text,boolean)
pg_read_file(text)
pg_read_file(text,bigint,bigint)
pg_read_file(text,bigint,bigint,boolean)
pg_read_file(text,boolean)
pg_read_file_old(text,bigint,bigint)
pg_relation_size(regclass)
pg_relation_size(regclass,text)
pg_reload_conf() = SELECT pg_reload_conf()
pg_replication_origin_advance(text,pg_lsn)
pg_replication_origin_create(text) = SELECT pg_replication_origin_create('x_origin'); SELECT pg_replication_origin_drop('x_origin')
pg_replication_origin_drop(text) = SELECT pg_replication_origin_create('x_origin'); SELECT pg_replication_origin_drop('x_origin')
pg_replication_origin_progress(text,boolean)
pg_replication_origin_session_is_setup()
pg_replication_origin_session_progress(boolean) = SELECT pg_replication_origin_session_setup('o_origin'); SELECT pg_replication_origin_session_progress(false)
pg_replication_origin_session_reset() = SELECT pg_replication_origin_session_setup('o_origin'); SELECT pg_replication_origin_session_reset()
pg_replication_origin_session_setup(text) = SELECT pg_replication_origin_session_setup('o_origin')
pg_replication_origin_xact_reset()
pg_replication_origin_xact_setup(pg_lsn,timestamp with time zone) = SELECT pg_replication_origin_session_setup('o_origin'); SELECT pg_replication_origin_xact_setup('0/1', now())
pg_replication_slot_advance(name,pg_lsn) = SELECT pg_replication_slot_advance('o_logical', pg_current_wal_lsn())
pg_restore_attribute_stats("any")
pg_restore_relation_stats("any")
pg_rotate_logfile()
pg_rotate_logfile_old() - pg_rotate_logfile() for adminpack, to PostgreSQL 16
pg_safe_snapshot_blocking_pids(integer)
pg_sequence_last_value(regclass)
pg_show_all_file_settings()
pg_show_replication_origin_status()
pg_sleep(double precision) = SELECT pg_sleep(0)
pg_sleep_for(interval) = SELECT pg_sleep_for('0 s')
pg_sleep_until(timestamp with time zone) = SELECT pg_sleep_until(now())
pg_stat_clear_snapshot()
pg_stat_file(text)
pg_stat_file(text,boolean)
pg_stat_force_next_flush()
pg_stat_get_backend_io(integer)
pg_stat_get_backend_wal(integer)
pg_stat_get_io()
pg_stat_get_recovery_prefetch()
pg_stat_get_xact_blocks_fetched(oid)
pg_stat_get_xact_blocks_hit(oid)
pg_stat_get_xact_function_calls(oid)
pg_stat_get_xact_function_self_time(oid)
pg_stat_get_xact_function_total_time(oid)
pg_stat_get_xact_numscans(oid)
pg_stat_get_xact_tuples_deleted(oid)
pg_stat_get_xact_tuples_fetched(oid)
pg_stat_get_xact_tuples_hot_updated(oid)
pg_stat_get_xact_tuples_inserted(oid)
pg_stat_get_xact_tuples_newpage_updated(oid)
pg_stat_get_xact_tuples_returned(oid)
pg_stat_get_xact_tuples_updated(oid)
pg_stat_have_stats(text,oid,bigint)
pg_stat_have_stats(text,oid,oid)
pg_stat_reset()
pg_stat_reset_backend_stats(integer)
pg_stat_reset_replication_slot(text)
pg_stat_reset_shared(text)
pg_stat_reset_single_function_counters(oid)
pg_stat_reset_single_table_counters(oid)
pg_stat_reset_slru(text)
pg_stat_reset_subscription_stats(oid)
pg_stop_making_pinned_objects()
pg_switch_wal()
pg_sync_replication_slots()
pg_table_size(regclass)
pg_tablespace_size(name)
pg_tablespace_size(oid)
pg_terminate_backend(integer,bigint) = SELECT pg_terminate_backend(pg_backend_pid())
pg_total_relation_size(regclass)
pg_try_advisory_lock(bigint) = SELECT pg_try_advisory_lock(4711)
pg_try_advisory_lock(integer,integer) = SELECT pg_try_advisory_lock(47, 11)
pg_try_advisory_lock_shared(bigint) = SELECT pg_try_advisory_lock_shared(4711)
pg_try_advisory_lock_shared(integer,integer) = SELECT pg_try_advisory_lock_shared(47, 11)
pg_try_advisory_xact_lock(bigint)
pg_try_advisory_xact_lock(integer,integer)
pg_try_advisory_xact_lock_shared(bigint)
pg_try_advisory_xact_lock_shared(integer,integer)
pg_wal_replay_pause()
pg_wal_replay_resume()
pg_wal_summary_contents(bigint,pg_lsn,pg_lsn)
pg_xact_commit_timestamp(xid)
pg_xact_commit_timestamp_origin(xid)
pg_xact_status(xid8)
plpgsql_validator(oid) = SELECT plpgsql_validator('o_notice'::regproc)
postgres_fdw_disconnect(text)
postgres_fdw_disconnect_all() = SELECT a FROM o_foreign; SELECT postgres_fdw_disconnect_all()
postgres_fdw_get_connections()
postgres_fdw_get_connections(boolean)
postgres_fdw_validator(text[],oid)
query_to_xml(text,boolean,boolean,text) = SELECT query_to_xml('SELECT set_config(''app.user_id'', ''42'', false)', false, false, '')
query_to_xml_and_xmlschema(text,boolean,boolean,text) = SELECT query_to_xml_and_xmlschema('SELECT set_config(''app.user_id'', ''42'', false)', false, false, '')
query_to_xmlschema(text,boolean,boolean,text) = SELECT query_to_xmlschema('SELECT set_config(''app.user_id'', ''42'', false)', false, false, '')
random() = SELECT random()
random(bigint,bigint)
random(integer,integer)
random(numeric,numeric)
random_normal(double precision,double precision)
set_config(text,text,boolean) = SELECT set_config('app.user_id', '42', false)
set_limit(real) = SELECT set_limit(0.5)
setseed(double precision) = SELECT setseed(0.5)
setval(regclass,bigint) = SELECT setval('o_sequence', 5)
setval(regclass,bigint,boolean) = SELECT setval('o_sequence', 5, true)
timeofday()
ts_rewrite(tsquery,text) = SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, to_tsquery(set_config(''app.user_id'', ''42'', false))')
ts_stat(text) = SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''app.user_id'', ''42'', false))')
ts_stat(text,text) = SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''app.user_id'', ''42'', false))', 'a')
txid_status(bigint)
uuidv4()
uuidv7()
uuidv7(interval)
"""  # noqa: E501

#: What pg_proc lists. Functions that take or return what SQL has no values of, such as
#: handlers and triggers, are called by the server only.
LISTED = """
    SELECT oid::regprocedure FROM pg_proc
    WHERE provolatile = 'v' AND proname !~ '^o_'
        AND prorettype::regtype::text !~ '(trigger|_handler|internal)$'
        AND NOT 'internal'::regtype = ANY (proargtypes)
"""

#: Made-up arguments by type.
ARGUMENTS = {
    '"any"': "1",
    '"char"': "'x'",
    "anyarray": "array[1, 2]",
    "bigint": "1",
    "boolean": "false",
    "bytea": "'x'",
    "double precision": "1",
    "int2vector": "'1'",
    "integer": "1",
    "integer[]": "array[1]",
    "interval": "'1 s'",
    "name": "'x'",
    "numeric": "1",
    "oid": "0",
    "oid[]": "array[1::oid]",
    "pg_lsn": "'0/1'",
    "real": "0.5",
    "refcursor": "'x'",
    "regclass": "'o_table'",
    "regnamespace": "'public'",
    "smallint": "1",
    "text": "'x'",
    "text[]": "array['x']",
    "tid": "'(0,1)'",
    "tid[]": "array['(0,1)'::tid]",
    "timestamp with time zone": "now()",
    "tsquery": "'a'",
    "xid": "'5'",
    "xid8": "'5'",
}

#: What functions of replication need.
_BEFORE = """
    SELECT pg_create_physical_replication_slot('o_physical', true);
    SELECT pg_create_logical_replication_slot('o_logical', 'pgoutput');
    SELECT pg_create_logical_replication_slot('o_text', 'test_decoding');
    SELECT pg_replication_origin_create('o_origin')
"""
_AFTER = """
    SELECT pg_replication_origin_drop('o_origin');
    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
        WHERE NOT temporary
"""

#: Calls that have to end in an error, or may: not every server can write XML.
_ERRORS: dict[str, str | type[Exception]] = {
    "pg_cancel_backend(integer)": "57014",
    "pg_terminate_backend(integer,bigint)": OperationalError,
}

#: The first version in which the server tells what the call changed.
_SINCE = {"isn_weak(boolean)": 18}

#: Functions that no test calls, and why.
NOT_RUN: dict[str, str] = {}
ROWS: list[Row] = []


def _call(signature: str) -> str:
    name, _, types = signature.removesuffix(")").partition("(")
    values = [f"{ARGUMENTS[t]}::{t}" for t in types.split(",") if t and t != '"any"']
    return f"SELECT {name}({', '.join(values)})"


for _line in FUNCTIONS.splitlines():
    _signature, _, _statements = _line.partition(" = ")
    _signature, _, _reason = _signature.partition(" - ")
    if _reason:
        NOT_RUN[_signature] = _reason
        continue
    _replicates = "_slot" in _line or "origin" in _line
    ROWS.append(
        Row(
            _signature,
            (_statements or _call(_signature),),
            before=_BEFORE if _replicates else "",
            after=_AFTER if _replicates else "",
            since=_SINCE.get(_signature, 0),
            error=_ERRORS.get(
                _signature, None if _statements and "xml" not in _signature else ANY
            ),
        )
    )
