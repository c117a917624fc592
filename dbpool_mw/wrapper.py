"""The seam between Django's DatabaseWrapper and the pool.

An adopted wrapper carries two methods of ours in place of its own: ``connect``, which
checks a connection out instead of opening one, and ``_close``, which checks it in
instead of closing it. All else is Django's. So ``ensure_connection()``, ``close()``,
``close_old_connections()``, ``atomic()`` and whatever an ENGINE adds to them work as
ever, and a connection closed in the middle of a request comes back to the pool, where
the next query gets one again.

Physical connections are opened through the ``connect()`` of the wrapper's own class, so
that its ENGINE, its roles and time zones, and the receivers of ``connection_created``
all have their say, once for each physical connection.
"""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import psycopg2
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.utils.asyncio import async_unsafe

from dbpool_mw import process
from dbpool_mw.core import driver
from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.errors import ConnectFailed, PoolError
from dbpool_mw.core.pool import ConnectionPool

#: Where an adopted wrapper keeps its attachment, in its ``__dict__``.
KEY = "_dbpool_mw"


class Attachment:
    """What ties one adopted wrapper to a pool; to the pool it is the owner.

    ``held`` has at most one element. It is a list because ``pop`` is atomic: of two
    threads that give the same connection back, one finds the list empty.
    """

    __slots__ = (
        "__weakref__",
        "alias",
        "connect",
        "held",
        "request",
        "thread",
        "wrapper",
    )

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self.alias: str = wrapper.alias
        self.connect = partial(_connect, wrapper)
        self.held: list[tuple[ConnectionPool, PoolEntry]] = []
        self.request: Any = None
        self.thread = threading.current_thread().name
        self.wrapper = weakref.ref(wrapper, self.lose)

    def describe(self) -> Mapping[str, Any]:
        """Tell who holds the connection; called from any thread."""
        request = self.request
        return {
            "thread": self.thread,
            "method": getattr(request, "method", None),
            "path": getattr(request, "path", None),
        }

    def take(self) -> tuple[ConnectionPool, PoolEntry] | None:
        """Take what is held, if anything is; of several takers one gets it."""
        try:
            return self.held.pop()
        except IndexError:
            return None

    def lose(self, *_: object) -> None:
        """Have the pool take back what is held: wrapper or thread are gone.

        Runs in finalisers, so it takes no lock.
        """
        held = self.take()
        if held is not None:
            process.reclaim(*held)

    def attach(self, wrapper: Any) -> None:
        """Check a connection out and put it on the wrapper.

        Raises what ``ConnectionPool.checkout`` raises.
        """
        pool = pool_of(wrapper)
        entry = pool.checkout(self)
        self.held.append((pool, entry))
        _put(wrapper, entry.connection)


def pool_of(wrapper: Any) -> ConnectionPool:
    """Give the pool of a wrapper's alias, made at the first call.

    Raises ImproperlyConfigured when the settings are wrong.
    """
    alias, database = wrapper.alias, wrapper.settings_dict["NAME"]
    return process.pool(alias, database) or process.make_pool(
        alias, database, partial(_open, alias), partial(_reset, alias)
    )


class _OfThread(list[Attachment]):
    """The attachments of one thread; when it ends, nothing it held is lost."""

    def __del__(self) -> None:
        for attachment in self:
            attachment.lose()


_local = threading.local()


def of_thread() -> list[Attachment]:
    """Give the attachments that were made in this thread."""
    try:
        found: _OfThread = _local.attachments
    except AttributeError:
        found = _local.attachments = _OfThread()
    return found


def adopt(wrapper: Any) -> Attachment | None:
    """Put a wrapper on its alias's pool, if it isn't yet; in the wrapper's own thread.

    None if it must be left alone: ``connect`` is neither its class's nor ours, as when
    Django's SimpleTestCase forbids the database.
    """
    state = vars(wrapper)
    attachment: Attachment | None = state.get(KEY)
    replaced = state.get("connect")
    if attachment is not None:
        return attachment if replaced is attachment.connect else None
    if replaced is not None and getattr(replaced, "__func__", None) is not getattr(
        type(wrapper), "connect", None
    ):
        return None
    attachment = Attachment(wrapper)
    install(wrapper, attachment)
    of_thread().append(attachment)
    return attachment


