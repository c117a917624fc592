"""Receivers of Django's signals: a request returns its connections here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.signals import (
    got_request_exception,
    request_finished,
    request_started,
    setting_changed,
)
from django.db import close_old_connections

from dbpool_mw import conf, decorators
from dbpool_mw.binding import registry
from dbpool_mw.binding.release import release_request
from dbpool_mw.binding.requests import end_request


def begin_to_serve(**signal: Any) -> None:
    """Note that this process serves; a receiver of its first ``request_started``."""
    registry.note_serving()
    registry.begin()
    request_started.disconnect(dispatch_uid=_uid(begin_to_serve))


def release_after_exception(request: Any = None, **signal: Any) -> None:
    """Return what a failed request holds and is clean, before its error page.

    A receiver of ``got_request_exception``, which Django may send several times for one
    request. Reports of the error may be mailed or sent before the request ends. A
    session that the request has changed stays: the page and the middleware around see
    it.
    """
    if request is not None:
        release_request(request)


def settings_changed(*, setting: str | None, **signal: Any) -> None:
    """Close the pools when a test changes their settings.

    A receiver of ``setting_changed``, which ``override_settings`` and pytest-django's
    ``settings`` fixture send.
    """
    if setting == "ROOT_URLCONF":
        decorators.forget_urls()
    elif setting is not None and setting.startswith(conf.PREFIX):
        conf.reset_cache()
        registry.close()


def connect() -> None:
    """Connect the receivers; called once, when the app is ready.

    Django's own receiver of ``request_finished`` goes behind: it would close each
    wrapper in turn, which takes longer than to return the connections.
    """
    closes_old = request_finished.disconnect(close_old_connections)
    for signal, receiver in (
        (request_started, begin_to_serve),
        (request_finished, end_request),
        (got_request_exception, release_after_exception),
        (setting_changed, settings_changed),
    ):
        signal.connect(receiver, dispatch_uid=_uid(receiver))
    if closes_old:
        request_finished.connect(close_old_connections)


def _uid(receiver: Callable[..., None]) -> str:
    return f"dbpool_mw.{receiver.__name__}"
