"""Error pages under ASGI are rendered in the request's own thread, as in Django 6.2.

Before, Django renders the response to an exception in another thread than the request's
(``django.core.handlers.exception``). That thread has wrappers of its own: the page
would wait for a second connection while its request holds one, would not see the
request's session, and no signal would tell when the page is done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.core.handlers import base, exception
from django.http import HttpRequest

from dbpool_mw.binding.binding import give_back, thread_state

_convert: Callable[[Any], Any] = exception.convert_exception_to_response
_log: Callable[..., Any] = base.log_response  # type: ignore[attr-defined]


@wraps(_convert)
def convert_exception_to_response(get_response: Callable[..., Any]) -> Any:
    """Convert exceptions to responses; Django calls it for each middleware."""
    if not iscoroutinefunction(get_response):
        return _convert(get_response)

    @wraps(get_response)
    async def converting(request: HttpRequest) -> Any:
        try:
            return await get_response(request)
        except Exception as error:
            render = sync_to_async(exception.response_for_exception)
            return await render(request, error)

    return converting


@wraps(_log)
def log_response(*args: Any, **kwargs: Any) -> None:
    """Log a response, and return what a log handler has checked out.

    Under ASGI Django calls this in a thread that serves no request and never ends.
    """
    held = [binding for binding in thread_state.bindings.values() if binding.held]
    try:
        _log(*args, **kwargs)
    finally:
        for binding in thread_state.bindings.values():
            if binding.held and binding.request is None and binding not in held:
                give_back(binding)


def install() -> None:
    """Replace Django's functions where needed; called once, when the app is ready."""
    base.log_response = log_response  # type: ignore[attr-defined]
    if django.VERSION < (6, 2):
        base.convert_exception_to_response = convert_exception_to_response  # type: ignore[attr-defined]
