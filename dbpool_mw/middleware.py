"""The middleware: every request runs on pooled connections."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import markcoroutinefunction, sync_to_async
from django.conf import settings
from django.db import OperationalError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import get_resolver

from dbpool_mw import conf, decorators
from dbpool_mw.binding import binding, unavailable


class ConnectionPoolMiddleware:
    """Check a connection of each pooled alias out before a request is handled.

    Put it first in ``MIDDLEWARE``. The receivers of ``request_finished`` and
    ``got_request_exception`` return the connections. Answers 503 when there is none.
    Raises ImproperlyConfigured, when the server starts, if the settings are wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._urls_loaded = False
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        # A server runs no system checks: wrong settings must not wait for a request.
        for alias in conf.for_request().aliases:
            conf.config_for(alias)

    def __call__(
        self, request: HttpRequest
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Handle a request on pooled connections."""
        if self._is_async:
            return self._handle_async(request)
        try:
            refusal = self._enter(request)
            if refusal is not None:
                return refusal
            response: HttpResponseBase = self.get_response(request)
        except BaseException:
            # Django makes a response of every Exception: what comes here is worse, and
            # no request_finished may follow.
            binding.finish()
            raise
        return response

    async def _handle_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            # To the request's own thread: the wrappers are there, and it may wait.
            refusal = await sync_to_async(self._enter)(request)
            if refusal is not None:
                return refusal
            response: HttpResponseBase = await self.get_response(request)
        except CancelledError:
            # The request's thread may be in the middle of a query. Django ends the
            # request there, in its turn: request_finished, or the thread's own end.
            raise
        except BaseException:
            await sync_to_async(binding.finish)()
            raise
        return response

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Answer 503 when a view's own query found no connection."""
        if isinstance(exception, OperationalError):
            error = unavailable.why(exception)
            if error is not None:
                return unavailable.respond(request, error)
        return None

    def _enter(self, request: HttpRequest) -> HttpResponseBase | None:
        """Check connections out, or give the response that says why there are none."""
        aliases, lazy, exempt = conf.for_request()
        if not self._urls_loaded:
            self._load_urls()
        lazy = (
            lazy
            or (decorators.used and decorators.serves(request.path_info))
            or (exempt != () and request.path_info.startswith(exempt))
        )
        try:
            binding.enter(request, aliases, lazy)
        except OperationalError as exception:
            error = unavailable.why(exception)
            if error is None:
                raise
            binding.leave()
            return unavailable.respond(request, error)
        return None

    def _load_urls(self) -> None:
        """Load the views, and with them their decorators; Django is about to anyway."""
        self._urls_loaded = True
        if hasattr(settings, "ROOT_URLCONF"):
            get_resolver().url_patterns  # noqa: B018
