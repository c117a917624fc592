"""The seam between Django's DatabaseWrapper and the pool.

An adopted wrapper carries two methods of ours in place of its own: ``connect``, which
checks a connection out instead of opening one, and ``_close``, which checks it in
instead of closing it. All else is Django's. So ``ensure_connection()``, ``close()``,
``close_old_connections()``, ``atomic()`` and whatever an ENGINE adds to them work as
ever, and a connection closed in the middle of a request comes back to the pool, where
the next query gets one again. Physical connections are opened and reset in
``physical``.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import psycopg2
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import connecting, registry
from dbpool_mw.core.entry import PoolEntry
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
        "closes",
        "connect",
        "held",
        "request",
        "scopes",
        "stays",
        "thread",
        "wrapper",
    )

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self.alias: str = wrapper.alias
        closes = type(wrapper)._close  # type: ignore[attr-defined]
        is_djangos = closes.__module__.startswith("django.db.backends.")
        #: The ENGINE's own ``_close``, where it isn't Django's.
        self.closes = None if is_djangos else closes
        # Both know the wrapper weakly: it must be free to go.
        self.connect = partial(_connect, self)
        self.held: list[tuple[ConnectionPool, PoolEntry]] = []
        # Whatever has a ``method`` and a ``path``: a request, or the outermost scope.
        self.request: Any = None
        # How many scopes have begun and not ended.
        self.scopes = 0
        # Whether the wrapper stays adopted when the last of them ends.
        self.stays = True
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

    def holds_another(self) -> bool:
        """Tell whether this thread holds a connection of another alias."""
        others = here.attachments.values()
        return any(each.held for each in others if each is not self)

    def take(self) -> tuple[ConnectionPool, PoolEntry] | None:
        """Take what is held, if anything is; of several takers one gets it."""
        try:
            return self.held.pop()
        except IndexError:
            return None

    def lose(self, *_: object) -> None:
        """Have the pool take back what is held: wrapper or thread are gone.

        Runs in finalisers, in any thread at any allocation: see ``pool.lose``.
        """
        held = self.take()
        if held is not None:
            pool, entry = held
            entry.connection.lease += 1
            pool.lose(entry)

    def attach(self, wrapper: Any, eager: bool = False) -> None:
        """Check a connection out and put it on the wrapper.

        With ``eager`` nothing has asked for one yet. Raises what
        ``ConnectionPool.checkout`` raises.
        """
        if self.held and (left := self.take()) is not None:
            pool, entry = left
            pool.discard(entry, "taken off its wrapper")
        name = wrapper.settings_dict["NAME"]
        found = registry.pool(self.alias, name)
        if found is None:
            if eager and registry.is_untested(self.alias, name):
                return
            found = _make_pool(self.alias, name)
        entry = found.checkout(self)
        self.held.append((found, entry))
        connecting.put(wrapper, entry.connection, entry.checked_out_at)


def _make_pool(alias: str, database: str) -> ConnectionPool:
    _check_locals()

    def connect(attachment: Any) -> Any:
        return connecting.open_connection(alias, attachment and attachment.wrapper())

    def reset(attachment: Any, *arguments: Any) -> None:
        asking = attachment and attachment.wrapper()
        connecting.reset_session(alias, asking, *arguments)

    return registry.make_pool(alias, database, connect, reset)


class _OfThread(dict[str, Attachment]):
    """The attachments of one thread, by alias; when it ends, nothing they hold is lost.

    A look here is cheaper than one at ``connections``. It relies on a thread that
    serves requests keeping its wrappers, which nothing in Django contradicts.
    """

    def __del__(self) -> None:
        for attachment in self.values():
            attachment.lose()


class _Local(threading.local):
    def __init__(self) -> None:
        self.attachments = _OfThread()


def _check_locals() -> None:
    """Raise ImproperlyConfigured if greenlets would share what is a thread's own.

    So it is when gevent or eventlet patched Python after this module, or Django's
    connections, were imported: each greenlet would be given the same wrappers.
    """
    if _Local.__mro__[1] is not threading.local:
        raise ImproperlyConfigured(
            "Python was patched for greenlets after Django was imported, so all of "
            "them would share one database connection. Call monkey.patch_all() first, "
            "before the application is imported; with gunicorn, at the top of its "
            "configuration file, or turn preload_app off."
        )


#: ``here.attachments`` are those that were made in the running thread.
here = _Local()


def adopt(wrapper: Any) -> Attachment | None:
    """Put a wrapper on its alias's pool, if it isn't yet; in the wrapper's own thread.

    None if it must be left alone: it is another thread's, a connection for the pool is
    being opened on it, or its ``connect`` is neither its class's nor ours, as when
    Django's SimpleTestCase forbids the database.
    """
    state = vars(wrapper)
    attachment: Attachment | None = state.get(KEY)
    replaced = state.get("connect")
    if wrapper._thread_ident != _thread.get_ident() or connecting.is_opening(wrapper):
        return None
    if attachment is None:
        own = type(wrapper).connect
        if replaced is not None and getattr(replaced, "__func__", None) is not own:
            return None
        attachment = Attachment(wrapper)
        install(wrapper, attachment)
    elif replaced is not attachment.connect:
        return None
    here.attachments[wrapper.alias] = attachment
    return attachment


def install(wrapper: Any, attachment: Attachment) -> None:
    """Put our two methods on a wrapper."""
    vars(wrapper).update(
        {
            KEY: attachment,
            "connect": attachment.connect,
            "_close": partial(_close, wrapper, attachment),
        }
    )


def uninstall(wrapper: Any, attachment: Attachment) -> None:
    """Take them off again: the wrapper, which holds nothing, is Django's own."""
    for name in (KEY, "connect", "_close"):
        vars(wrapper).pop(name, None)
    if here.attachments.get(attachment.alias) is attachment:
        del here.attachments[attachment.alias]


