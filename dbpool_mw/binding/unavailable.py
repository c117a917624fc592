"""The response to a request for which the pool has no connection: 503."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import TemplateDoesNotExist, loader
from django.utils.html import escape
from django.utils.module_loading import import_string

from dbpool_mw import conf
from dbpool_mw.binding.accept import prefers_json
from dbpool_mw.binding.binding import thread_state
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.rate import RateLimit
from dbpool_mw.core.report import request_text
from dbpool_mw.core.text import one_line

logger = get_logger("dbpool_mw.pool")

#: One warning a second in each process, and one traceback a minute.
_warnings = RateLimit(1)
_tracebacks = RateLimit(60)

_TEXT = "The service is busy. Please try again in a moment."
_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>503 Service Unavailable</title></head>
<body><h1>Service Unavailable</h1><p>{}</p></body>
</html>
"""


def respond(request: HttpRequest, error: PoolError) -> HttpResponseBase:
    """Return the response to a request that gets no connection, and log a warning.

    It is the response of the view that ``DBPOOL_MW_UNAVAILABLE_VIEW`` names; else JSON
    for a client that prefers it, the project's ``503.html``, or a small page. The log
    names the pool, the reason and the holders; the response does so only under DEBUG,
    because anybody may read it.

    Call it in the request's own thread. It waits for no connection: what queries in it
    gets an error at once.
    """
    retry_after = math.ceil(max(1, _timeout(error.alias)))
    thread_state.refused = request
    try:
        # A log handler of the project may raise.
        with suppress(Exception):
            _warn(request, error)
        response = _from_view(request, error)
        if response is None:
            response = _own(request, error, retry_after)
    finally:
        thread_state.refused = None
    response.headers.setdefault("Retry-After", str(retry_after))
    response.headers.setdefault("Cache-Control", "no-store")
    # Django logs each other response of that status at ERROR, and mails it to ADMINS.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _timeout(alias: str) -> float:
    """Return how many seconds a request waits for a connection of an alias.

    The alias has no pool here if the error came from another process, by Celery's way.
    """
    if alias in conf.pooled_aliases():
        return conf.config_for(alias).timeout
    return float(conf.value("TIMEOUT"))


def _warn(request: HttpRequest, error: PoolError) -> None:
    """Log the reason, at most once a second; say how many others that stands for."""
    others = _warnings.admit()
    if others is None:
        return
    number, seconds = others
    more = f" (and {number} more in the last {seconds:.1f} s)" if number else ""
    asked = request_text(request.method, request.path)
    logger.warning("503 for %s: %s%s", asked, error, more)


def _from_view(request: HttpRequest, error: PoolError) -> HttpResponseBase | None:
    """Return the response of the project's view, None without one or if it fails."""
    path = settings.DBPOOL_MW_UNAVAILABLE_VIEW
    if path is None:
        return None
    try:
        made: Any = import_string(path)(request, error)
        # What Django renders for a view, but not for a middleware.
        response = made.render() if hasattr(made, "render") else made
        if not isinstance(response, HttpResponseBase):
            raise TypeError(f"the view returned {response!r}, not a response")
    except Exception:
        _log_failure(f"DBPOOL_MW_UNAVAILABLE_VIEW = {path!r}")
        return None
    return response


def _own(request: HttpRequest, error: PoolError, retry_after: int) -> HttpResponse:
    """Return a response of this package, in the format that the client prefers."""
    text = one_line(str(error)) if settings.DEBUG else _TEXT
    if prefers_json(request.headers.get("Accept", "")):
        return JsonResponse(
            {"error": "unavailable", "detail": text, "retry_after": retry_after},
            status=503,
        )
    page = None if settings.DEBUG else _project_page(retry_after)
    return HttpResponse(page or _PAGE.format(escape(text)), status=503)


def _project_page(retry_after: int) -> str | None:
    """Return the project's ``503.html``, None without one or if it fails.

    As Django's ``500.html``, it is rendered without the request: context processors may
    query, and the user of the request can't be read without a connection.
    """
    try:
        try:
            template = loader.get_template("503.html")
        except TemplateDoesNotExist:
            return None
        return template.render({"retry_after": retry_after})
    except Exception:
        _log_failure("The template 503.html")
        return None


def _log_failure(what: str) -> None:
    """Log the exception that is being handled, at most once a minute."""
    if _tracebacks.admit() is not None:
        with suppress(Exception):
            logger.exception("%s failed; another 503 was sent", what)
