"""Check that the page of the pools hides no other page of the project."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.urls import Resolver404, get_resolver

from dbpool_mw import conf
from dbpool_mw.checks.messages import message


def check_urls(**kwargs: Any) -> list[CheckMessage]:
    """Look for an include of the package's URLs before another page of its prefix.

    The page of the pools is at the root of the include. What catches every path, and
    stands behind, is hidden by an include without a prefix alone.
    """
    if conf.is_switched_off() or not getattr(settings, "ROOT_URLCONF", None):
        return []
    patterns = list(get_resolver().url_patterns)
    for at, pattern in enumerate(patterns):
        prefix = str(pattern.pattern)
        if getattr(pattern, "app_name", None) == "dbpool_mw" and any(
            prefix in ("", str(other.pattern)) and _answers(other, prefix)
            for other in patterns[at + 1 :]
        ):
            return [
                message(
                    "urls",
                    f"dbpool_mw.urls is included at {prefix!r}, before another page "
                    "of that address: the page of the pools hides it.",
                    'Write path("dbpool/", include("dbpool_mw.urls")), or another '
                    "prefix that nothing else uses.",
                )
            ]
    return []


def _answers(pattern: Any, path: str) -> bool:
    try:
        return pattern.resolve(path) is not None
    except Resolver404:
        return False
