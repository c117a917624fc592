"""Give connections back before their request or block ends.

For when no query is likely for long: while a response streams, or around a slow call of
something else. Given back is only what is clean, or has ended. A session that was
changed, with an open transaction or an open named cursor, stays with its holder: the
settings, locks, tables and rows in it would be gone otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import connections
from django.db.transaction import TransactionManagementError
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding.binding import Binding, give_back, thread_state
from dbpool_mw.binding.scope import in_thread


def release_request(request: Any) -> None:
    """Give back the clean connections that this thread holds for a request."""
    for binding in thread_state.bindings.values():
        if binding.owner is request:
            _release(binding)


def _release(binding: Binding) -> None:
    for pool, entry, _ in tuple(binding.held):
        if pool.is_clean(entry) or pool.has_ended(entry):
            give_back(binding)


def _release_all(aliases: tuple[str, ...]) -> None:
    """Give back this thread's clean connections; refuse it in ``atomic()``."""
    pooled = conf.pooled_aliases()
    named = [connections[alias] for alias in aliases]
    wrapper: Any
    for wrapper in named or connections.all(initialized_only=True):
        # A TestCase runs each test in atomic(): there nothing is given back, as
        # nothing is checked out.
        if wrapper.alias in pooled and any(
            not block._from_testcase for block in wrapper.atomic_blocks
        ):
            raise TransactionManagementError(
                f"released() was called inside atomic() of {wrapper.alias!r}: the "
                "transaction needs its connection to the end. Make the slow call "
                "before or after the atomic block."
            )
    for alias, binding in thread_state.bindings.items():
        if not aliases or alias in aliases:
            _release(binding)


class Released:
    """What ``released()`` returns: a context manager, sync and async."""

    def __init__(self, aliases: tuple[str, ...]) -> None:
        self._aliases = aliases

    @async_unsafe("Write `async with released():` in a coroutine.")
    def __enter__(self) -> None:
        _release_all(self._aliases)

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> None:
        await in_thread(partial(_release_all, self._aliases))

    async def __aexit__(self, *_: object) -> None:
        pass


def released(*aliases: str) -> Released:
    """Give this thread's connections back to their pools for a slow call.

    ``with released():`` is for every alias, ``with released("default"):`` for those
    named; ``async with`` likewise. A query in the block, or after it, checks a
    connection out again, and may have to wait for it. A connection stays where it is if
    its session was changed, with an open named cursor, or in a transaction.

    Raises TransactionManagementError inside ``atomic()``, ConnectionDoesNotExist for an
    alias that DATABASES doesn't have, and SynchronousOnlyOperation for ``with`` in a
    coroutine. In a ``TestCase``, without a pool, and outside of requests and blocks it
    does nothing.
    """
    return Released(aliases)
