"""Refuse to serve with settings that the system checks call wrong.

A server runs no checks: what it loads calls this instead.
"""

from __future__ import annotations

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from dbpool_mw import conf
from dbpool_mw.checks.project import check_project
from dbpool_mw.checks.settings import check_settings

#: The settings in which no error was found, as ``conf.cached_values()``.
_accepted: object = None


def refuse_errors() -> None:
    """Raise ImproperlyConfigured with the errors that ``manage.py check`` shows.

    With the same texts, hints and ids; what SILENCED_SYSTEM_CHECKS names is left out,
    and so is the check that asks the database. Settings without an error are looked at
    once. May be called from any thread, when the apps are loaded.
    """
    global _accepted
    values = conf.cached_values()
    if values is _accepted:
        return
    errors = [
        # Django writes "?" for the object, which settings don't have.
        str(message).removeprefix("?: ")
        for message in (*check_settings(), *check_project())
        if message.is_serious(checks.ERROR) and not message.is_silenced()
    ]
    if errors:
        raise ImproperlyConfigured(
            "dbpool_mw can't work with these settings:\n\n" + "\n\n".join(errors)
        )
    _accepted = values
