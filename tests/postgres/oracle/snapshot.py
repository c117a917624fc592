"""Everything that the server and the database library say of a session."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from tests.library import IS_PSYCOPG
from tests.vocabulary import library, parameters

from .errors import ServerError

if IS_PSYCOPG:
    from . import psycopg_half as half
else:
    from . import psycopg2_half as half  # type: ignore[no-redef]

ask = half.ask

#: Custom settings that the corpus uses. PostgreSQL lists no custom setting in
#: pg_settings, so they have to be asked for by name.
CUSTOM_SETTINGS = (
    "app.user_id",
    "local.user_id",
    "session.user_id",
    "transaction.user_id",
    "constraints.user_id",
    "local$.x",
    "local€.x",
)
#: The arguments of setseed() in the corpus.
SEEDS = (0.5, -0.25)
#: Sequences whose currval() the corpus may define.
SEQUENCES = ("o_sequence",)
#: Libraries that the server loads for a command of its own, and that change nothing in
#: the session: the compiler of queries, and what logical replication works with.
SERVICE_LIBRARIES = {"llvmjit", "libpqwalreceiver", "pgoutput", "test_decoding"}
_LOADED = (
    "SELECT regexp_replace(file_name, '[.][^.]*$', '') FROM pg_get_loaded_modules()"
)
#: Before PostgreSQL 18 only the system tells: Linux lists what a process has mapped.
_MAPPED = """
    SELECT DISTINCT substring(line, '([^/]*)[.]so$')
    FROM regexp_split_to_table(pg_read_file('/proc/self/maps'), '\\n') AS line,
        pg_config
    WHERE name = 'PKGLIBDIR' AND line LIKE '%' || setting || '/%.so'