def install(wrapper: Any, attachment: Attachment) -> None:
    """Put our two methods on a wrapper."""
    vars(wrapper).update(
        {
            KEY: attachment,
            "connect": attachment.connect,
            "_close": partial(_close, wrapper),
        }
    )


def enter(request: Any, aliases: Iterable[str], lazy: bool) -> None:
    """Begin a request in this thread: every one of these aliases gets a connection.

    With ``lazy``, each gets it at its first query. Raises django.db.OperationalError
    when there is none to be had; what was attached before that stays attached.
    """
    for alias in aliases:
        wrapper: Any = connections[alias]
        attachment = adopt(wrapper)
        if attachment is None:
            continue
        attachment.request = request
        if wrapper.connection is not None:
            if wrapper.in_atomic_block or not attachment.held:
                continue  # somebody's test, or a connection that isn't ours
            wrapper.close()  # left by a request that never finished
        if not lazy:
            try:
                attachment.attach(wrapper)
            except psycopg2.Error:
                with wrapper.wrap_database_errors:
                    raise


def leave() -> None:
    """End a request in this thread: what it holds goes back to the pool.

    Not from an open atomic block, which is somebody's test: Django's own
    ``close_old_connections`` has closed all others that can be.
    """
    for attachment in of_thread():
        if attachment.held:
            give_back(attachment)
        attachment.request = None


def give_back(attachment: Attachment) -> None:
    """Close the wrapper of an attachment that holds something, outside of atomic()."""
    wrapper: Any = attachment.wrapper()
    if wrapper is None or wrapper.in_atomic_block:
        return
    if type(wrapper).close is _DJANGO_CLOSE:
        # What Django's close() comes to here, less its guards against a use from other
        # threads and from the event loop: this is the wrapper's own thread.
        wrapper.run_on_commit = []
        _close(wrapper)
    else:
        wrapper.close()


_DJANGO_CLOSE = BaseDatabaseWrapper.close


def forget_inherited() -> None:
    """Take the parent's connections off this thread's wrappers, after a fork.

    They are dropped, not closed: the sockets are the parent's. An atomic block that the
    fork happened in can't go on in the child.
    """
    for wrapper in connections.all(initialized_only=True):
        if wrapper.vendor == "postgresql" and wrapper.connection is not None:
            attachment = vars(wrapper).get(KEY)
            if attachment is not None:
                attachment.take()
            wrapper.connection = None
            if wrapper.in_atomic_block:
                wrapper.closed_in_transaction = True
                wrapper.needs_rollback = True


# --- What an adopted wrapper does differently ----------------------------------------


@async_unsafe
def _connect(wrapper: Any) -> None:
    """Stand in for ``BaseDatabaseWrapper.connect``: check a connection out."""
    attachment: Attachment = vars(wrapper)[KEY]
    if attachment.held:
        wrapper.close()
    attachment.attach(wrapper)


def _close(wrapper: Any) -> None:
    """Stand in for ``DatabaseWrapper._close``: check the connection in.

    In an atomic block it is closed for good: ``close()`` then leaves it on the wrapper,
    where a use must fail as it does without a pool.
    """
    attachment: Attachment = vars(wrapper)[KEY]
    held = attachment.take()
    if held is None:
        type(wrapper)._close(wrapper)
        return
    pool, entry = held
    if wrapper.connection is not entry.connection:
        type(wrapper)._close(wrapper)  # somebody put another one there
    elif wrapper.in_atomic_block:
        pool.discard(entry, "closed in atomic()")
        return
    else:
        wrapper.connection = None
    pool.checkin(entry)


