"""The middleware: every request runs on pooled connections."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from itertools import count
from typing import Any

from asgiref.sync import markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import get_resolver

from dbpool_mw import apps, checks, conf, decorators
from dbpool_mw.binding import registry, unavailable
from dbpool_mw.binding.cancelling import cancel_waits, is_cancelled
from dbpool_mw.binding.errors import PoolError, find_pool_error
from dbpool_mw.binding.release import release_request
from dbpool_mw.binding.requests import begin_request, end_request, return_refused
from dbpool_mw.binding.streams import note_stream

#: Numbers of the requests that were answered in this process.
_numbers = count(1)


class ConnectionPoolMiddleware:
    """Run each request on pooled connections; check out those of ``EAGER`` before.

    Put it first in ``MIDDLEWARE``. Receivers of ``request_finished`` and
    ``got_request_exception`` return the connections. When a pool has no connection, the
    response is a 503. When a server loads it, wrong settings raise
    ImproperlyConfigured, and ``ENABLED = False`` has Django leave it out.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        if conf.is_switched_off():
            raise MiddlewareNotUsed(f"{conf.PREFIX}ENABLED is False")
        apps.start()
        checks.refuse_errors()
        self.get_response = get_response
        self._urls_loaded = False
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        registry.begin()

    def __call__(
        self, request: HttpRequest
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Handle a request on pooled connections."""
        # It is there where middleware outside has the request served again.
        request.__dict__.pop("_dbpool_mw_answered", None)
        if self._is_async:
            return self._handle_async(request)
        try:
            response = self._begin(request)
            if response is None:
                response = self.get_response(request)
                if response.streaming:
                    note_stream(request, response)
                    release_request(request)
            number = next(_numbers)
            request._dbpool_mw_answered = number  # type: ignore[attr-defined]
            response._dbpool_mw_request = number  # type: ignore[union-attr]
        except Exception:
            # Django turns it into a response, whose page may query.
            request._dbpool_mw_answered = None  # type: ignore[attr-defined]
            raise
        except BaseException:
            # The server may not send request_finished.
            request._dbpool_mw_answered = None  # type: ignore[attr-defined]
            end_request()
            raise
        return response

    async def _handle_async(self, request: HttpRequest) -> HttpResponseBase:
        number = None
        try:
            # In the request's own thread, which has the wrappers and may block.
            response = await sync_to_async(self._begin)(request)
            if response is None:
                response = await self.get_response(request)
                if response.streaming:
                    note_stream(request, response)
                    await sync_to_async(release_request)(request)
            if not isinstance(request, ASGIRequest):
                # Behind it is asynchronous middleware under WSGI, whose server may
                # close the response in another thread.
                number = next(_numbers)
                response._dbpool_mw_request = number  # type: ignore[union-attr]
        except (CancelledError, GeneratorExit):
            # The request's thread may wait for a connection, which nobody wants any
            # more, or be in the middle of a query. After the query, request_finished
            # or the end of the thread returns the connections.
            cancel_waits(request)
            raise
        except Exception:
            raise  # Django turns it into a response, whose page may query.
        except BaseException:
            request._dbpool_mw_answered = None  # type: ignore[attr-defined]
            await sync_to_async(end_request)()
            raise
        finally:
            request._dbpool_mw_answered = number  # type: ignore[attr-defined]
        return response

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Return a 503 when a query of the view got no connection from the pool."""
        error = find_pool_error(exception)
        return None if error is None else unavailable.respond(request, error)

    def _begin(self, request: HttpRequest) -> HttpResponseBase | None:
        """Check connections out; if a pool is exhausted, return the request's 503."""
        aliases, eager, exempt = conf.for_request()
        if not self._urls_loaded:
            self._load_urls()
        if eager and (
            (decorators.used and decorators.needs_no_pool(request))
            or (exempt != () and request.path_info.startswith(exempt))
        ):
            eager = ()
        try:
            begin_request(request, aliases, eager)
        except PoolError as error:
            return_refused(request)
            if is_cancelled(request):
                return None  # Nobody reads it, nor would an error be read.
            return unavailable.respond(request, error)
        return None

    def _load_urls(self) -> None:
        """Import the views, so that ``no_pool`` has run; Django would do it next."""
        self._urls_loaded = True
        if hasattr(settings, "ROOT_URLCONF"):
            get_resolver().url_patterns  # noqa: B018
