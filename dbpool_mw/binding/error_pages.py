"""Return connections around error pages under ASGI.

Django renders the response to an exception in another thread than the request's
(``sync_to_async(response_for_exception, thread_sensitive=False)`` in
``django.core.handlers.exception``). That thread has wrappers of its own, serves any
request, and no signal tells when the page is done. So two functions of Django are
wrapped. The first returns what the request holds before its error page begins: else
requests that fail together would each hold one connection and wait for another. The
second returns what the page checks out when the page ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers import base, exception
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse

from dbpool_mw.binding.cancelling import current_work
from dbpool_mw.binding.requests import return_connections
from dbpool_mw.binding.scope import Scope

_convert: Callable[[Any], Any] = exception.convert_exception_to_response
_render = exception.response_for_exception


@wraps(_convert)
def convert_exception_to_response(get_response: Callable[..., Any]) -> Any:
    """Return the connections of a request that fails, before its error page.

    Django calls this for each middleware and for the view.
    """
    if not iscoroutinefunction(get_response):
        return _convert(get_response)

    @wraps(get_response)
    async def returning_connections(request: HttpRequest) -> Any:
        try:
            return await get_response(request)
        except Exception:
            await sync_to_async(return_connections)()
            raise

    return _convert(returning_connections)


@wraps(_render)
def response_for_exception(request: HttpRequest, exc: Exception) -> HttpResponse:
    """Render an error page, and return the connections that the page checked out."""
    if not isinstance(request, ASGIRequest):
        return _render(request, exc)
    scope = Scope(method=request.method or "", path=request.path)
    scope.begin()
    work = current_work.set(request)
    try:
        return _render(request, exc)
    finally:
        current_work.reset(work)
        scope.end()


def install() -> None:
    """Replace Django's two functions; called once, when the app is ready."""
    base.convert_exception_to_response = convert_exception_to_response  # type: ignore[attr-defined]
    exception.response_for_exception = response_for_exception
