"""The beginning and the end of a request, in the thread that serves it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool_mw.binding.binding import Binding, bind_all, give_back, thread_state
from dbpool_mw.binding.testing import DJANGO_ENSURE_CONNECTION, connect_if_allowed
from dbpool_mw.core.errors import ConnectFailed, PoolClosed


def begin_request(request: Any, aliases: Iterable[str], eager: Container[str]) -> None:
    """Check a connection out for each alias that is in ``eager``.

    All ``aliases`` are bound to their pools, on this thread's wrappers: the others
    check one out at their first query, and so does an eager one whose pool can't
    connect, because the request may not need that database. ``request`` has a
    ``method`` and a ``path``, for the reports. Raises an error of ``binding.errors``
    when a pool is exhausted; the aliases before that one keep their connections.
    """
    in_test = BaseDatabaseWrapper.ensure_connection is not DJANGO_ENSURE_CONNECTION
    bindings = thread_state.bindings
    for alias in aliases:
        binding: Binding | None = bindings.get(alias)
        wrapper: Any = None if binding is None else binding.wrapper()
        if binding is None or wrapper is None or wrapper.connect is not binding.connect:
            # Bind all aliases first: receivers of connection_created may query another
            # alias while the connection of this one is being opened.
            binding = bind_all(aliases).get(alias)
            wrapper = None if binding is None else binding.wrapper()
        if binding is None:
            continue
        binding.request = request
        if wrapper.connection is not None:
            if wrapper.in_atomic_block or not binding.held:
                # The test's transaction goes on, or the connection isn't the pool's.
                continue
            wrapper.close()  # an earlier request of this thread didn't end
        if alias not in eager:
            continue
        try:
            if in_test:
                connect_if_allowed(wrapper)
            else:
                binding.checkout(wrapper, eager=True)
        except (ConnectFailed, PoolClosed):
            pass  # the first query says why, if there is one
        except Exception:
            # Not around checkout(): entering the block costs time in each request.
            with wrapper.wrap_database_errors:
                raise


def return_connections() -> None:
    """Return what this thread's request holds; a later query checks out again.

    A connection in an open atomic block stays: see ``give_back``.
    """
    for binding in thread_state.bindings.values():
        if binding.held:
            give_back(binding)


def end_request(**signal: Any) -> None:
    """Return what this thread's request holds, and end the request, however it went.

    Also the receiver of ``request_finished``.
    """
    for binding in thread_state.bindings.values():
        if binding.held:
            give_back(binding)
        binding.request = binding.connect_error = None
