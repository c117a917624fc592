"""Error pages under ASGI, which Django renders in another thread than the request's.

The response to an exception is made in a thread of the event loop's executor
(``sync_to_async(response_for_exception, thread_sensitive=False)`` in
``django.core.handlers.exception``). That thread serves anybody, it has wrappers of its
own, and no signal tells when the page is done. So we stand around two functions: what
the request holds goes back before the page is begun, or requests that fail together
would hold one connection each and wait for another; what the page checks out goes back
at its end.
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

from dbpool_mw.binding import binding
from dbpool_mw.binding.scope import Scope

_convert: Callable[[Any], Any] = exception.convert_exception_to_response
_render = exception.response_for_exception


@wraps(_convert)
def convert_exception_to_response(get_response: Callable[..., Any]) -> Any:
    """Have a request that fails give back before its error page; for each layer."""
    if not iscoroutinefunction(get_response):
        return _convert(get_response)

    @wraps(get_response)
    async def giving_back(request: HttpRequest) -> Any:
        try:
            return await get_response(request)
        except Exception:
            await sync_to_async(binding.leave)()
            raise

    return _convert(giving_back)


@wraps(_render)
def response_for_exception(request: HttpRequest, exc: Exception) -> HttpResponse:
    """Render an error page; what it checks out it gives back at its end."""
    if not isinstance(request, ASGIRequest):
        return _render(request, exc)
    scope = Scope(method=request.method or "", path=request.path)
    scope.begin()
    try:
        return _render(request, exc)
    finally:
        scope.end()


def install() -> None:
    """Put ours in the place of Django's; called once, when the app is ready."""
    base.convert_exception_to_response = convert_exception_to_response  # type: ignore[attr-defined]
    exception.response_for_exception = response_for_exception
