"""The mixin that makes an ENGINE use the pool."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import recording, registry
from dbpool_mw.binding.binding import bind, thread_state
from dbpool_mw.core.config import POOL_KEYS


class PooledMixin:
    """Check a connection out when the wrapper connects; ``close()`` returns it.

    Inherit from it before a PostgreSQL DatabaseWrapper. ``connections[alias]`` is bound
    to the pool of its alias when it first connects, as the middleware does it. Two
    kinds of wrappers keep Django's connections: copies for another database, with which
    Django makes test databases, and those in the main thread of a process that serves
    nothing, such as a management command.
    """

    #: The pool's settings may be in OPTIONS; see ``conf.own_settings``.
    takes_pool_options = True

    alias: str

    def get_connection_params(self) -> dict[str, Any]:
        """Return the ENGINE's parameters without the pool's settings."""
        params: dict[str, Any] = super().get_connection_params()  # type: ignore[misc]
        for key in POOL_KEYS:
            params.pop(key, None)
        return params

    @async_unsafe
    def connect(self) -> None:
        """Check a connection out, or open one for a wrapper that isn't pooled.

        Raises what ``ConnectionPool.checkout`` raises, and ImproperlyConfigured without
        "dbpool_mw" in INSTALLED_APPS: that app handles forks and the exit.
        """
        if not recording.is_recording(self) and self._bind():
            self.connect()  # that of the binding, which the instance has now
        else:
            super().connect()  # type: ignore[misc]

    def _bind(self) -> bool:
        """Bind the wrapper if it is to be pooled; tell whether it is bound."""
        if not apps.is_installed("dbpool_mw"):
            raise ImproperlyConfigured(
                f"The ENGINE of {self.alias!r} is dbpool_mw's, and INSTALLED_APPS "
                'doesn\'t have "dbpool_mw".'
            )
        if (
            thread_state.is_outside_pools
            or not registry.is_serving()
            or self.alias not in conf.pooled_aliases()
        ):
            return False
        current: Any = connections[self.alias]
        return current is self and bind(self) is not None
