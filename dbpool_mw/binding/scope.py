"""Pooled connections for code outside of requests: tasks, threads, commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import (
    isasyncgenfunction,
    isclass,
    iscoroutinefunction,
    isgeneratorfunction,
)
from typing import Any, TypeVar, cast, overload

from asgiref.sync import sync_to_async
from django.db import connections
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import binding, registry

_F = TypeVar("_F", bound=Callable[..., Any])


class Scope:
    """One piece of work on pooled connections, from its beginning to its end.

    It is for these aliases, or for all that have a pool. ``method`` and ``path`` are
    what reports say of the holder. ``begin`` and ``end`` are called in the thread, or
    the greenlet, that does the work.

    Each alias checks a connection out at its first query and gives it back when the
    outermost scope ends. A scope inside of a request, or of an atomic block, leaves
    all as it is: somebody else gives back there. An alias without a pool is Django's.
    """

    def __init__(
        self,
        aliases: Iterable[str] = (),
        *,
        method: str = "pooled",
        path: str | None = None,
    ) -> None:
        self.aliases = tuple(aliases)
        self.method = method
        self.path = path
        self._begun: list[tuple[Any, binding.Attachment]] = []

    def begin(self) -> None:
        """Have this thread's wrappers use the pools.

        Raises ConnectionDoesNotExist for an alias that isn't one, ImproperlyConfigured
        when the settings are wrong. No connection is checked out yet.
        """
        pooled_aliases = conf.pooled_aliases()
        chosen = [connections[alias] for alias in self.aliases or pooled_aliases]
        registry.serve()
        for each in chosen:
            if each.alias in pooled_aliases:
                self._begin(each)

    def _begin(self, own: Any) -> None:
        made_here = binding.KEY not in vars(own)
        attachment = binding.adopt(own)
        if attachment is None:
            return
        if made_here:
            attachment.stays = False
        if not attachment.scopes:
            if attachment.request is not None:
                return
            if own.connection is not None and (
                own.in_atomic_block or own.autocommit != own.settings_dict["AUTOCOMMIT"]
            ):
                # In the middle of somebody's transaction, maybe a test's.
                if made_here:
                    binding.uninstall(own, attachment)
                return
            # As at the start of a request: what was left open is none of the work's.
            own.close()
            attachment.request = self
        attachment.scopes += 1
        self._begun.append((own, attachment))

    def end(self) -> None:
        """Give back, if this was the outermost scope; a second call does nothing."""
        with contextlib.ExitStack() as stack:
            while self._begun:
                stack.callback(_end, *self._begun.pop(0))


def _end(own: Any, attachment: binding.Attachment) -> None:
    attachment.scopes -= 1
    if attachment.scopes:
        return
    attachment.request = None
    try:
        if attachment.held:
            binding.give_back(attachment)
    finally:
        if not attachment.stays and not attachment.held:
            binding.uninstall(own, attachment)


class Pooled:
    """What ``pooled()`` gives: a context manager, sync and async, and a decorator.

    As a context manager it is for one block at a time; a decorated function may run in
    any number of threads and tasks at once.
    """

    def __init__(self, aliases: tuple[str, ...]) -> None:
        self._aliases = aliases
        self._scope: Scope | None = None

    def __call__(self, function: _F) -> _F:
        """Have each call of a function, or of a coroutine function, run pooled."""
        if isclass(function) or not callable(function):
            raise TypeError(f"pooled decorates functions, not {function!r}")
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(
                f"pooled can't decorate {function.__qualname__}: the call of a "
                "generator function ends before its first item. Write `with pooled():` "
                "inside of it."
            )
        name = getattr(function, "__qualname__", repr(function))
        path = f"{function.__module__}.{name}"

        if iscoroutinefunction(function):

            @wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                scope = Scope(self._aliases, path=path)
                await _begin_async(scope)
                try:
                    return await function(*args, **kwargs)
                finally:
                    await _in_thread(scope.end)

        else:

            @wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                scope = Scope(self._aliases, path=path)
                _begin_sync(scope)
                try:
                    return function(*args, **kwargs)
                finally:
                    scope.end()

        return cast(_F, wrapped)

    def __enter__(self) -> None:
        scope = self._new_scope()
        _begin_sync(scope)
        self._scope = scope

    def __exit__(self, *_: object) -> None:
        self._taken_scope().end()

    async def __aenter__(self) -> None:
        scope = self._new_scope()
        await _begin_async(scope)
        self._scope = scope

    async def __aexit__(self, *_: object) -> None:
        await _in_thread(self._taken_scope().end)

    def _new_scope(self) -> Scope:
        if self._scope is not None:
            raise RuntimeError("this block has begun already: write pooled() anew")
        return Scope(self._aliases)

    def _taken_scope(self) -> Scope:
        scope, self._scope = self._scope, None
        assert scope is not None
        return scope


@overload
def pooled(function: _F, /) -> _F: ...
@overload
def pooled(*aliases: str) -> Pooled: ...
def pooled(*arguments: Any) -> Any:
    """Run a block or a function on pooled connections, which go back at its end.

    ``with pooled():`` is for every alias that has a pool, ``with pooled("replica"):``
    for those named; ``async with`` likewise. ``@pooled`` and ``@pooled("replica")``
    decorate functions and coroutine functions.

    Each alias checks a connection out at the block's first query: what that raises when
    there is none is django.db.OperationalError, and its ``__cause__`` is the pool's
    error. Blocks inside of one another hold one connection. Inside a request, or inside
    of an atomic block, it does nothing.

    Raises ConnectionDoesNotExist for an alias that DATABASES doesn't have, and
    SynchronousOnlyOperation for ``with`` in a coroutine, where it would be the wrong
    thread: Django's async queries run in another one.
    """
    if len(arguments) == 1 and not isinstance(arguments[0], str):
        return Pooled(())(arguments[0])
    return Pooled(arguments)


@async_unsafe("Write `async with pooled():` in a coroutine.")
def _begin_sync(scope: Scope) -> None:
    scope.begin()


async def _begin_async(scope: Scope) -> None:
    """Begin a scope in the thread that Django's async queries use here."""
    try:
        await _in_thread(scope.begin)
    except asyncio.CancelledError:
        await _in_thread(scope.end)
        raise


async def _in_thread(function: Callable[[], None]) -> None:
    """Run a function there to its end, even if this task is cancelled meanwhile.

    A cancelled ``sync_to_async`` may leave its function unrun.
    """
    running = asyncio.ensure_future(sync_to_async(function)())
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    running.result()
    if cancelled is not None:
        raise cancelled