"""
#: A call of a function in C or PL/pgSQL that is installed in the database loads its
#: library, and any session may call it: these are not counted either.
_INSTALLED = (
    "SELECT DISTINCT regexp_replace(probin, '^.*/', '') FROM pg_proc WHERE probin <> ''"
)


def answer(raw: Any, sql: str | bytes) -> object:
    """Return one value, or the SQLSTATE that the server refuses it with."""
    try:
        rows = ask(raw, sql)
    except ServerError as error:
        return error
    return rows[0][0] if rows else None


@dataclass(frozen=True)
class Snapshot:
    """What is known of one session at one time.

    ``session`` can be compared with any other session of the same user and database.
    ``own`` holds objects and origins that are compared with the same connection's.
    ``pinned`` has settings that must not change while a connection is open.
    """

    pid: int
    session: dict[str, object]
    own: dict[str, object]
    pinned: dict[str, object]


def snapshot(raw: Any) -> Snapshot:
    """Tell everything of the session of a connection of the library's.

    The last question ends a backup if the session is in one; nothing else is changed.
    """
    # What the socket holds already, such as notifications, is read first.
    if half.is_idle(raw):
        half.read_all(raw)
    session = {f"client: {k}": v for k, v in half.attributes(raw).items()}
    pinned = {f"reported {name}": raw.info.parameter_status(name) for name in PINNED}
    own = {f"client: {k}": v for k, v in half.own(raw).items()}
    # A question that is refused would end the transaction that the session is in, and
    # the library's half tells that it is in one.
    if half.is_idle(raw):
        told, sources = _server(raw)
        session.update(told)
        own.update(sources)
    for name in PINNED:
        session.pop(f"setting {name}", None)
    return Snapshot(raw.info.backend_pid, session, own, pinned)


def differences(found: Snapshot, fresh: Snapshot, first: Snapshot) -> dict[str, object]:
    """Return what a session has that a fresh one has not: (found, expected).

    ``first`` is the earliest snapshot of the pool's connection. If that was closed and
    another one opened since, there is nothing more to compare with it.
    """
    result = _compared(found.session, fresh.session)
    is_first = found.pid == first.pid
    if is_first:
        result.update(_compared(found.own, first.own))
    result.update(_compared(found.pinned, (first if is_first else fresh).pinned))
    return result


def _compared(found: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    missing = "(nothing)"
    return {
        key: (found.get(key, missing), other.get(key, missing))
        for key in sorted({*found, *other})
        if found.get(key, missing) != other.get(key, missing)
    }


def _read_back(quoted: bytes, raw: Any) -> object:
    """What the server reads where the library writes a value: that, or an error."""
    return _plain(answer(raw, b"SELECT " + quoted))


_TEMPORARY = " UNION ALL ".join(
    f"SELECT '{catalog[3:]} ' || {name} FROM {catalog} WHERE {schema} = "
    "pg_my_temp_schema()"
    for catalog, name, schema in [
        ("pg_class", "relname", "relnamespace"),
        ("pg_collation", "collname", "collnamespace"),
        ("pg_conversion", "conname", "connamespace"),
        ("pg_opclass", "opcname", "opcnamespace"),
        ("pg_operator", "oprname", "oprnamespace"),
        ("pg_opfamily", "opfname", "opfnamespace"),
        ("pg_proc", "proname", "pronamespace"),
        ("pg_statistic_ext", "stxname", "stxnamespace"),
        ("pg_ts_config", "cfgname", "cfgnamespace"),
        ("pg_ts_dict", "dictname", "dictnamespace"),
        ("pg_ts_parser", "prsname", "prsnamespace"),
        ("pg_ts_template", "tmplname", "tmplnamespace"),
        ("pg_type", "typname", "typnamespace"),
    ]
)

#: A list of rows each; none of these questions can be refused.
_LISTS = {
    # A library brings settings of its own along when it is loaded; those that nobody
    # has set count as missing, as they are in a session that hasn't loaded it.
    "settings": "SELECT name, setting, source FROM pg_settings"
    " WHERE name NOT LIKE '%.%' OR source <> 'default'",
    # PostgreSQL gives '' for a custom setting that was reset, NULL for one never set.
    "custom settings": "SELECT name, nullif(current_setting(name, true), '')"
    f" FROM unnest(array{list(CUSTOM_SETTINGS)}) AS name",
    "prepared statements": "SELECT name, statement FROM pg_prepared_statements",
    "cursors": "SELECT name, statement, is_holdable FROM pg_cursors WHERE name <> ''",
    "advisory locks": "SELECT classid, objid, objsubid, mode FROM pg_locks"
    " WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "channels": "SELECT pg_listening_channels()",
    "temporary schema": "SELECT 1 WHERE pg_my_temp_schema() <> 0",
    "replication slots": "SELECT slot_name, temporary FROM pg_replication_slots"
    " WHERE active_pid = pg_backend_pid()",
    "users": "SELECT current_user, session_user",
    # The schema of temporary objects stays when it is empty; its content is above.
    "schemas": "SELECT s FROM unnest(current_schemas(true)) AS s"
    " WHERE s NOT LIKE 'pg!_temp!_%' ESCAPE '!'",
    "random": "SELECT random()::text",
}
#: One value each, or an error.
_VALUES = {
    "replication origin": "SELECT 1 WHERE pg_replication_origin_session_is_setup()",
    "lastval": "SELECT lastval()",
    **{f"currval {name}": f"SELECT currval('{name}')" for name in SEQUENCES},
}
_QUESTION = (
    "SELECT json_build_object("
    + ", ".join(
        f"'{name}', (SELECT json_agg(to_json(q)) FROM ({sql}) AS q)"
        for name, sql in _LISTS.items()
    )
    + ")"
)
#: Settings whose values Django and the library rely on: a session that holds them by a
#: SET of the pool's, where Django had none to send, is as good. What a session began
#: with is kept, because the library has decided by it how to quote.
PINNED = {
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "standard_conforming_strings",
    "TimeZone",
}


def _server(raw: Any) -> tuple[dict[str, object], dict[str, object]]:
    """What the server tells of the session, and which settings the session has set."""
    told = json.loads(str(answer(raw, _QUESTION)))
    settings = told.pop("settings")
    sources = {
        f"set in the session: {each['name']}": each["source"] == "session"
        for each in settings
        # A transaction's own settings begin anew with each one.
        if each["name"] not in PINNED and not each["name"].startswith("transaction_")
    }
    result: dict[str, object] = {
        f"setting {each['name']}": each["setting"] for each in settings
    }
    for each in told.pop("custom settings"):
        result[f"setting {each['name']}"] = each["nullif"]
    if told.pop("temporary schema"):
        result["temporary objects"] = sorted(ask(raw, _TEMPORARY))
    (number,) = told.pop("random")
    result["seeded"] = number["random"] in _seeded(raw)
    for name, rows in told.items():
        result[name] = sorted(str(tuple(row.values())) for row in rows or ())
    for name, sql in _VALUES.items():
        result[name] = _plain(answer(raw, sql))
    result.update(_libraries(raw))
    for value in ("é\\'", b"\xc3\\"):
        kind = type(value).__name__
        try:
            result[f"{kind} read back"] = _read_back(half.quoted(value, raw), raw)
        except UnicodeError as error:
            result[f"{kind} read back"] = str(error)
    result["backup"] = _ends_backup(raw)
    # What holds nothing counts as missing: not every session is asked everything.
    return {k: v for k, v in result.items() if v not in ([], None, False)}, sources


def _plain(value: object) -> object:
    return f"error {value}" if isinstance(value, ServerError) else value


#: The sessions on other servers that extensions keep in a session, by library.
_KEPT = {
    "dblink": "SELECT dblink_get_connections()",
    "postgres_fdw": "SELECT array_agg(server_name) FROM postgres_fdw_get_connections()",
}


def _libraries(raw: Any) -> dict[str, object]:
    """The libraries that the session has loaded, and the sessions they keep.

    To ask an extension loads its library, so ask only where it is loaded.
    """
    question = _LOADED if raw.info.server_version >= 180000 else _MAPPED
    try:
        loaded = {name for (name,) in ask(raw, question)}
    except ServerError as error:
        return {"libraries": _plain(error)}
    if not loaded:
        return {}
    installed = {name for (name,) in ask(raw, _INSTALLED)}
    result: dict[str, object] = {
        "libraries": sorted(loaded - installed - SERVICE_LIBRARIES)
    }
    for name in loaded & set(_KEPT):
        result[f"kept by {name}"] = _plain(answer(raw, _KEPT[name]))
    return result


def _ends_backup(raw: Any) -> bool:
    """Tell whether the session was in a backup: only to end it tells."""
    stop = "pg_backup_stop(false)"
    if raw.info.server_version < 150000:
        stop = "pg_stop_backup(false, false)"
    return not isinstance(answer(raw, f"SELECT {stop}"), ServerError)


_known_numbers: dict[tuple[int, str], set[object]] = {}


def _seeded(raw: Any) -> set[object]:
    """The first random numbers after each seed, as a session of the same server."""
    key = (os.getpid(), f"{raw.info.host} {raw.info.port}")
    if key not in _known_numbers:
        params = {**parameters(raw), "password": raw.info.password}
        other = library.connect(**params)
        numbers = _known_numbers[key] = set()
        for seed in SEEDS:
            ask(other, f"SELECT setseed({seed})")
            numbers.update(answer(other, "SELECT random()::text") for _ in range(50))
        other.close()
    return _known_numbers[key]
