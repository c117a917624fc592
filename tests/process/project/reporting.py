"""The project's settings, with all that reports errors: mails to ADMINS, and Sentry."""

import django
import sentry_sdk

from tests.process.project.settings import *  # noqa: F403


def _print_event(event, hint):
    """Print an event instead of sending it."""
    print("SENTRY EVENT:", event.get("logentry") or event.get("exception"))


ADMINS = ["admin@example.com"] if django.VERSION >= (6,) else [("A", "a@example.com")]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# The default integrations have Django's and that of logging.
sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", before_send=_print_event)
