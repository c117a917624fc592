"""Bind Django's database wrappers to pools.

A bound wrapper has two methods of this module in its ``__dict__``: ``connect``, which
checks a connection out instead of opening one, and ``_close``, which checks it in
instead of closing it. Everything else is Django's. So ``ensure_connection()``,
``close()``, ``close_old_connections()``, ``atomic()`` and whatever an ENGINE adds to
them work as without a pool. A connection that is closed in the middle of a request
returns to the pool, and the next query checks one out again.

Two methods on the instance and no class of this package's, because
``connection_created`` is sent with the wrapper's class, and because third-party ENGINEs
are to stay what they are.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe
from django.utils.connection import ConnectionDoesNotExist

from dbpool_mw import conf
from dbpool_mw.binding import cancelling, connecting, recording, registry, testing
from dbpool_mw.binding.errors import for_django
from dbpool_mw.binding.failover import Failover
from dbpool_mw.binding.parameters import Parameters, as_settings, copied, read
from dbpool_mw.core import platform
from dbpool_mw.core.entry import Holder, PoolEntry
from dbpool_mw.core.errors import ConnectFailed, PoolClosed, PoolError, PoolTimeout
from dbpool_mw.core.pool import ConnectionPool

#: The attribute of a bound wrapper that holds its binding.
KEY = "_dbpool_mw"

_DJANGO_CLOSE = BaseDatabaseWrapper.close


class ScopeLabel(NamedTuple):
    """What reports say of a scope. It keeps no scope alive that nobody has."""

    method: str
    path: str | None


def is_answered(request: Any) -> bool:
    """Tell whether the middleware has the response to a request; in any thread."""
    return hasattr(request, "_dbpool_mw_answered")


def number_of(request: Any) -> Any:
    """Return the number that a request was answered under, None if it has none."""
    return getattr(request, "_dbpool_mw_answered", None)


def _route_of(work: Any) -> str | None:
    """Return what a request or a scope is called; None for a request without a route.

    A request has none before Django has looked for its view. The route of the root is
    empty: its view's name stands for it. A scope is called by its task or function.
    """
    if isinstance(work, ScopeLabel):
        return work.path or work.method
    match = getattr(work, "resolver_match", None)
    if match is None:
        return None
    route = getattr(match, "route", None) or getattr(match, "view_name", None)
    return None if route is None else str(route)


class Binding:
    """Binds one wrapper to the pool of its alias, where it is the holder.

    ``held`` has at most one element, whose last part is the time of the checkout. It is
    a list because ``pop`` is atomic: when two threads return the same connection, one
    of them finds the list empty.
    """

    __slots__ = (
        "__weakref__",
        "alias",
        "connect",
        "connect_error",
        "engine_close",
        "held",
        "inside",
        "is_engines",
        "parameters",
        "pool",
        "pools",
        "request",
        "scopes",
        "stays_bound",
        "thread",
        "thread_id",
        "wrapper",
    )

    def __init__(self, wrapper: BaseDatabaseWrapper, stays_bound: bool) -> None:
        self.alias: str = wrapper.alias
        engine_close = type(wrapper)._close  # type: ignore[attr-defined]
        is_djangos = engine_close.__module__.startswith("django.db.backends.")
        #: ``_close`` of the ENGINE, None where the ENGINE inherits Django's.
        self.engine_close = None if is_djangos else engine_close
        #: Whether the wrapper is of an ENGINE of this package's, which pools the
        #: connections of all code, not those of requests and scopes alone.
        self.is_engines = bool(getattr(wrapper, "takes_pool_options", False))
        #: What the wrapper has as its ``connect`` while it is bound.
        self.connect = partial(_connect, self)
        self.held: list[tuple[ConnectionPool, PoolEntry, float]] = []
        #: The pool of the last checkout, the pools that it is one of, and what its
        #: connections are opened with; empty where the pool has to be looked up.
        self.pool: ConnectionPool | None = None
        self.pools = registry.current_pools()
        self.parameters: Parameters = ()
        #: The holder in reports: a request, or the ``ScopeLabel`` of the outermost
        #: scope. It has a ``method`` and a ``path``.
        self.request: Any = None
        #: What ``request`` runs inside of, outermost first: requests that this thread
        #: serves, or a scope. The connection is the outermost's.
        self.inside: tuple[Any, ...] = ()
        #: Why the request's checkout at its start could not connect. Its first query
        #: raises this instead of waiting as long again, if nothing has changed.
        self.connect_error: PoolError | None = None
        #: The scopes that have begun. Weak references, because one that nobody has any
        #: more never ends: an exception came before.
        self.scopes: weakref.WeakSet[Any] = weakref.WeakSet()
        #: Whether the wrapper stays bound when the outermost scope ends.
        self.stays_bound = stays_bound
        self.thread = threading.current_thread().name
        self.thread_id = threading.get_ident()
        #: A weak reference. When the wrapper is collected, its connection is reclaimed.
        self.wrapper = weakref.ref(wrapper, self.reclaim)

    def describe(self) -> Mapping[str, Any]:
        """Return who holds the connection, and for what work; in any thread."""
        work = self.work
        return {
            "thread": self.thread,
            "method": getattr(work, "method", None),
            "path": getattr(work, "path", None),
            "route": _route_of(work),
        }

    @property
    def work(self) -> Any:
        """The innermost request or scope that goes on, in any thread."""
        *outer, work = (*self.inside, self.request)
        while outer and is_answered(work):
            work = outer.pop()
        return work

    @property
    def owner(self) -> Any:
        """The outermost request or scope: whose connection it is."""
        return (*self.inside, self.request)[0]

    def forget_work(self) -> None:
        """Note that nothing goes on in this thread."""
        self.inside = ()
        self.request = self.connect_error = None

    def holds(self, entry: PoolEntry) -> bool:
        """Tell whether this binding holds an entry; in any thread."""
        return any(held is entry for _, held, _ in self.held)

    def in_request(self) -> bool:
        """Tell whether a request has begun in this thread and not ended."""
        return not isinstance(self.request, (ScopeLabel, type(None)))

    def in_scope(self) -> bool:
        """Tell whether a scope has begun and not ended."""
        return any(not scope.has_ended for scope in self.scopes)

    def will_return(self) -> bool:
        """Tell whether anybody is to check in what is held; in any thread.

        The request is, a scope, or an atomic block, which may be a TestCase's. Outside
        of them an ENGINE's wrapper keeps its connection until ``close()``. Nobody is
        after a request, and after an exception ended the end of a scope.
        """
        try:
            if self.in_request() or self.in_scope():
                return True
        except RuntimeError:
            return True  # its thread begins or ends a scope just now
        if self.is_engines and self.request is None:
            return True
        wrapper: Any = self.wrapper()
        return wrapper is None or bool(wrapper.in_atomic_block)

    def let_go(self, entry: PoolEntry, since: float) -> bool:
        """Take an entry off the wrapper, from any thread; tell whether it was held.

        ``since`` is when the hold began: the thread may have begun another one.

        The wrapper connects anew at its next query.
        """
        for held in tuple(self.held):
            if held[1] is entry and held[2] == since:
                # First of all: a wrapper that finds nothing held closes what it has.
                wrapper: Any = self.wrapper()
                if wrapper is not None and wrapper.connection is entry.connection:
                    wrapper.connection = None
                with contextlib.suppress(ValueError):
                    self.held.remove(held)
                    return True
        return False

    def holds_another(self) -> bool:
        """Tell whether this thread holds a connection of another alias."""
        bindings = thread_state.bindings.values()
        return any(binding.held for binding in bindings if binding is not self)

    def _held_meanwhile(self, error: PoolError) -> str:
        """Say what this thread held while it waited in vain for another connection.

        Two threads that hold one connection each and wait for the other's end so.
        """
        aliases = [
            repr(binding.alias)
            for binding in thread_state.bindings.values()
            if binding is not self and binding.held
        ]
        if not aliases or not isinstance(error, PoolTimeout):
            return ""
        return f"this thread itself held a connection of {', '.join(aliases)} meanwhile"

    def cancellation(self) -> Callable[[], bool]:
        """Return what tells whether the work that wants a connection was cancelled.

        A request inside of another is for nobody when the outermost was cancelled.
        """
        work = cancelling.current_work.get()
        works = (self.work, self.owner) if work is None else (work,)
        return lambda: any(map(cancelling.is_cancelled, works))

    def pop_held(self) -> tuple[ConnectionPool, PoolEntry, float] | None:
        """Remove and return what is held, None if nothing is; one caller gets it."""
        try:
            return self.held.pop()
        except IndexError:
            return None

    def reclaim(self, *_: object) -> None:
        """Have the pool reclaim what is held: the wrapper or its thread is gone.

        Runs in finalisers, in any thread and at any allocation: see
        ``ConnectionPool.reclaim_soon``.
        """
        held = self.pop_held()
        if held is not None:
            pool, entry = held[:2]
            pool.reclaim_soon(entry)

    def checkout(self, wrapper: Any, eager: bool = False) -> bool:
        """Check a connection out and put it on the wrapper; tell whether it has one.

        It has none where its alias has no pool any more. ``eager`` says that no query
        needs the connection yet: then it has none either in a test run for an alias
        without a test database. Raises what
        ``ConnectionPool.checkout`` raises, a pool's errors as those of
        ``dbpool_mw.binding.errors``, and ImproperlyConfigured.
        """
        if self.held and (held := self.pop_held()) is not None:
            replaced_pool, replaced_entry, _ = held
            replaced_pool.discard(replaced_entry, "taken off its wrapper")
        pool = self.pool
        try:
            # The settings may have been replaced, or changed in place.
            if read(wrapper.settings_dict) != self.parameters or self.pools.are_dropped:
                pool = self._find_pool(wrapper, eager)
            if pool is None:
                return False
            if self.connect_error is not None:
                error, self.connect_error = self.connect_error, None
                if pool.is_unreachable():
                    raise error.with_traceback(None)
            try:
                entry = pool.checkout(self, eager=eager)
            except PoolClosed:
                # It was closed since it was found, perhaps for being unused.
                pool = self._find_pool(wrapper, eager)
                if pool is None:
                    return False
                entry = pool.checkout(self, eager=eager)
        except OperationalError:
            raise  # another pool's, which was used while this one connected
        except PoolError as error:
            made = for_django(error, self._held_meanwhile(error))
            if eager and isinstance(error, ConnectFailed) and not error.may_wait:
                self.connect_error = made
            raise made from error
        self.held.append((pool, entry, entry.checked_out_at))
        recording.apply(wrapper, entry.connection, entry.recorded, entry.checked_out_at)
        return True

    def _find_pool(self, wrapper: Any, eager: bool) -> ConnectionPool | None:
        """Return the pool for a wrapper's settings, and remember it for next time.

        Makes the pool if there is none; None where there is to be none.
        """
        if self.request is not None:
            registry.note_serving()
        wanted = copied(read(wrapper.settings_dict))
        self.parameters = ()
        self.pools = registry.current_pools()
        self.pool = self.pools.find(self.alias, wanted)
        if self.pool is None:
            database = wrapper.settings_dict["NAME"]
            if self.alias not in conf.pooled_aliases() or (
                eager and testing.has_no_test_database(self.alias, database)
            ):
                return None
            self.pool = _make_pool(self.alias, wanted)
        if registry.start_threads():
            self.parameters = wanted
        return self.pool


def _make_pool(alias: str, wanted: Parameters) -> ConnectionPool:
    """Make the pool of an alias whose connections are opened with these parameters."""
    problem = platform.problem()
    if problem is not None:
        raise ImproperlyConfigured(" ".join(problem))
    _check_locals()
    config, driver = conf.config_for(alias), conf.driver_for(alias)
    assert driver is not None, "config_for() has refused the alias"
    failover = Failover()

    def connect(entry: PoolEntry, holder: Holder | None) -> None:
        wrapper, tell = _wrapper_of(holder), failover.before_connect()
        connecting.open_connection(driver, alias, wanted, wrapper, entry, tell)

    def reset(entry: PoolEntry) -> None:
        wrapper = _wrapper_of(entry.holder)
        connecting.reset_session(driver, alias, wanted, wrapper, entry)

    def build(address: str, label: str, state: str) -> ConnectionPool:
        failover.pool = ConnectionPool(
            alias,
            config,
            driver=driver,
            connect=connect,
            reset=reset,
            database=as_settings(wanted)["NAME"],
            address=address,
            label=label,
            state=state,
        )
        return failover.pool

    return registry.make_pool(alias, wanted, build)


def _wrapper_of(holder: Holder | None) -> Any:
    """Return the wrapper of a holder; None for a refill, or if it was collected."""
    return None if holder is None else cast(Binding, holder).wrapper()


# --- The state of a thread -----------------------------------------------------------


_of_all_threads: weakref.WeakValueDictionary[int, _Bindings] = (
    weakref.WeakValueDictionary()
)


def all_bindings() -> list[Binding]:
    """Return the bindings of all threads."""
    living = (reference() for reference in _of_all_threads.valuerefs())
    # Copies: the threads bind and unbind meanwhile.
    return [each for found in living if found for each in tuple(found.values())]


class _Bindings(dict[str, Binding]):
    """The bindings of one thread, by alias.

    Reading it is cheaper than ``connections[alias]``. That relies on a thread that
    serves requests keeping its wrappers, as Django's ``connections`` does. When the
    thread ends, the pools reclaim what it held.
    """

    __slots__ = ("__weakref__",)

    def __init__(self) -> None:
        _of_all_threads[id(self)] = self

    def __del__(self) -> None:
        for binding in self.values():
            binding.reclaim()


class _ThreadState(threading.local):
    """What belongs to the running thread, or greenlet."""

    def __init__(self) -> None:
        #: Alive while wrappers connect without a pool: see ``logs``.
        self.outside_pools: Callable[[], object] = lambda: None
        #: The bindings that were made in this thread.
        self.bindings = _Bindings()
        #: The scopes of the tasks that run in this thread, by the ids of their results.
        self.task_scopes: dict[str, Any] = {}
        #: The request whose 503 is being rendered: its queries get no connection.
        self.refused: Any = None

    @property
    def is_outside_pools(self) -> bool:
        """Tell whether wrappers connect without a pool now."""
        return self.outside_pools() is not None


thread_state = _ThreadState()


def _check_locals() -> None:
    """Raise ImproperlyConfigured if all greenlets of a thread share ``thread_state``.

    That happens when gevent patches Python after this module, or Django's connections,
    were imported: then the greenlets share Django's wrappers too.
    """
    if _ThreadState.__mro__[1] is not threading.local:
        raise ImproperlyConfigured(
            "Python was patched for greenlets after Django was imported, so all of "
            "them would share one database connection. Call monkey.patch_all() first, "
            "before the application is imported; with gunicorn, at the top of its "
            "configuration file, or turn preload_app off."
        )


# --- Bind and unbind -----------------------------------------------------------------


def bind(wrapper: Any, stays_bound: bool = True) -> Binding | None:
    """Bind a wrapper to the pool of its alias, unless it is bound already.

    ``stays_bound`` says whether a wrapper that wasn't bound stays so when the outermost
    scope ends. Returns its binding, or None where ``can_bind()`` says no. Call it in
    the wrapper's own thread.
    """
    if not can_bind(wrapper):
        return None
    state = vars(wrapper)
    binding: Binding | None = state.get(KEY)
    if binding is None:
        binding = Binding(wrapper, stays_bound)
        state.update(
            {
                KEY: binding,
                "connect": binding.connect,
                "_close": partial(_close, wrapper, binding),
            }
        )
    thread_state.bindings[wrapper.alias] = binding
    return binding


def bind_all(aliases: Iterable[str]) -> dict[str, Binding | None]:
    """Bind this thread's wrappers of some aliases, as ``bind`` does, by alias.

    An alias that DATABASES doesn't have any more is left out.
    """
    found = {}
    for alias in aliases:
        with contextlib.suppress(ConnectionDoesNotExist):
            found[alias] = bind(connections[alias])
    return found


def can_bind(wrapper: Any) -> bool:
    """Tell whether a wrapper is bound or can be bound, in the running thread.

    It can't if it is another thread's, if a connection is being opened on it for the
    pool, or if somebody replaced its ``connect``, as a test that forbids the database.
    """
    if wrapper._thread_ident != _thread.get_ident() or recording.is_recording(wrapper):
        return False
    binding: Binding | None = vars(wrapper).get(KEY)
    if binding is None:
        return not testing.forbids_connecting(wrapper)
    return vars(wrapper).get("connect") is binding.connect


def unbind(wrapper: Any, binding: Binding) -> None:
    """Make a wrapper, which holds no connection of the pool, Django's own again."""
    # All three at once, whatever exception comes.
    wrapper.__dict__ = {
        name: value
        for name, value in vars(wrapper).items()
        if name not in (KEY, "connect", "_close")
    }
    if thread_state.bindings.get(binding.alias) is binding:
        del thread_state.bindings[binding.alias]


