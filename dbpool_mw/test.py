"""Assertions on the pools, for a project's own tests, whichever runner runs them.

They count what requests, blocks of ``pooled()`` and, with an ENGINE of ours, threads
check out. Inside a TestCase nothing is ever checked out, because all runs on the one
connection of the test's transaction; there they raise RuntimeError, as they do wherever
they would pass for any code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, overload

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import binding, registry
from dbpool_mw.core.pool import ConnectionPool, holder_text
from dbpool_mw.drivers.psycopg2 import driver

__all__ = ["PoolAssertions", "assert_checkouts", "assert_none_in_use"]

#: Seconds between two looks at a pool that is still in use.
_PAUSE = 0.01


class assert_checkouts:
    """Assert that a block checks connections of one alias out so many times.

    ``with assert_checkouts(2):``, and ``async with`` in a coroutine; for one block at a
    time. Checkouts of every thread count. The block begins without a connection: what
    the running thread has open is closed first, unless it is in the middle of a request
    or of a block of ``pooled()``.

    Raises AssertionError at the end of a block that raised nothing; RuntimeError at its
    beginning, where nothing would be checked out whatever the block does, or when the
    pool's settings changed in it; ConnectionDoesNotExist for an unknown alias.
    """

    def __init__(self, count: int, using: str = DEFAULT_DB_ALIAS) -> None:
        self.count = count
        self.using = using

    @async_unsafe("Write `async with assert_checkouts(...)` in a coroutine.")
    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._end()

    async def __aenter__(self) -> None:
        await sync_to_async(self._begin)()

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await sync_to_async(self._end)()

    def _begin(self) -> None:
        _end_async_request()
        if not _may_use(self.using):
            raise RuntimeError(_FORBIDDEN % self.using)
        own: Any = connections[self.using]
        attachment = vars(own).get(binding.KEY)
        if attachment is None or attachment.request is None:
            # An earlier test may have put the wrapper on the pool, or have had this
            # process serve: the count is not to depend on either.
            own.close()
            if attachment is not None:
                binding.uninstall(own, attachment)
            registry.serve()
        self._pool = _pool(self.using)
        self._before = _checkouts(self._pool)

    def _end(self) -> None:
        pool = _pool(self.using)
        if self._pool not in (None, pool):
            raise RuntimeError(
                f"The pool of {self.using!r} began anew in this block: change its "
                "settings outside of it."
            )
        made = _checkouts(pool) - self._before
        if made == self.count:
            return
        text = f"{self.using!r}: {made} checkouts, {self.count} expected."
        in_use = _in_use(self.using)
        if in_use:
            text += f" Now {in_use}."
        own: Any = connections[self.using]
        attachment = vars(own).get(binding.KEY)
        if own.connection is not None and not (attachment and attachment.held):
            text += (
                " This thread has a connection of Django's own, from a query outside "
                "of requests and of pooled(). A request uses the one that it finds: "
                "make such queries before this block."
            )
        raise AssertionError(text)


@async_unsafe("Write `await sync_to_async(assert_none_in_use)()` in a coroutine.")
def assert_none_in_use(using: str | None = None, within: float = 1.0) -> None:
    """Assert that all connections of an alias are given back, or of every alias.

    A server's thread gives back a moment after its client has read the response: it has
    ``within`` seconds. What the running thread holds outside of requests and blocks of
    ``pooled()`` is the test's own and doesn't count.

    Raises AssertionError that names who holds what; RuntimeError where nothing would be
    checked out whatever the test does; ConnectionDoesNotExist for an unknown alias.
    """
    _end_async_request()
    chosen = conf.pooled_aliases() if using is None else (using,)
    if not chosen:
        raise RuntimeError("No alias of DATABASES has a pool.")
    if [alias for alias in chosen if _may_use(alias)] == []:
        raise RuntimeError(_FORBIDDEN % ", ".join(chosen))
    deadline = time.monotonic() + within
    while True:
        busy = [text for text in map(_in_use, chosen) if text]
        if not busy:
            return
        if time.monotonic() >= deadline:
            raise AssertionError(f"After {within:g} s {'; '.join(busy)}.")
        time.sleep(_PAUSE)


class PoolAssertions:
    """The assertions as methods, for a class of Django's TransactionTestCase or below.

    In the style of Django's ``assertNumQueries``.
    """

    @overload
    def assertCheckouts(
        self, num: int, func: None = None, *, using: str = DEFAULT_DB_ALIAS
    ) -> assert_checkouts: ...
    @overload
    def assertCheckouts(
        self,
        num: int,
        func: Callable[..., object],
        *args: Any,
        using: str = DEFAULT_DB_ALIAS,
        **kwargs: Any,
    ) -> None: ...
    def assertCheckouts(
        self,
        num: int,
        func: Callable[..., object] | None = None,
        *args: Any,
        using: str = DEFAULT_DB_ALIAS,
        **kwargs: Any,
    ) -> assert_checkouts | None:
        """Assert how often a block, or the call of a function, checks out.

        See ``assert_checkouts``.
        """
        block = assert_checkouts(num, using=using)
        if func is None:
            return block
        with block:
            func(*args, **kwargs)
        return None

    def assertNoneInUse(self, using: str | None = None, within: float = 1.0) -> None:
        """Assert that all connections are given back; see ``assert_none_in_use``."""
        assert_none_in_use(using, within)


_FORBIDDEN = (
    "This test may not use %s, so nothing is ever checked out here. Use a "
    "TransactionTestCase with that alias in `databases`, or pytest-django's "
    "transactional_db."
)


def _end_async_request() -> None:
    """Give back what a request of Django's AsyncClient left on this thread's wrappers.

    Unlike a server, that client sends ``request_finished`` in another thread.
    """
    mine = binding.here.attachments.values()
    if any(isinstance(each.request, ASGIRequest) for each in mine):
        binding.finish()


def _may_use(alias: str) -> bool:
    """Tell whether the test may use an alias at all.

    Raises RuntimeError where it may, and its requests would still check nothing out.
    """
    own: Any = connections[alias]
    if alias not in conf.pooled_aliases():
        raise RuntimeError(
            f"{alias!r} has no pool: its ENGINE, DBPOOL_MW_POOLS or DBPOOL_MW_ENABLED "
            "says so."
        )
    replaced = BaseDatabaseWrapper.ensure_connection.__module__
    if replaced.partition(".")[0] == "pytest_django":
        return False
    made_here = binding.KEY not in vars(own)
    attachment = binding.adopt(own)
    if attachment is None:
        return False  # by Django's SimpleTestCase
    if made_here:
        binding.uninstall(own, attachment)
    if attachment.request is None and (
        own.in_atomic_block
        or (
            own.connection is not None
            and own.autocommit != own.settings_dict["AUTOCOMMIT"]
        )
    ):
        raise RuntimeError(
            f"{alias!r} is in a transaction, as it always is in a TestCase: everything "
            "runs on that one connection and nothing is ever checked out. Use a "
            "TransactionTestCase, or pytest-django's transactional_db, and assert "
            "outside of atomic()."
        )
    return True


def _pool(alias: str) -> ConnectionPool | None:
    return registry.pool(alias, connections[alias].settings_dict["NAME"])


def _checkouts(pool: ConnectionPool | None) -> int:
    return 0 if pool is None else int(pool.stats()["checkouts"])


def _in_use(alias: str) -> str:
    """Say how many of an alias are in use and who holds what; nothing if none is.

    What this thread holds outside of requests and of ``pooled()`` is left out.
    """
    pool = _pool(alias)
    if pool is None:
        return ""
    stats, holders = pool.stats(), pool.holders()
    count = stats["in_use"] + stats["connecting"]
    attachment = vars(connections[alias]).get(binding.KEY)
    if attachment is not None and attachment.request is None:
        for _, entry in attachment.held:
            own = driver.backend_pid(entry.connection)
            holders = [each for each in holders if each["backend_pid"] != own]
            count -= 1
    if count <= 0:
        return ""
    parts = [holder_text(each) for each in holders]
    if count > len(parts):
        parts.append(f"{count - len(parts)} being opened or given back")
    return f"{alias!r} has {count} in use: {', '.join(parts)}"
