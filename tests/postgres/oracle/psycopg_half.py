"""What psycopg knows of a session, and questions to the server past psycopg.

psycopg is written in Python: its half of a session is what ``vars()`` of a connection
says.
"""

from __future__ import annotations

from typing import Any

from psycopg import pq, sql
from psycopg.adapt import PyFormat

from .errors import ServerError

#: Attributes of psycopg's own that say nothing of the session, or are read by another
#: name below: what libpq has, locks, and what is worked out of others.
OTHERS = {
    "_adapters",
    "_begin_statement",
    "_created_at",
    "_expire_at",
    "_pool",
    "_prepared",
    "lock",
    "pgconn",
}
#: The attributes that are the session's.
ATTRIBUTES = (
    "_autocommit",
    "_closed",
    "_deferrable",
    "_isolation_level",
    "_notice_handlers",
    "_notifies_backlog",
    "_notify_handlers",
    "_num_transactions",
    "_pipeline",
    "_read_only",
    "_tpc",
    "cursor_factory",
    "row_factory",
    "server_cursor_factory",
)
_REPORTED = (
    "application_name",
    "client_encoding",
    "default_transaction_read_only",
    "in_hot_standby",
    "is_superuser",
    "search_path",
    "session_authorization",
)


def ask(raw: Any, sql: str | bytes) -> list[tuple[Any, ...]]:
    """Ask the server by libpq, on psycopg's connection and past psycopg.

    No cursor is made, no method of the connection is called, and no transaction is
    begun: neither psycopg nor whoever tracks its statements can notice. Text comes as
    the server sent it, read as UTF-8. Raises ServerError.
    """
    result = raw.pgconn.exec_(sql.encode() if isinstance(sql, str) else sql)
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    if state is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        raise ServerError(state.decode())

    def value(row: int, column: int) -> str | None:
        found = result.get_value(row, column)
        return None if found is None else found.decode("utf-8", "replace")

    columns = range(result.nfields)
    return [
        tuple(value(row, column) for column in columns) for row in range(result.ntuples)
    ]


def is_idle(raw: Any) -> bool:
    """Tell whether the server can be asked."""
    is_idle = raw.info.transaction_status == pq.TransactionStatus.IDLE
    return is_idle and raw.info.pipeline_status == pq.PipelineStatus.OFF


def read_all(raw: Any) -> None:
    """Read what the server said unasked, as psycopg does; sends nothing."""
    raw.pgconn.consume_input()
    while (notify := raw.pgconn.notifies()) is not None:
        raw.pgconn.notify_handler(notify)


def quoted(value: str | bytes, raw: Any) -> bytes:
    """Return what psycopg writes for a value. Raises UnicodeError."""
    return sql.Literal(value).as_bytes(raw)


def attributes(raw: Any) -> dict[str, object]:
    """What psycopg tells of a connection."""
    result = {name: _copied(getattr(raw, name, None)) for name in ATTRIBUTES}
    result.update(
        begin=raw._get_tx_start_command(),
        is_locked=raw.lock.locked(),
        prepare_threshold=raw.prepare_threshold,
        prepared=sorted(map(str, raw._prepared._names)),
        prepared_max=raw.prepared_max,
        pipeline=raw.info.pipeline_status,
        transaction=raw.info.transaction_status,
        types=sorted((each.oid, each.name) for each in raw.adapters.types),
    )
    for name in _REPORTED:
        result[f"reported {name}"] = raw.info.parameter_status(name)
    for number, loaders in enumerate(raw.adapters._loaders):
        for oid, loader in loaders.items():
            result[f"loader {oid} {number}"] = loader
    for form in PyFormat:
        for kind, dumper in raw.adapters._dumpers[form].items():
            # A class is registered by its name until it is met.
            is_name = isinstance(kind, str)
            name = kind if is_name else f"{kind.__module__}.{kind.__qualname__}"
            result[f"dumper {name} {form.name}"] = dumper
    for number, dumpers in enumerate(raw.adapters._dumpers_by_oid):
        for oid, dumper in dumpers.items():
            result[f"dumper {oid} {number}"] = dumper
    return result


def own(raw: Any) -> dict[str, object]:
    """What differs between connections."""
    return {"attributes": sorted(vars(raw)), "dsn": raw.info.dsn}


def shared(raw: Any, kept: Any) -> dict[str, object]:
    """Tell what of the connection's the former holder still has."""
    return {}


def _copied(value: Any) -> object:
    return value if value is None or not hasattr(value, "append") else list(value)
