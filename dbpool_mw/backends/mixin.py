"""The mixin that makes an ENGINE use the pool."""

from __future__ import annotations

import threading
from typing import Any

from django.apps import apps
from django.db import connections
from django.utils.asyncio import async_unsafe

from dbpool_mw import checks, conf
from dbpool_mw.apps import start
from dbpool_mw.binding import recording, registry
from dbpool_mw.binding.binding import bind, thread_state
from dbpool_mw.core.config import POOL_KEYS


class PooledMixin:
    """Check a connection out when the wrapper connects; ``close()`` returns it.

    Inherit from it before a PostgreSQL DatabaseWrapper. ``connections[alias]`` is bound
    to the pool of its alias when it first connects, as the middleware does it. Copies
    of a wrapper, with which Django makes test databases, keep Django's connections, and
    so does what queries while Django loads the apps: a server may fork after that.
    """

    #: The pool's settings may be in OPTIONS; see ``conf.own_settings``.
    takes_pool_options = True

    alias: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        start()

    def get_connection_params(self) -> dict[str, Any]:
        """Return the ENGINE's parameters without the pool's settings."""
        params: dict[str, Any] = super().get_connection_params()  # type: ignore[misc]
        for key in POOL_KEYS:
            params.pop(key, None)
        return params

    @async_unsafe
    def connect(self) -> None:
        """Check a connection out, or open one for a wrapper that isn't pooled.

        Raises what ``ConnectionPool.checkout`` raises, and ImproperlyConfigured with
        what ``manage.py check`` says of wrong settings.
        """
        if not recording.is_recording(self) and self._bind():
            self.connect()  # that of the binding, which the instance has now
        else:
            super().connect()  # type: ignore[misc]

    def _bind(self) -> bool:
        """Bind the wrapper if it is to be pooled; tell whether it is bound."""
        if conf.is_switched_off() or not apps.ready or thread_state.is_outside_pools:
            return False
        checks.refuse_errors()
        if self.alias not in conf.pooled_aliases():
            return False
        current: Any = connections[self.alias]
        if current is not self:
            return False
        if threading.current_thread() is not threading.main_thread():
            registry.note_serving()
        return bind(self) is not None