# --- Return connections --------------------------------------------------------------


def give_back(binding: Binding) -> None:
    """Close the wrapper of a binding that holds a connection, outside of ``atomic()``.

    Call it in the wrapper's own thread. An atomic block that is still open may be that
    of a TestCase: Django's ``close_old_connections`` closes every other one afterwards.
    """
    wrapper: Any = binding.wrapper()
    if wrapper is None or wrapper.in_atomic_block:
        return
    if type(wrapper).close is _DJANGO_CLOSE:
        # What Django's close() does here, without its checks for a call from another
        # thread or from the event loop.
        wrapper.run_on_commit = []
        try:
            _close(wrapper, binding)
        finally:
            wrapper.connection = None
    else:
        wrapper.close()


#: The connections of parent processes. They are kept: psycopg would warn of each that
#: nobody closed it.
_inherited: list[Any] = []


def drop_inherited_connections() -> None:
    """Drop the parent's connections from this thread's wrappers; runs after a fork.

    Its request and its scopes are dropped too: the child's work is its own. The
    connections aren't closed, because the sockets are the parent's. If the fork
    happened in an atomic block, the block can't go on in the child: its queries raise.
    """
    thread_state.refused = None
    for wrapper in connections.all(initialized_only=True):
        binding: Binding | None = vars(wrapper).get(KEY)
        if binding is not None:
            held = binding.pop_held()
            if held is not None:
                # A cursor that the child uses, or forgets and thereby closes, would
                # read the parent's socket and write to it.
                held[1].connection.lease += 1
            binding.forget_work()
            binding.scopes = weakref.WeakSet()
        if wrapper.vendor == "postgresql" and wrapper.connection is not None:
            _inherited.append(wrapper.connection)
            wrapper.connection = None
            # Sends nothing without a connection. An ENGINE resets here what it keeps
            # about the session.
            wrapper.close()
            if wrapper.in_atomic_block:
                wrapper.closed_in_transaction = True
                wrapper.needs_rollback = True


