"""The app's start: everything that happens, happens here and not at import."""

from __future__ import annotations

import atexit
import os

from django.apps import AppConfig


class DbpoolMwConfig(AppConfig):
    """Connect the receivers, register the checks, take care of forks and of the end."""

    name = "dbpool_mw"
    verbose_name = "Database connection pool"

    def ready(self) -> None:
        """Set up the app in this process; starts no thread and opens no connection."""
        from dbpool_mw import checks

        checks.register()
        try:
            import psycopg2  # noqa: F401
        except ImportError:
            return  # a check says so
        from dbpool_mw.binding import binding, error_pages, registry, signals, tasks

        registry.remember_databases()
        signals.connect()
        tasks.connect()
        error_pages.install()
        os.register_at_fork(after_in_child=registry.after_fork_in_child)
        os.register_at_fork(after_in_child=binding.forget_inherited)
        atexit.register(registry.close)
