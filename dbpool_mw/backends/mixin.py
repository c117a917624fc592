"""What makes an ENGINE a pooling one."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.asyncio import async_unsafe

from dbpool_mw import conf
from dbpool_mw.binding import binding, connecting, registry
from dbpool_mw.core.config import POOL_KEYS


class PooledMixin:
    """Check a connection out when the wrapper connects; ``close()`` gives it back.

    Put it before a PostgreSQL DatabaseWrapper. The wrapper that ``connections[alias]``
    gives is put on the alias's pool when it first connects, just as the middleware does
    it. Others keep Django's plain connections: copies for another database, with which
    Django makes test databases, and the main thread of a process that serves nothing,
    such as a management command.
    """

    #: Settings of the pool may stand in OPTIONS; see ``conf.own_settings``.
    takes_pool_options = True

    alias: str

    def get_connection_params(self) -> dict[str, Any]:
        """Leave the pool's settings out of what libpq gets."""
        params: dict[str, Any] = super().get_connection_params()  # type: ignore[misc]
        for key in POOL_KEYS:
            params.pop(key, None)
        return params

    @async_unsafe
    def connect(self) -> None:
        """Check a connection out, or open one where the pool isn't to be used.

        Raises what ``ConnectionPool.checkout`` raises, and ImproperlyConfigured when
        dbpool_mw is no installed app: its part in forks and at exit would be missing.
        """
        if not connecting.is_opening(self) and self._is_pooled():
            self.connect()  # the seam's own, on the instance, from here on
        else:
            super().connect()  # type: ignore[misc]

    def _is_pooled(self) -> bool:
        if not apps.is_installed("dbpool_mw"):
            raise ImproperlyConfigured(
                f"The ENGINE of {self.alias!r} is dbpool_mw's, and INSTALLED_APPS "
                'doesn\'t have "dbpool_mw".'
            )
        if not registry.serves() or self.alias not in conf.pooled_aliases():
            return False
        current: Any = connections[self.alias]
        return current is self and binding.adopt(self) is not None