def enter(request: Any, aliases: Iterable[str], lazy: bool) -> None:
    """Begin a request in this thread: every one of these aliases gets a connection.

    With ``lazy``, each gets it at its first query. Raises django.db.OperationalError
    when there is none to be had; what was attached before that stays attached.
    """
    replaced = BaseDatabaseWrapper.ensure_connection is not _ENSURE_CONNECTION
    mine = here.attachments
    for alias in aliases:
        attachment = mine.get(alias)
        wrapper: Any = attachment and attachment.wrapper()
        if wrapper is None or wrapper.connect is not attachment.connect:  # type: ignore[union-attr]
            # All at once: what is told of a new connection may use the other aliases.
            attachment = {each: adopt(connections[each]) for each in aliases}[alias]
            wrapper = connections[alias]
        if attachment is None:
            continue
        attachment.request = request
        if wrapper.connection is not None:
            if wrapper.in_atomic_block or not attachment.held:
                continue  # somebody's test, or a connection that isn't ours
            wrapper.close()  # left by a request that never finished
        if lazy:
            continue
        if replaced:
            # By pytest-django, or in 5.2 and later by Django's own test classes. Where
            # the test may not use the alias, its first query says so.
            with contextlib.suppress(AssertionError, RuntimeError):
                wrapper.ensure_connection()
        else:
            try:
                attachment.attach(wrapper, eager=True)
            except psycopg2.Error:
                with wrapper.wrap_database_errors:
                    raise


#: Django's own; None where somebody replaced it before this module was imported.
_ENSURE_CONNECTION: Any = BaseDatabaseWrapper.ensure_connection
if _ENSURE_CONNECTION.__module__ != BaseDatabaseWrapper.__module__:
    _ENSURE_CONNECTION = None


def finish() -> None:
    """End this thread's request, however it ended, and give back what it holds."""
    leave()
    for attachment in here.attachments.values():
        attachment.request = None


def leave() -> None:
    """Give back what this thread's request holds; a later query gets another.

    Not from an open atomic block, which is somebody's test: Django's own
    ``close_old_connections`` has closed all others that can be.
    """
    for attachment in here.attachments.values():
        if attachment.held:
            give_back(attachment)


def give_back(attachment: Attachment) -> None:
    """Close the wrapper of an attachment that holds something, outside of atomic()."""
    wrapper: Any = attachment.wrapper()
    if wrapper is None or wrapper.in_atomic_block:
        return
    if type(wrapper).close is _DJANGO_CLOSE:
        # What Django's close() comes to here, less its guards against a use from other
        # threads and from the event loop: this is the wrapper's own thread.
        wrapper.run_on_commit = []
        _close(wrapper, attachment)
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
            # Sends nothing now, but an ENGINE forgets what it knew of the session.
            wrapper.close()
            if wrapper.in_atomic_block:
                wrapper.closed_in_transaction = True
                wrapper.needs_rollback = True


# --- What an adopted wrapper does differently ----------------------------------------


@async_unsafe
def _connect(attachment: Attachment) -> None:
    """Stand in for ``BaseDatabaseWrapper.connect``: check a connection out."""
    wrapper: Any = attachment.wrapper()
    if attachment.held:
        wrapper.close()
    if attachment.alias in conf.pooled_aliases():
        attachment.attach(wrapper)
    else:  # the settings have changed
        type(wrapper).connect(wrapper)


def _close(wrapper: Any, attachment: Attachment) -> None:
    """Stand in for ``DatabaseWrapper._close``: check the connection in.

    In an atomic block it is closed for good: ``close()`` then leaves it on the wrapper,
    where a use must fail as it does without a pool.
    """
    try:
        pool, entry = attachment.held.pop()
    except IndexError:
        type(wrapper)._close(wrapper)
        return
    if wrapper.connection is not entry.connection:
        type(wrapper)._close(wrapper)  # somebody put another one there
        entry.connection.lease += 1
        pool.checkin(entry)
        return
    try:
        if attachment.closes is not None:
            # There is nothing to close: it is to forget what it knew of the session.
            # One that can't do without a connection has nothing else to do.
            wrapper.connection = None
            with contextlib.suppress(Exception):
                attachment.closes(wrapper)
    finally:
        if wrapper.in_atomic_block:
            wrapper.connection = entry.connection
            pool.discard(entry, "closed in atomic()")
        else:
            wrapper.connection = None
            entry.connection.lease += 1
            pool.checkin(entry)
