"""The app's start: importing the package alone changes nothing."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.apps import AppConfig


class DbpoolMwConfig(AppConfig):
    """Register the checks, connect the receivers, handle forks and the exit."""

    name = "dbpool_mw"
    verbose_name = "Database connection pool"

    def ready(self) -> None:
        """Set up the app in this process; starts no thread and opens no connection."""
        from dbpool_mw import checks

        checks.register()
        start()


# Re-entrant: what is imported below may make a wrapper of an ENGINE.
_lock = threading.RLock()
_has_started = False


def start() -> None:
    """Set this process up for pools, once, unless ``ENABLED`` is False.

    The app, the middleware and the wrappers of the ENGINEs call it, in any thread: the
    first of them sets everything up. Tests make the apps ready again and again:
    ``override_settings(INSTALLED_APPS=…)``, ``TransactionTestCase.available_apps``.
    """
    global _has_started
    from dbpool_mw import checks, conf, drivers
    from dbpool_mw.core import platform

    with _lock:
        if _has_started or conf.is_switched_off():
            return
        _has_started = True
        checks.register()
        _refuse_errors_on_load()
        # Without a database library, or what a pool needs of the system, there is no
        # pool to prepare for: a check reports either.
        if drivers.can_import() and platform.problem() is None:
            _prepare_for_pools()


def _prepare_for_pools() -> None:
    from dbpool_mw.binding import (
        binding,
        error_pages,
        logs,
        registry,
        signals,
        tasks,
        testing,
        uwsgi,
    )

    testing.remember_databases()
    signals.connect()
    tasks.connect()
    error_pages.install()
    logs.install()

    def start_anew() -> None:
        if registry.after_fork_in_child():
            binding.drop_inherited_connections()

    os.register_at_fork(before=registry.before_fork, after_in_child=start_anew)
    uwsgi.call_after_forks(start_anew)
    uwsgi.warn_without_threads()
    atexit.register(registry.close_at_exit)


def _refuse_errors_on_load() -> None:
    """Have Django's handlers refuse wrong settings when a server loads them.

    The middleware refuses them by itself; a project that has an ENGINE of this package
    may not have the middleware.
    """
    from django.core.handlers.base import BaseHandler

    from dbpool_mw import checks, conf

    load_middleware: Callable[..., Any] = BaseHandler.load_middleware

    @wraps(load_middleware)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not conf.is_switched_off():
            checks.refuse_errors()
        return load_middleware(*args, **kwargs)

    BaseHandler.load_middleware = checked  # type: ignore[method-assign]
