"""The app that registers the check as a plugin, for django-health-check up to 3.24."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured


class HealthCheckConfig(AppConfig):
    """Register the check; release 4 has no plugins, and needs no app."""

    name = "dbpool_mw.contrib.health_check"
    label = "dbpool_mw_health_check"
    verbose_name = "Database connection pool for health checks"

    def ready(self) -> None:
        """Register the check.

        Raises ImportError without django-health-check, ImproperlyConfigured with
        release 4 or newer.
        """
        from dbpool_mw.contrib.health_check.checks import Pools

        try:
            from health_check.plugins import plugin_dir
        except ImportError:
            raise ImproperlyConfigured(
                "django-health-check has no plugins since 4.0: take "
                '"dbpool_mw.contrib.health_check" out of INSTALLED_APPS, and name '
                '"dbpool_mw.contrib.health_check.checks.Pools" in the checks of '
                "HealthCheckView."
            ) from None
        plugin_dir.register(Pools)