def _put(wrapper: Any, connection: Any) -> None:
    """Leave a wrapper as Django's ``connect()`` leaves it (read in 4.2 to 6.1)."""
    settings = wrapper.settings_dict
    max_age = settings["CONN_MAX_AGE"]
    wrapper.connection = connection
    wrapper.in_atomic_block = False
    wrapper.savepoint_ids = []
    wrapper.atomic_blocks = []
    wrapper.needs_rollback = False
    wrapper.health_check_enabled = settings["CONN_HEALTH_CHECKS"]
    wrapper.health_check_done = True
    wrapper.close_at = None if max_age is None else time.monotonic() + max_age
    wrapper.closed_in_transaction = False
    wrapper.errors_occurred = False
    wrapper.autocommit = settings["AUTOCOMMIT"]
    wrapper.run_on_commit = []
    vars(wrapper).update(connection.marks)


# --- Opening and resetting, on behalf of the pool ------------------------------------


def _own_wrapper(alias: str, attachment: Any) -> Any:
    """Give the wrapper that asked, or the one of this thread if another one did."""
    wrapper = attachment.wrapper() if attachment is not None else None
    if wrapper is None or wrapper._thread_ident != _thread.get_ident():
        wrapper = connections[alias]
    return wrapper


def _open(alias: str, attachment: Any) -> Any:
    """Open a physical connection the way the wrapper's class does.

    Without an attachment it is a background thread's: its own wrapper serves, so that a
    receiver that uses ``connections[alias]`` there uses this connection.
    """
    wrapper = _own_wrapper(alias, attachment)
    engine, state = type(wrapper), vars(wrapper)
    before = dict(state)

    def get_connection_params() -> dict[str, Any]:
        params: dict[str, Any] = engine.get_connection_params(wrapper)
        factory = driver.tracked_connection(params.get("connection_factory"))
        return {**params, "connection_factory": factory}

    state["get_connection_params"] = get_connection_params
    try:
        engine.connect(wrapper)
        connection = wrapper.connection
        if not isinstance(connection, driver.TrackedConnection):
            raise PoolError(
                alias,
                f"pool {alias!r}: connect() of the ENGINE left {connection!r}, which "
                "was not made with the connection_factory it was given",
            )
        driver.settle(connection)
        connection.marks = {
            name: value
            for name, value in state.items()
            if name not in _CONNECT_SETS and before.get(name, state) is not value
        }
    except psycopg2.OperationalError as error:
        _abandon(wrapper)
        raise ConnectFailed(
            alias, f"pool {alias!r}: can't connect to the database", str(error).strip()
        ) from error
    except BaseException:
        _abandon(wrapper)
        raise
    finally:
        del state["get_connection_params"]
        wrapper.connection = None
    return connection


#: What ``_put`` sets, and what belongs to the seam: no marks of a connection.
_CONNECT_SETS = frozenset(
    {
        KEY,
        "_close",
        "atomic_blocks",
        "autocommit",
        "close_at",
        "closed_in_transaction",
        "connect",
        "connection",
        "errors_occurred",
        "get_connection_params",
        "health_check_done",
        "health_check_enabled",
        "in_atomic_block",
        "needs_rollback",
        "queries_log",
        "run_commit_hooks_on_set_autocommit_on",
        "run_on_commit",
        "savepoint_ids",
        "savepoint_state",
    }
)


def _abandon(wrapper: Any) -> None:
    """Close what a failed ``connect()`` left on the wrapper."""
    if wrapper.connection is not None:
        driver.close(wrapper.connection)


def _reset(
    alias: str, attachment: Any, connection: Any, origin: driver.Character
) -> None:
    """Make a touched session as good as one that was just opened.

    After the server forgot everything, what Django and the receivers of
    ``connection_created`` set up is set up again. Raises whatever those raise.
    """
    driver.forget_session(connection, origin)
    wrapper = _own_wrapper(alias, attachment)
    _put(wrapper, connection)
    try:
        wrapper.init_connection_state()
        connection_created.send(sender=type(wrapper), connection=wrapper)
    finally:
        wrapper.connection = None
    driver.settle(connection)
