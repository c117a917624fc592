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

_convert: Callable[[Any], Any] = exception.convert_exception_to_response


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


def install() -> None:
    """Replace Django's function where needed; called once, when the app is ready."""
    if django.VERSION < (6, 2):
        base.convert_exception_to_response = convert_exception_to_response  # type: ignore[attr-defined]
