"""psycopg connections that remember whether their sessions were changed.

Every pooled connection is a ``TrackedConnection``. psycopg's connections are Python
objects, and take their class from whoever connects: so the class of a connection is
exchanged when it was opened, whatever opened it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap

from dbpool_mw.core.errors import HoldCancelled, HoldTooLong
from dbpool_mw.drivers.postgresql.tracked import Tracked, unwrapped

from .cancel import Canceller

Connection = psycopg.Connection


#: What each execution of a prepared statement fails with once its table was altered
#: (feature_not_supported), or once the server doesn't have the statement any more
#: (invalid_sql_statement_name). psycopg would go on to use it.
_STALE_STATEMENT = frozenset({"0A000", "26000"})


class _HoldTooLong(HoldTooLong, psycopg.errors.QueryCanceled):
    """What an overdue holder's statements raise: to Django, a driver's error."""


class _HoldCancelled(HoldCancelled, psycopg.errors.QueryCanceled):
    """What a cancelled holder's statements raise: to Django, a driver's error."""


class _Types(type(psycopg.adapters.types)):  # type: ignore[misc]
    """The types that a connection knows, and whether a holder changed them."""

    changed = False

    def clear(self) -> None:
        self.changed = True
        super().clear()

    def add(self, info: Any) -> None:
        self.changed = True
        super().add(info)


class Adapters(AdaptersMap):
    """The adapters of a connection, and whether a holder registered another one."""

    changed = False

    def __init__(self, template: AdaptersMap) -> None:
        super().__init__(template)
        self.types = _Types(template.types)

    def register_dumper(self, cls: Any, dumper: Any) -> None:
        """Register a dumper as psycopg does."""
        self.changed = True
        super().register_dumper(cls, dumper)

    def register_loader(self, oid: Any, loader: Any) -> None:
        """Register a loader as psycopg does."""
        self.changed = True
        super().register_loader(oid, loader)


# psycopg's class comes first: only so can an object of it take this class.
class TrackedConnection(Connection[Any], Tracked):
    """A psycopg connection that remembers whether its session was changed.

    ``waits``: something executes, or an iterator that wasn't finished keeps the lock.
    psycopg's ``close()`` doesn't take the lock, and would close the socket meanwhile.
    """

    library_close = staticmethod(Connection.close)
    errors_of_holds = MappingProxyType(
        {HoldTooLong: _HoldTooLong, HoldCancelled: _HoldCancelled}
    )

    #: psycopg 3.1 keeps no notifications.
    _notifies_backlog: Any = None

    def begin_tracking(self) -> None:
        """Begin with a session in which nothing was opened."""
        Tracked.begin_tracking(self)
        self.canceller = Canceller(self)
        # psycopg's mark of a connection that a pool closes: it warns of others.
        self._pool = None
        self.track_adapters(self.adapters)

    def track_adapters(self, template: AdaptersMap) -> None:
        """Give the connection the adapters of a template."""
        self._adapters = Adapters(template)

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """Whether something executes or keeps the connection's lock."""
        return self.lock.locked()

    def get_transaction_status(self) -> int:
        """Return libpq's status of the transaction; no round trip."""
        return self.pgconn.transaction_status

    def get_parameter_status(self, name: str) -> str | None:
        """Return what the server last reported of a setting; no round trip."""
        value = self.pgconn.parameter_status(name.encode())
        return None if value is None else value.decode()

    def read_unasked(self) -> bool:
        """Read what the server said to an idle connection; return whether a notice."""
        notices: list[object] = []
        pgconn = self.pgconn
        handler, pgconn.notice_handler = pgconn.notice_handler, notices.append
        try:
            pgconn.consume_input()
            while pgconn.notifies():
                pass
        finally:
            pgconn.notice_handler = handler
        return bool(notices)

    # Every statement comes here: an empty ** costs more than the question whether it is
    # empty, and super() more than the name.
    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server, and note its error: see ``note_error``."""
        try:
            if args or kwargs:
                return Connection.wait(self, gen, *args, **kwargs)
            return Connection.wait(self, gen)
        except psycopg.Error as error:
            self.note_error(error)
            raise

    def note_error(self, error: Any) -> None:
        """Find out what an error says of the server, and of prepared statements.

        Has psycopg drop and forget those that may fail again.
        """
        super().note_error(error)
        if error.diag.sqlstate in _STALE_STATEMENT:
            self._prepared.clear()

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Make a transaction; roll it back if the holder lost the connection."""
        with super().transaction(*args, **kwargs) as transaction:
            yield transaction
            self.refuse_if_aborted()

    def commit(self) -> None:
        """Commit, unless the holder has lost the connection: see ``aborted``."""
        self.refuse_if_aborted()
        super().commit()

    def tpc_prepare(self) -> None:
        """Prepare a two-phase transaction, unless the holder lost the connection."""
        self.refuse_if_aborted()
        super().tpc_prepare()

    def tpc_commit(self, *args: Any) -> None:
        """Commit a two-phase transaction, unless the holder lost the connection."""
        self.refuse_if_aborted()
        super().tpc_commit(*args)


@lru_cache(maxsize=256)
def _tracked(base: Any) -> Any:
    """Return a connection class with tracking mixed in.

    ``TrackedConnection`` comes after ``base``, so that it gets what ``base`` makes of a
    call.
    """
    if issubclass(TrackedConnection, base):
        return TrackedConnection
    names = {"__module__": base.__module__}
    return type(base.__name__, (base, TrackedConnection), names)


def track(connection: Any) -> bool:
    """Have a connection remember whether its session was changed; tell if it does.

    Called by the thread that opened it, while nothing runs on it.
    """
    own = unwrapped(connection)
    kind: Any = type(own)
    if issubclass(kind, TrackedConnection):
        return True
    if not issubclass(kind, Connection):
        return False
    try:
        own.__class__ = _tracked(kind)
    except TypeError:  # its objects are laid out in another way
        return False
    own.begin_tracking()
    return True
