"""Handlers of Django's signals: where a request gives its connections back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.signals import (
    got_request_exception,
    request_finished,
    request_started,
    setting_changed,
)

from dbpool_mw import conf, decorators
from dbpool_mw.binding import binding, registry


def begin_to_serve(**signal: Any) -> None:
    """Note that this process serves; a receiver of its first ``request_started``."""
    registry.serve()
    request_started.disconnect(dispatch_uid=_uid(begin_to_serve))


def return_connections(**signal: Any) -> None:
    """Give back what the request of this thread still holds.

    A receiver of ``request_finished``. With CONN_MAX_AGE = 0, Django's own receiver ran
    before this one and closed the wrappers, which is how they gave theirs back.
    """
    binding.finish()


def return_after_exception(request: Any = None, **signal: Any) -> None:
    """Give back what a failed request holds, before its error page is rendered.

    A receiver of ``got_request_exception``, which may come several times. Under ASGI it
    comes in another thread than the request's, with other wrappers; there the request
    has given back before: see ``error_pages``.
    """
    for attachment in binding.here.attachments.values():
        if attachment.held and (request is None or attachment.request is request):
            binding.give_back(attachment)


def settings_changed(*, setting: str | None, **signal: Any) -> None:
    """Start anew with the settings of a test; a receiver of ``setting_changed``."""
    if setting == "ROOT_URLCONF":
        decorators.serves.cache_clear()
    elif setting is not None and setting.startswith(conf.PREFIX):
        conf.reset_cache()
        registry.close()


def connect() -> None:
    """Connect the receivers; called once, when the app is ready."""
    for signal, receiver in (
        (request_started, begin_to_serve),
        (request_finished, return_connections),
        (got_request_exception, return_after_exception),
        (setting_changed, settings_changed),
    ):
        signal.connect(receiver, dispatch_uid=_uid(receiver))


def _uid(receiver: Callable[..., None]) -> str:
    return f"dbpool_mw.{receiver.__name__}"
