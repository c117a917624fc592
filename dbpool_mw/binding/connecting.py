"""Physical connections: opened and reset the way the ENGINE and the project want them.

Both happen on a stand-in, a wrapper made for the purpose, on which Django's own
``connect()`` runs with all that an ENGINE adds to it and all that listens to
``connection_created``. What that ``connect()`` assigned to the stand-in belongs to the
connection, and is put on each wrapper that gets the connection later: see ``put``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import psycopg2
from django.db import connections
from django.db.backends.signals import connection_created

from dbpool_mw.core.errors import ConnectFailed, PoolError
from dbpool_mw.drivers.psycopg2 import driver
from dbpool_mw.drivers.psycopg2.connection import TrackedConnection, tracked_connection

#: Where a stand-in notes what is assigned to it.
_NOTES = "_dbpool_mw_notes"

#: Where a wrapper has the hooks that came with its last connection.
_HOOKS = "_dbpool_mw_hooks"


def put(wrapper: Any, connection: Any, now: float) -> None:
    """Leave a wrapper as Django's ``connect()`` leaves it (read in 4.2 to 6.1).

    ``now`` is by ``time.monotonic()``. No round trip.
    """
    state = wrapper.__dict__
    state.update(connection.marks)
    for name, value in connection.containers.items():
        state[name] = value.copy()
    state["connection"] = connection
    state["savepoint_ids"] = []
    state["atomic_blocks"] = []
    state["run_on_commit"] = []
    max_age = wrapper.settings_dict["CONN_MAX_AGE"]
    state["close_at"] = None if max_age is None else now + max_age
    if connection.hooks or _HOOKS in state:
        _put_hooks(wrapper, connection.hooks)


def _put_hooks(wrapper: Any, hooks: list[Any]) -> None:
    """Put a connection's execute_wrappers in the place of the last connection's.

    They come first, as if they had been there ever since: what ``execute_wrapper()``
    has put on the list for a block, it takes off at its end.
    """
    state = vars(wrapper)
    last, there = state.get(_HOOKS, []), wrapper.execute_wrappers
    there[:] = [each for each in there if not any(each is one for one in last)]
    state[_HOOKS] = [each for each in hooks if each not in there]
    there[:0] = state[_HOOKS]


def is_opening(wrapper: Any) -> bool:
    """Tell whether ``connect()`` of the class runs on behalf of the pool."""
    return _NOTES in vars(wrapper)


def open_connection(alias: str, asking: Any) -> Any:
    """Open a connection, for a wrapper that asks or for none.

    Raises ConnectFailed when libpq can't connect, and whatever ENGINE and receivers
    raise; what was opened until then is closed.
    """
    with _stand_in(alias, asking) as wrapper:
        engine: Any = type(wrapper)
        notes = _note(wrapper)

        def get_connection_params() -> dict[str, Any]:
            params: dict[str, Any] = engine.get_connection_params(wrapper)
            factory = tracked_connection(params.get("connection_factory"))
            limits = {} if "service" in params else driver.NETWORK_LIMITS
            return {**limits, **params, "connection_factory": factory}

        vars(wrapper)["get_connection_params"] = get_connection_params
        try:
            engine.connect(wrapper)
            connection = wrapper.connection
            if not isinstance(connection, TrackedConnection):
                raise PoolError(
                    alias,
                    f"pool {alias!r}: connect() of the ENGINE left {connection!r}, "
                    "which was not made with the connection_factory it was given",
                )
            driver.keep(connection)
            notes.mark(connection, wrapper)
        except BaseException as error:
            if wrapper.connection is not None:
                driver.close(wrapper.connection)
            if not isinstance(error, psycopg2.OperationalError):
                raise
            raise ConnectFailed(
                alias,
                f"pool {alias!r}: can't connect to the database",
                str(error).strip(),
            ) from error
        finally:
            wrapper.connection = None
    return connection


def reset_session(
    alias: str, asking: Any, connection: Any, origin: driver.Character
) -> None:
    """Make a touched session as good as one that was just opened.

    After the server forgot everything, what Django and the receivers of
    ``connection_created`` set up is set up again. Raises whatever those raise.
    """
    driver.forget_session(connection, origin)
    with _stand_in(alias, asking) as wrapper:
        put(wrapper, connection, time.monotonic())
        notes = _note(wrapper)
        try:
            wrapper.init_connection_state()
            connection_created.send(sender=wrapper.__class__, connection=wrapper)
            notes.mark(connection, wrapper)
        finally:
            wrapper.connection = None
    driver.keep(connection)


@contextlib.contextmanager
def _stand_in(alias: str, asking: Any) -> Iterator[Any]:
    """Make a wrapper that ``connections[alias]`` gives meanwhile, in this thread.

    So a receiver that uses the alias uses this connection, and what it notes on its
    wrapper for later is noted nowhere. What receivers opened of other aliases is closed
    in the end, because nobody else would.
    """
    before = list(connections.all(initialized_only=True))
    connected = [each for each in before if each.connection is not None]
    made: Any = connections.create_connection(alias)
    if asking is not None:
        made.settings_dict = asking.settings_dict
    connections[alias] = made
    try:
        yield made
    finally:
        del connections[alias]
        for each in connections.all(initialized_only=True):
            if each.connection is not None and each not in connected:
                each.close()
        for each in before:
            connections[each.alias] = each


# --- What connect() assigns ----------------------------------------------------------

#: What is no mark of a connection: set each time, the seam's, or the wrapper's alone.
_NO_MARKS = frozenset(
    {
        "atomic_blocks",
        "close_at",
        "connection",
        "execute_wrappers",
        "force_debug_cursor",
        "queries_log",
        "run_commit_hooks_on_set_autocommit_on",
        "run_on_commit",
        "savepoint_ids",
        "savepoint_state",
    }
)


class _Notes:
    """What is assigned to a stand-in while it sets a session up.

    Also what is assigned the value it has already: another wrapper may have another.
    But nothing that a query assigns, such as Django's look at the server's version: an
    ENGINE that sets a tenant's search path before a query, and remembers that it did,
    means the stand-in's tenant, and would be believed of another wrapper's.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.queries = 0

    def note(self, name: str, value: Any) -> None:
        if not self.queries and name not in _NO_MARKS:
            self.values[name] = value

    def during_query(self, run: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function that queries, and note nothing meanwhile."""
        self.queries += 1
        try:
            return run(*args, **kwargs)
        finally:
            self.queries -= 1

    def mark(self, connection: Any, wrapper: Any) -> None:
        """Keep on the connection what belongs to it."""
        state = vars(wrapper)
        for name, value in self.values.items():
            connection.containers.pop(name, None)
            if type(value) in (dict, list, set):
                # To fill: each holder begins with what is in it now.
                connection.containers[name] = value.copy()
            elif name in state:
                connection.marks[name] = value
        connection.hooks = [
            each for each in wrapper.execute_wrappers if each != self.during_query
        ]


def _note(wrapper: Any) -> _Notes:
    """Begin to note what is assigned to a stand-in."""
    notes = vars(wrapper)[_NOTES] = _Notes()
    wrapper.execute_wrappers = [notes.during_query]
    # What its ``__class__`` says doesn't count.
    engine: Any = type(wrapper)
    object.__setattr__(wrapper, "__class__", _noting(engine))
    return notes


@cache
def _noting(engine: Any) -> Any:
    """Make the subclass of an ENGINE's wrapper that notes what is assigned to it.

    Whoever asks for ``__class__`` hears the ENGINE's own, which ``connection_created``
    is sent with.
    """

    def set_attribute(self: Any, name: str, value: Any) -> None:
        engine.__setattr__(self, name, value)
        notes = vars(self).get(_NOTES)  # a copy of a stand-in has none
        if notes is not None:
            notes.note(name, value)

    def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
        notes = vars(self).get(_NOTES) or _Notes()
        return notes.during_query(engine._cursor, self, *args, **kwargs)

    return type(
        engine.__name__,
        (engine,),
        {
            "__module__": engine.__module__,
            "__class__": property(lambda self: engine),
            "__setattr__": set_attribute,
            "_cursor": cursor,
        },
    )
