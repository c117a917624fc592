"""Check that the pools of all workers fit into each server's max_connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from dbpool_mw import conf
from dbpool_mw.checks.messages import message
from dbpool_mw.core import docs


class Server(NamedTuple):
    """What a server says of itself."""

    limit: int  # max_connections without those reserved for special roles
    behind_proxy: bool


def check_capacity(
    databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Compare the connections that all workers may open with each server's limit.

    Django passes the aliases of ``manage.py check --database`` as ``databases``; no
    other alias is queried. Aliases with the same host and port share one server's
    limit. The number of workers is 1 if it is not known. A server that can't be reached
    is skipped. A server behind a proxy is not compared, because the connections to the
    proxy are not connections to the server.
    """
    return list(_messages(databases or ()))


def _messages(databases: Sequence[str]) -> Iterator[CheckMessage]:
    try:
        aliases = conf.pooled_aliases()
        workers = conf.workers() or 1
        sizes = {alias: conf.config_for(alias).max_conns for alias in aliases}
    except ImproperlyConfigured:
        return
    by_address: dict[tuple[Any, ...], list[str]] = {}
    for alias in aliases:
        by_address.setdefault(address(alias), []).append(alias)
    for sharing in by_address.values():
        selected = [alias for alias in sharing if alias in databases]
        server = query(selected[0]) if selected else None
        if server is None:
            continue
        names = ", ".join(repr(alias) for alias in sharing)
        per_worker = sum(sizes[alias] for alias in sharing)
        total = workers * per_worker
        if server.behind_proxy:
            yield message(
                "proxy",
                f"{names}: a proxy, such as PgBouncer, is between this process and the "
                "server.",
                "In session mode the proxy needs one server connection per client "
                f"connection: let it open {total}. In transaction mode set "
                f"{conf.PREFIX}RESET = 'never' and 'DISABLE_SERVER_SIDE_CURSORS': "
                "True. It has limitations, and RDS Proxy has others. "
                f"{docs.see('migrating', 'together-with-pgbouncer')}",
            )
        elif total > server.limit:
            sources = dict.fromkeys(conf.source(one, "MAX_CONNS") for one in sharing)
            yield message(
                "capacity",
                f"{names}: {workers} worker process{'es' if workers > 1 else ''} may "
                f"open {total} connections ({per_worker} each), and the server accepts "
                f"{server.limit}.",
                f"Lower {' or '.join(sources)} (to {max(server.limit // workers, 1)} "
                "for these aliases together), run fewer workers, or raise the server's "
                f"max_connections. {conf.PREFIX}WORKERS is the number of workers.",
            )


def address(alias: str) -> tuple[Any, ...]:
    """Return a value that is equal for two aliases on the same server."""
    database = connections.settings[alias]
    options = database["OPTIONS"]
    return (
        str(database["HOST"] or options.get("host", "")),
        str(database["PORT"] or options.get("port", "")),
        str(options.get("service", "")),
    )


def query(alias: str) -> Server | None:
    """Query a server for its limit, None if it can't be reached or has none.

    A wrapper without a connection is closed again afterwards. A proxy is recognised by
    the process id: a proxy sends libpq an id of its own when libpq connects, by which
    it can identify a request to cancel, and pg_backend_pid() is the server's.
    """
    wrapper = connections[alias]
    was_closed = wrapper.connection is None
    try:
        with wrapper.cursor() as cursor:
            # reserved_connections exists only in PostgreSQL 16 and later.
            cursor.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN "
                "('max_connections', 'superuser_reserved_connections', "
                "'reserved_connections') "
                "UNION ALL SELECT 'pid', pg_backend_pid()::text"
            )
            numbers = {name: int(setting) for name, setting in cursor.fetchall()}
        limit = numbers.pop("max_connections")
        driver = conf.driver_for(alias)
        assert driver is not None, "config_for() has refused the alias"
        behind_proxy = numbers.pop("pid") != driver.backend_pid(wrapper.connection)
    except (DatabaseError, ImproperlyConfigured):
        return None
    except (KeyError, ValueError):
        return None  # it speaks PostgreSQL's protocol and isn't PostgreSQL
    finally:
        if was_closed:
            wrapper.close()
    return Server(limit - sum(numbers.values()), behind_proxy)
