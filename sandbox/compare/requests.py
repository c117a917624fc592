"""Requests in this process, each from its start to its end as a WSGI server has it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from wsgiref.util import setup_testing_defaults

from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponseBase
from django.urls import path

View = Callable[[HttpRequest], HttpResponseBase]

_KEY = "compare.view"


def _dispatch(request: HttpRequest) -> HttpResponseBase:
    view: View = request.META[_KEY]
    return view(request)


urlpatterns = [path("", _dispatch)]

#: A 500 page that queries.
handler500 = "sandbox.shop.views.sorry"


def _start(status: str, headers: object, error: object = None) -> Callable[..., None]:
    """Take the status and the headers of a response, as a server's start_response."""
    return lambda data: None


class Requests:
    """Serve requests by Django's WSGI handler, with the project's middleware."""

    def __init__(self) -> None:
        self._handler = WSGIHandler()

    def __call__(self, view: View, chunks: int | None = None) -> int:
        """Have the view serve one request; return the status of its response.

        ``chunks`` is how many parts of the response are taken before it is closed, all
        by default. From any thread.
        """
        environ: dict[str, object] = {_KEY: view}
        setup_testing_defaults(environ)
        response = self._handler(environ, _start)
        assert isinstance(response, HttpResponseBase)
        try:
            for _ in islice(response, chunks):
                pass
        finally:
            # Sends request_finished, as every server has to.
            response.close()
        return response.status_code
