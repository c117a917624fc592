"""Django system checks for the settings of dbpool_mw.

A value is validated in ``dbpool_mw.core.config``, read from Django's settings in
``dbpool_mw.conf``, and reported here. ``docs/settings.rst`` explains every id.

Nothing in this package imports a database library, directly or indirectly: one of the
checks reports that there is none.
"""

from __future__ import annotations

from django.core import checks

from dbpool_mw.checks.capacity import check_capacity
from dbpool_mw.checks.messages import IDS
from dbpool_mw.checks.project import MIDDLEWARE, check_project
from dbpool_mw.checks.refusal import refuse_errors
from dbpool_mw.checks.settings import check_settings
from dbpool_mw.checks.urls import check_urls

__all__ = [
    "IDS",
    "MIDDLEWARE",
    "TAG",
    "check_capacity",
    "check_project",
    "check_settings",
    "check_urls",
    "refuse_errors",
    "register",
]

TAG = "dbpool_mw"


def register() -> None:
    """Register the checks with Django; a second call does nothing."""
    checks.register(check_settings, TAG)
    checks.register(check_project, TAG)
    checks.register(check_urls, TAG)
    checks.register(check_capacity, checks.Tags.database)
