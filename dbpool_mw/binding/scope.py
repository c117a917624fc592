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
from dbpool_mw.binding import cancelling, registry
from dbpool_mw.binding.binding import (
    KEY,
    Binding,
    ScopeLabel,
    bind,
    give_back,
    unbind,
)
from dbpool_mw.binding.testing import in_open_transaction

_F = TypeVar("_F", bound=Callable[..., Any])

#: What is raised in a coroutine whose task is cancelled, or that is closed.
_CANCELLED = (asyncio.CancelledError, GeneratorExit)


class Scope:
    """One piece of work on pooled connections, such as a task or a block.

    ``aliases`` are those to pool, by default all that have a pool. ``method`` and
    ``path`` name the holder in reports. Call ``begin()`` and ``end()`` in the thread or
    greenlet that does the work.

    Each alias checks a connection out at its first query and returns it when the
    outermost scope ends. Inside a request or an atomic block, a scope changes nothing:
    the connection belongs to the request or the block. An alias without a pool keeps
    Django's own connections.
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
        self._begun: list[tuple[Any, Binding]] = []
        self.has_ended = False
        #: What a task worked on before it began this scope; see ``_begin_async``.
        self.work_before: Any = None

    def begin(self) -> None:
        """Bind this thread's wrappers to the pools; nothing is checked out yet.

        Raises ConnectionDoesNotExist for an alias that DATABASES doesn't have, and
        ImproperlyConfigured when the settings are wrong. ``end()`` is to be called even
        if an exception comes.
        """
        pooled_aliases = conf.pooled_aliases()
        wrappers = [
            connections[alias]
            for alias in self.aliases or pooled_aliases
            # One may have left DATABASES meanwhile.
            if self.aliases or alias in connections.settings
        ]
        registry.note_serving()
        for wrapper in wrappers:
            if wrapper.alias in pooled_aliases:
                self._begin(wrapper)

    def _begin(self, wrapper: Any) -> None:
        was_bound = KEY in vars(wrapper)
        if not was_bound and in_open_transaction(wrapper):
            return
        binding = bind(wrapper, stays_bound=False)
        if binding is None:
            return
        if not binding.in_scope():
            if binding.in_request() or in_open_transaction(wrapper):
                return
            # As at the start of a request: the work begins in a session of its own.
            wrapper.close()
            binding.request = ScopeLabel(self.method, self.path)
        self._begun.append((wrapper, binding))
        binding.scopes.add(self)

    def end(self) -> None:
        """Return the connections if this is the outermost scope.

        A second call does nothing. Each alias is ended even if another one raises.
        """
        self.has_ended = True
        cancelling.forget(self)
        with contextlib.ExitStack() as stack:
            while self._begun:
                stack.callback(self._end, *self._begun.pop(0))

    def _end(self, wrapper: Any, binding: Binding) -> None:
        binding.scopes.discard(self)
        if not binding.in_scope():
            _end_outermost(wrapper, binding)


def _end_outermost(wrapper: Any, binding: Binding) -> None:
    try:
        if binding.held:
            give_back(binding)
        # Only now: before, it says that nobody else is to return what is held.
        binding.forget_work()
    finally:
        if not binding.stays_bound and not binding.held:
            unbind(wrapper, binding)


class Pooled:
    """What ``pooled()`` returns: a context manager, sync and async, and a decorator.

    A context manager serves one block at a time. A decorated function may run in any
    number of threads and tasks at once.
    """

    def __init__(self, aliases: tuple[str, ...]) -> None:
        self._aliases = aliases
        self._scope: Scope | None = None

    def __call__(self, function: _F) -> _F:
        """Decorate a function or a coroutine function: each call is a scope."""
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
                except _CANCELLED:
                    cancelling.cancel_waits(scope)
                    raise
                finally:
                    await _end_async(scope)

        else:

            @wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                scope = Scope(self._aliases, path=path)
                try:
                    # In here, because an exception may come right after it.
                    _begin_sync(scope)
                    return function(*args, **kwargs)
                finally:
                    scope.end()

        return cast(_F, wrapped)

    def __enter__(self) -> None:
        scope = self._new_scope()
        _begin_sync(scope)
        self._scope = scope

    def __exit__(self, *_: object) -> None:
        self._pop_scope().end()

    async def __aenter__(self) -> None:
        scope = self._new_scope()
        await _begin_async(scope)
        self._scope = scope

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        scope = self._pop_scope()
        if kind is not None and issubclass(kind, _CANCELLED):
            cancelling.cancel_waits(scope)
        await _end_async(scope)

    def _new_scope(self) -> Scope:
        if self._scope is not None:
            raise RuntimeError("this block has begun already: write pooled() anew")
        return Scope(self._aliases)

    def _pop_scope(self) -> Scope:
        scope, self._scope = self._scope, None
        assert scope is not None
        return scope


@overload
def pooled(function: _F, /) -> _F: ...
@overload
def pooled(*aliases: str) -> Pooled: ...
def pooled(*arguments: Any) -> Any:
    """Run a block or a function on pooled connections, and return them at its end.

    ``with pooled():`` is for every alias that has a pool, ``with pooled("replica"):``
    for the aliases named; ``async with`` likewise. ``@pooled`` and
    ``@pooled("replica")`` decorate functions and coroutine functions.

    Each alias checks a connection out at the block's first query. If the pool has none,
    that query raises django.db.OperationalError, whose ``__cause__`` is the pool's
    error. Nested blocks share one connection. Inside a request or an atomic block,
    ``pooled()`` does nothing.

    Raises ConnectionDoesNotExist for an alias that DATABASES doesn't have, and
    SynchronousOnlyOperation for ``with`` in a coroutine: Django's async queries run in
    another thread than the coroutine's.
    """
    if len(arguments) == 1 and not isinstance(arguments[0], str):
        return Pooled(())(arguments[0])
    return Pooled(arguments)


@async_unsafe("Write `async with pooled():` in a coroutine.")
def _begin_sync(scope: Scope) -> None:
    try:
        scope.begin()
    except BaseException:
        scope.end()
        raise


async def _begin_async(scope: Scope) -> None:
    """Begin a scope in the thread that runs Django's async queries for this task."""
    try:
        await in_thread(scope.begin)
    except asyncio.CancelledError:
        await in_thread(scope.end)
        raise
    scope.work_before = cancelling.current_work.get()
    cancelling.current_work.set(scope)


async def _end_async(scope: Scope) -> None:
    """End a scope of a task, in the thread in which it began."""
    cancelling.current_work.set(scope.work_before)
    await in_thread(scope.end)


async def in_thread(function: Callable[[], None]) -> None:
    """Run a function in the thread that runs Django's async queries for this task.

    It runs to its end even if the task is cancelled meanwhile; CancelledError is raised
    then. ``sync_to_async`` alone, when it is cancelled, may not run its function.
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