# --- The two methods of a bound wrapper ----------------------------------------------


def _is_refused() -> bool:
    """Tell whether the request of this thread is the one that is being refused.

    A log handler's query is not the request's.
    """
    bindings = thread_state.bindings.values()
    return not thread_state.is_outside_pools and any(
        binding.work is thread_state.refused for binding in bindings
    )


@async_unsafe
def _connect(binding: Binding) -> None:
    """Check a connection out, in the place of ``BaseDatabaseWrapper.connect``."""
    wrapper: Any = binding.wrapper()
    if thread_state.refused is not None and _is_refused():
        # What renders the 503 must not wait for an exhausted pool again.
        reason = "no query can be made while a 503 is rendered"
        raise for_django(PoolError(binding.alias, f"pool {binding.alias!r}: {reason}"))
    if binding.held:
        wrapper.close()
    if not thread_state.is_outside_pools and not binding.will_return():
        # An exception may have come before the end of a scope had done this.
        binding.forget_work()
        if not binding.stays_bound:
            unbind(wrapper, binding)
        if not binding.is_engines:
            # The thread goes on outside of requests and scopes: Django's connections.
            type(wrapper).connect(wrapper)
            return
    if (
        thread_state.is_outside_pools
        or binding.alias not in conf.pooled_aliases()  # the settings have changed
        or not binding.checkout(wrapper)
    ):
        type(wrapper).connect(wrapper)


def _close(wrapper: Any, binding: Binding) -> None:
    """Check the connection in, in the place of ``DatabaseWrapper._close``.

    In an atomic block the connection is closed, and ``wrapper.connection`` stays: later
    queries of the block must fail, as they do without a pool.
    """
    try:
        pool, entry, _ = binding.held.pop()
    except IndexError:
        type(wrapper)._close(wrapper)
        return
    if wrapper.connection is not entry.connection:
        # Somebody assigned another connection to the wrapper: close that one.
        try:
            type(wrapper)._close(wrapper)
        finally:
            pool.checkin(entry)
        return
    try:
        if binding.engine_close is not None:
            # The ENGINE must reset what it keeps on the wrapper about the session, and
            # has nothing to close. It may not expect to find None, of all connections.
            wrapper.connection = None
            with contextlib.suppress(AttributeError, TypeError, Error):
                binding.engine_close(wrapper)
    finally:
        if wrapper.in_atomic_block:
            wrapper.connection = entry.connection
            pool.discard(entry, "closed in atomic()")
        else:
            wrapper.connection = None
            pool.checkin(entry)
