"""Compare what all workers may open with what each server allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from dbpool_mw import conf


class _Server(NamedTuple):
    room: int  # how many connections ordinary roles may have
    is_far: bool  # a proxy stands in between


def findings(databases: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield a code of ``dbpool_mw.checks``, a text and a hint for what doesn't fit.

    Only the databases named are asked. When nothing says how many workers there are it
    reckons with one. Aliases on the same host and port share one server's places. A
    server that doesn't answer is no fault of the settings: it is left out. So is one
    behind a proxy, which has more clients than it opens connections.
    """
    try:
        aliases = conf.pooled_aliases()
        workers = conf.workers() or 1
        sizes = {alias: conf.config_for(alias).max_conns for alias in aliases}
    except ImproperlyConfigured:
        return
    servers: dict[tuple[Any, ...], list[str]] = {}
    for alias in aliases:
        servers.setdefault(_address(alias), []).append(alias)
    for sharing in servers.values():
        asked = [alias for alias in sharing if alias in databases]
        server = _ask(asked[0]) if asked else None
        if server is None:
            continue
        names = ", ".join(repr(alias) for alias in sharing)
        wanted = sum(sizes[alias] for alias in sharing)
        if server.is_far:
            yield (
                "proxy",
                f"Between this process and the server of {names} stands a proxy, such "
                "as PgBouncer.",
                "If it gives each client a server connection for as long as the client "
                "is connected (session mode), there is nothing to set: let it open "
                f"{workers * wanted}. If only for a transaction, set "
                f"{conf.PREFIX}RESET = 'never' and 'DISABLE_SERVER_SIDE_CURSORS': "
                "True; docs/migrating.rst says what doesn't hold then.",
            )
        elif workers * wanted > server.room:
            yield (
                "capacity",
                f"{workers} worker process{'es' if workers > 1 else ''} may open "
                f"{workers * wanted} connections ({wanted} each) to the server of "
                f"{names}, which has room for {server.room}.",
                f"Lower {conf.PREFIX}MAX_CONNS (to {max(server.room // workers, 1)} "
                "over all these aliases), run fewer workers, or raise the server's "
                "max_connections. "
                f"{conf.PREFIX}WORKERS says how many workers there are.",
            )


def _address(alias: str) -> tuple[Any, ...]:
    """Return what two aliases on one server have in common."""
    database = connections.settings[alias]
    options = database["OPTIONS"]
    return (
        str(database["HOST"] or options.get("host", "")),
        str(database["PORT"] or options.get("port", "")),
        str(options.get("service", "")),
    )


def _ask(alias: str) -> _Server | None:
    """Ask a server for its limits; None for no answer.

    Leaves Django's wrapper as it was found: open or closed. A proxy invents the process
    id that libpq is told when it connects, because it is what cancels a query.
    """
    connection = connections[alias]
    closed = connection.connection is None
    try:
        with connection.cursor() as cursor:
            # Only PostgreSQL 16 and later have reserved_connections.
            cursor.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN "
                "('max_connections', 'superuser_reserved_connections', "
                "'reserved_connections') "
                "UNION ALL SELECT 'pid', pg_backend_pid()::text"
            )
            said = {name: int(setting) for name, setting in cursor.fetchall()}
        is_far = said.pop("pid") != connection.connection.get_backend_pid()
    except (DatabaseError, ImproperlyConfigured):
        return None
    finally:
        if closed:
            connection.close()
    return _Server(said.pop("max_connections") - sum(said.values()), is_far)
