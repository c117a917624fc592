"""Who may see what the workers report, and views that are for programs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from dbpool_mw import conf
from dbpool_mw.views.unaided import unaided

#: Headers that proxies and CDNs add: Forwarded and Via of RFC 7239 and RFC 9110, the
#: X-Forwarded-... of most, and what has the client's address, by many names.
_OF_PROXY = re.compile(
    r"via|.*forwarded.*|.*(-|client|socket)ip|.*-(external|viewer)-address",
    re.IGNORECASE,
)

_FORBIDDEN = """\
Forbidden. To see this page, do one of these:
- set DBPOOL_MW_METRICS_TOKEN, and send its value: "Authorization: Bearer VALUE",
- set DBPOOL_MW_METRICS_LOOPBACK = True, and ask from this host, not through a proxy,
- log in as a user who is staff.
"""


def for_machines(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Serve a view to programs, which have no session: GET and HEAD only.

    It needs no connection, and ``CsrfViewMiddleware`` doesn't answer in its place.
    """
    return unaided(csrf_exempt(require_safe(view)))


def is_permitted(request: HttpRequest) -> bool:
    """Tell whether a request may see the figures of the workers.

    It may with the token of ``METRICS_TOKEN``; from the loopback interface, if
    ``METRICS_LOOPBACK`` allows it; and as staff, which is asked last: the session and
    the user of a request that has a session's cookie are in the database.
    """
    return _has_token(request) or _is_local(request) or _is_staff(request)


def forbidden() -> HttpResponse:
    """Return the response to a request that isn't permitted: 403, and what to set."""
    return text(_FORBIDDEN, 403)


def text(content: str, status: int) -> HttpResponse:
    """Return a response in plain text that nothing on its way keeps."""
    response = HttpResponse(content, status=status, content_type="text/plain")
    response.headers["Cache-Control"] = "no-store"
    return response


def _has_token(request: HttpRequest) -> bool:
    token = conf.metrics_token()
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return (
        token is not None
        and scheme.lower() == "bearer"
        and constant_time_compare(given.strip(), token)
    )


def _is_local(request: HttpRequest) -> bool:
    """Tell whether a request is from this host itself and loopback is permitted.

    Behind a proxy on the host every request comes from loopback; most proxies say so
    in a header, but not all.
    """
    if not conf.permits_loopback():
        return False
    headers: Any = request.headers
    if any(map(_OF_PROXY.fullmatch, headers)):
        return False
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False  # such as none at all, on a Unix socket
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_staff(request: HttpRequest) -> bool:
    user: Any = getattr(request, "user", None)
    return bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))
