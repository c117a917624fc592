"""Which of two representations a client prefers, by its Accept header."""

from __future__ import annotations

import re

# The ranges that match a type, from the most specific on.
_JSON = [re.compile(r"application/(.*\+)?json"), re.compile(r"application/\*")]
_HTML = [re.compile(r"text/html|application/xhtml\+xml"), re.compile(r"text/\*")]
_ANYTHING = re.compile(r"\*/\*")


def prefers_json(accept: str) -> bool:
    """Tell whether an Accept header prefers JSON to HTML (RFC 9110, section 12.5.1).

    The higher quality value decides, then the more specific range, then which of the
    two comes first. A type such as ``application/problem+json`` counts as JSON. False
    without a preference, as with ``*/*`` or an empty header.
    """
    ranges = [_parse(part) for part in accept.lower().split(",")]
    return _rank(ranges, _JSON) > _rank(ranges, _HTML)


def _rank(
    ranges: list[tuple[str, float]], patterns: list[re.Pattern[str]]
) -> tuple[float, int, int]:
    """Return what two types are compared by: quality, specificity, place in the header.

    A type has the quality of the most specific range that matches it, even if a wider
    one has a higher quality: ``application/json;q=0, */*`` refuses JSON.
    """
    for width, pattern in enumerate([*patterns, _ANYTHING]):
        matching = [
            (quality, -width, -place)
            for place, (kind, quality) in enumerate(ranges)
            if pattern.fullmatch(kind)
        ]
        if matching:
            return max(matching)
    return (0.0, 0, 0)


def _parse(part: str) -> tuple[str, float]:
    """Return a media range and its quality value, which is 1 if none can be read."""
    kind, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                break
            return kind, quality if 0 <= quality <= 1 else 1.0
    return kind, 1.0
