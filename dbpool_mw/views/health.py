"""The pages of probes: whether this process lives, and whether it should get requests.

Both answer from memory, while every connection is in use and while the database is
down.
"""

from __future__ import annotations

import math
from contextlib import suppress

from django.http import HttpRequest, HttpResponse, JsonResponse

from dbpool_mw.binding.readiness import unready
from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.rate import RateLimit
from dbpool_mw.views.access import for_machines

logger = get_logger("dbpool_mw.pool")

#: One warning a minute in each process.
_warnings = RateLimit(60)


@for_machines
def livez(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process serves requests. Looks at nothing.

    A restart, which is what a failing answer causes, helps no pool and no database.
    """
    return _answer("ok")


@for_machines
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 if this process should get requests, else 503 with ``Retry-After``.

    It should not while an alias is drained or paused, or while a pool is stuck. The
    answer has the reasons in words, as anybody may read it; the log has the aliases.
    """
    reasons = unready()
    if not reasons:
        return _answer("ready")
    # A log handler of the project may raise.
    with suppress(Exception):
        if _warnings.admit() is not None:
            logger.warning("readyz answers 503: %s", ", ".join(map(str, reasons)))
    words = list(dict.fromkeys(reason.state for reason in reasons))
    response = _answer("unavailable", 503, reasons=words)
    seconds = max(1, *(reason.timeout for reason in reasons))
    response.headers["Retry-After"] = str(math.ceil(seconds))
    # Django logs each other response of that status at ERROR, and mails it to ADMINS.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _answer(status: str, code: int = 200, **more: list[str]) -> HttpResponse:
    response = JsonResponse({"status": status, **more}, status=code)
    response.headers["Cache-Control"] = "no-store"
    return response
