"""The response to a request for which the pool has no connection: 503."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from dbpool_mw import conf
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.report import request_text

logger = get_logger("dbpool_mw.pool")


def respond(request: HttpRequest, error: PoolError) -> HttpResponseBase:
    """Return a 503 with Retry-After and the reason, and log one warning.

    The response is plain text, or JSON where the request prefers it, or that of the
    view which ``DBPOOL_MW_UNAVAILABLE_VIEW`` names. The log names the holders; the
    response doesn't, because anybody may read it.
    """
    asked = request_text(request.method, request.path)
    logger.warning("503 for %s: %s", asked, error)
    if settings.DBPOOL_MW_UNAVAILABLE_VIEW is not None:
        view = import_string(settings.DBPOOL_MW_UNAVAILABLE_VIEW)
        response: HttpResponseBase = view(request, error)
        return response
    reason = f"No database connection: {error.summary}."
    seconds = max(1, math.ceil(conf.config_for(error.alias).timeout))
    if _prefers_json(request):
        answer: Any = JsonResponse(
            {"error": "unavailable", "detail": reason, "retry_after": seconds},
            status=503,
        )
    else:
        text = f"503 Service Unavailable\n{reason}\n"
        answer = HttpResponse(text, status=503, content_type="text/plain")
    answer.headers["Retry-After"] = str(seconds)
    answer.headers["Cache-Control"] = "no-store"
    return answer  # type: ignore[no-any-return]


def _prefers_json(request: HttpRequest) -> bool:
    """Tell whether the Accept header names JSON before any type of text."""
    for accepted in request.headers.get("Accept", "").lower().split(","):
        kind = accepted.partition(";")[0].strip()
        if kind == "application/json" or kind.endswith("+json"):
            return True
        if kind.startswith("text/"):
            return False
    return False
