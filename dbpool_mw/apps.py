"""The app's start: importing the package alone changes nothing."""

from __future__ import annotations

import atexit
import os
from functools import cache

from django.apps import AppConfig


class DbpoolMwConfig(AppConfig):
    """Register the checks, connect the receivers, handle forks and the exit."""

    name = "dbpool_mw"
    verbose_name = "Database connection pool"

    def ready(self) -> None:
        """Set up the app in this process; starts no thread and opens no connection."""
        _set_up()


@cache
def _set_up() -> None:
    """Set up what lasts as long as the process, once.

    Tests make the apps ready again and again: ``override_settings(INSTALLED_APPS=…)``,
    ``modify_settings``, ``TransactionTestCase.available_apps``.
    """
    from dbpool_mw import checks, drivers

    checks.register()
    if not drivers.can_import():
        return  # a check reports it
    from dbpool_mw.binding import (
        binding,
        error_pages,
        logs,
        registry,
        signals,
        tasks,
        testing,
    )

    testing.remember_databases()
    signals.connect()
    tasks.connect()
    error_pages.install()
    logs.install()
    os.register_at_fork(
        before=registry.before_fork, after_in_child=registry.after_fork_in_child
    )
    os.register_at_fork(after_in_child=binding.drop_inherited_connections)
    atexit.register(registry.close_at_exit)
