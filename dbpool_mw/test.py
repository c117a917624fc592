"""Assertions on the pools, for a project's own tests, whichever runner runs them.

They count what requests, blocks of ``pooled()`` and, with an ENGINE of this package,
threads check out. They raise RuntimeError where they would pass whatever the code does:
in a TestCase, for example, everything runs on the one connection of the test's
transaction, and nothing is ever checked out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, overload

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import registry, testing
from dbpool_mw.binding.binding import KEY, Binding, can_bind, thread_state, unbind
from dbpool_mw.binding.requests import end_request
from dbpool_mw.core.pool import ConnectionPool
from dbpool_mw.core.report import holder_text

__all__ = ["PoolAssertions", "assert_checkouts", "assert_none_in_use"]

#: Seconds between two looks at a pool that has connections in use.
_PAUSE = 0.01


class assert_checkouts:
    """Assert that a block makes ``count`` checkouts of the alias ``using``.

    Write ``with assert_checkouts(2):``, or ``async with`` in a coroutine; one object
    serves one block at a time. Checkouts of every thread count. The block begins
    without a connection: that of the running thread is closed first, except inside a
    request or a block of ``pooled()``.

    The end of a block that raised nothing raises AssertionError if the count differs,
    and RuntimeError if the pool's settings changed. The beginning raises RuntimeError
    where nothing is ever checked out, and ConnectionDoesNotExist for an unknown alias.
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
        wrapper: Any = connections[self.using]
        binding = _binding_of(wrapper)
        if binding is None or binding.request is None:
            # The count must not depend on earlier tests, which may have bound the
            # wrapper or have had this process serve.
            wrapper.close()
            if binding is not None:
                unbind(wrapper, binding)
            registry.note_serving()
        self._pools = _pools(self.using)
        self._before = _checkouts(self._pools)

    def _end(self) -> None:
        pools = _pools(self.using)
        if not set(self._pools) <= set(pools):
            raise RuntimeError(
                f"The pool of {self.using!r} began anew in this block: change its "
                "settings outside of it."
            )
        made = _checkouts(pools) - self._before
        if made == self.count:
            return
        text = f"{self.using!r}: {made} checkouts, {self.count} expected."
        in_use = _in_use(self.using)
        if in_use:
            text += f" Now {in_use}."
        wrapper: Any = connections[self.using]
        binding = _binding_of(wrapper)
        holds = binding is not None and binding.held
        if wrapper.connection is not None and not holds:
            text += (
                " This thread has a connection of Django's own, from a query outside "
                "of requests and of pooled(). A request uses the one that it finds: "
                "make such queries before this block."
            )
        raise AssertionError(text)


@async_unsafe("Write `await sync_to_async(assert_none_in_use)()` in a coroutine.")
def assert_none_in_use(using: str | None = None, within: float = 1.0) -> None:
    """Assert that no connection of an alias is in use, or of any alias with None.

    Waits up to ``within`` seconds: a server's thread returns its connection a moment
    after the client has read the response. What the running thread holds outside of
    requests and blocks of ``pooled()`` belongs to the test and doesn't count.

    Raises AssertionError, which names the holders; RuntimeError where nothing is ever
    checked out; ConnectionDoesNotExist for an unknown alias.
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
        """Assert how many checkouts a block, or the call of a function, makes.

        See ``assert_checkouts``.
        """
        block = assert_checkouts(num, using=using)
        if func is None:
            return block
        with block:
            func(*args, **kwargs)
        return None

    def assertNoneInUse(self, using: str | None = None, within: float = 1.0) -> None:
        """Assert that no connection is in use; see ``assert_none_in_use``."""
        assert_none_in_use(using, within)


_FORBIDDEN = (
    "This test may not use %s, so nothing is ever checked out here. Use a "
    "TransactionTestCase with that alias in `databases`, or pytest-django's "
    "transactional_db."
)


def _end_async_request() -> None:
    """End the request of Django's AsyncClient that this thread served, if it did.

    Unlike a server, AsyncClient sends ``request_finished`` in another thread, where the
    receiver finds nothing to return.
    """
    bindings = thread_state.bindings.values()
    if any(isinstance(binding.request, ASGIRequest) for binding in bindings):
        end_request()


def _binding_of(wrapper: Any) -> Binding | None:
    binding: Binding | None = vars(wrapper).get(KEY)
    return binding


def _may_use(alias: str) -> bool:
    """Tell whether the running test may use an alias.

    Raises RuntimeError where it may, but nothing is ever checked out: the alias has no
    pool, or this thread is in a transaction.
    """
    wrapper: Any = connections[alias]
    if alias not in conf.pooled_aliases():
        raise RuntimeError(
            f"{alias!r} has no pool: its ENGINE, DBPOOL_MW_POOLS or DBPOOL_MW_ENABLED "
            "says so."
        )
    if testing.is_blocked_by_pytest_django() or not can_bind(wrapper):
        return False
    binding = _binding_of(wrapper)
    in_request = binding is not None and binding.request is not None
    if not in_request and testing.in_open_transaction(wrapper):
        raise RuntimeError(
            f"{alias!r} is in a transaction, as it always is in a TestCase: everything "
            "runs on that one connection and nothing is ever checked out. Use a "
            "TransactionTestCase, or pytest-django's transactional_db, and assert "
            "outside of atomic()."
        )
    return True


def _pools(alias: str) -> list[ConnectionPool]:
    return [pool for pool in registry.pools() if pool.name == alias]


def _checkouts(pools: list[ConnectionPool]) -> int:
    return sum(int(pool.stats()["checkouts"]) for pool in pools)


def _in_use(alias: str) -> str:
    """Return a text on the connections in use and their holders; "" if none is in use.

    What this thread holds outside of requests and of ``pooled()`` is left out.
    """
    binding = _binding_of(connections[alias])
    own = binding if binding is not None and binding.request is None else None
    count, holders = 0, []
    for pool in _pools(alias):
        stats = pool.stats()
        count += stats["in_use"] + stats["connecting"]
        holders += pool.holders(except_for=own)
    if own is not None:
        count -= len(own.held)
    if count <= 0:
        return ""
    parts = [holder_text(holder) for holder in holders]
    if count > len(parts):
        parts.append(f"{count - len(parts)} being opened or given back")
    return f"{alias!r} has {count} in use: {', '.join(parts)}"
