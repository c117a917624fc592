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

from dbpool_mw.core import driver
from dbpool_mw.core.errors import ConnectFailed, PoolError

#: Where a stand-in notes what is assigned to it, and what was before a signal.
_NOTES = "_dbpool_mw_notes"


def put(wrapper: Any, connection: Any, now: float) -> None:
    """Leave a wrapper as Django's ``connect()`` leaves it (read in 4.2 to 6.1).

    ``now`` is by ``time.monotonic()``. No round trip.
    """
    state = wrapper.__dict__
    state.update(connection.marks)
    state["connection"] = connection
    state["savepoint_ids"] = []
    state["atomic_blocks"] = []
    state["run_on_commit"] = []
    max_age = wrapper.settings_dict["CONN_MAX_AGE"]
    state["close_at"] = None if max_age is None else now + max_age
    if connection.hooks:
        hooks = wrapper.execute_wrappers
        hooks += [each for each in connection.hooks if each not in hooks]


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
        notes = _Notes()
        vars(wrapper)[_NOTES] = notes

        def get_connection_params() -> dict[str, Any]:
            params: dict[str, Any] = engine.get_connection_params(wrapper)
            factory = driver.tracked_connection(params.get("connection_factory"))
            limits = {} if "service" in params else driver.NETWORK_LIMITS
            return {**limits, **params, "connection_factory": factory}

        vars(wrapper)["get_connection_params"] = get_connection_params
        _become(wrapper, _noting(engine))
        try:
            engine.connect(wrapper)
            connection = wrapper.connection
            if not isinstance(connection, driver.TrackedConnection):
                raise PoolError(
                    alias,
                    f"pool {alias!r}: connect() of the ENGINE left {connection!r}, "
                    "which was not made with the connection_factory it was given",
                )
            driver.keep(connection)
            connection.marks = notes.marks(wrapper)
            connection.hooks = list(wrapper.execute_wrappers)
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
        try:
            wrapper.init_connection_state()
            connection_created.send(sender=type(wrapper), connection=wrapper)
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
        "queries_log",
        "run_commit_hooks_on_set_autocommit_on",
        "run_on_commit",
        "savepoint_ids",
        "savepoint_state",
    }
)


class _Notes:
    """The names of what is assigned to a stand-in while it connects.

    Not while receivers of ``connection_created`` run: what an ENGINE notes when they
    query is of the stand-in's session and of its own tenant or role, say, and would be
    believed of another wrapper's.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.in_signal = False

    def note(self, name: str) -> None:
        if name == "run_on_commit":
            # Django's connect() assigns it last, after the signal.
            self.in_signal = False
        if not self.in_signal and name not in _NO_MARKS:
            self.names.add(name)

    def marks(self, wrapper: Any) -> dict[str, Any]:
        state = vars(wrapper)
        return {name: state[name] for name in self.names if name in state}


@cache
def _noting(engine: Any) -> Any:
    """Make the subclass of an ENGINE's wrapper that notes what is assigned to it.

    Also what is assigned the value it has already: another wrapper may have another.
    Whoever asks for ``__class__`` hears the ENGINE's own, which ``connection_created``
    is sent with.
    """

    def set_attribute(self: Any, name: str, value: Any) -> None:
        engine.__setattr__(self, name, value)
        vars(self)[_NOTES].note(name)

    def init_connection_state(self: Any) -> None:
        engine.init_connection_state(self)
        vars(self)[_NOTES].in_signal = True

    return type(
        engine.__name__,
        (engine,),
        {
            "__module__": engine.__module__,
            "__class__": property(lambda self: engine),
            "__setattr__": set_attribute,
            "init_connection_state": init_connection_state,
        },
    )


def _become(wrapper: Any, engine: Any) -> None:
    """Change a wrapper's class, whatever its ``__class__`` says."""
    object.__setattr__(wrapper, "__class__", engine)
