"""Encode, decode and check the messages of the control socket.

A connection carries one request and one reply, then the worker closes it. Each message
is a frame::

    0        4                                    4 + length
    +--------+------------------------------------+
    | length | payload                            |
    +--------+------------------------------------+
     uint32   one JSON object, UTF-8
     big-
     endian   at most MAX_REQUEST bytes to a worker, MAX_REPLY bytes from it

    request: {"version": 1,
              "verb": "stats" | "drain" | "pause" | "recycle" | "resume" | "cancel",
              "aliases": ["default", ...] | null,
              "holders": true | false, and so "waiters", "settings" and "routes",
              "history": true | false | 60,
              "columns": ["age", ...] | null, "step": 6 | null,
              "seconds": 300 | null, "began": 1234.5 | null, "kept": true | false,
              "holds": ["123-4-5f", ...] | null}
    reply:   {"version": 1, "ok": true, "pid": 123, "command": "gunicorn: worker",
              "uptime": 12.5, "maintenance_age": 0.4 | null,
              "pools": [...], "orders": [...], "history": [...],
              "holders": [...], "waiters": [...], "settings": [...], "routes": [...],
              "cancelled": ["123-4-5f", ...], "unknown": [...]}
    error:   {"version": 1, "ok": false, "pid": 123, "error": "unknown verb 'x'"}

A length above the limit is refused as soon as it is read, so that no client can make a
worker allocate memory. A message of another version is refused with an error.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from dbpool_mw.core import metrics

VERSION = 1
VERBS = ("stats", "drain", "pause", "recycle", "resume", "cancel")
#: What a request may ask for beside the pools' figures, each a key of the reply.
PARTS = ("holders", "waiters", "settings", "routes")
MAX_REQUEST = 64 * 1024
MAX_REPLY = 4 * 1024 * 1024

_HEADER = struct.Struct(">I")
_HOLD = re.compile(r"(\d{1,10})-\d{1,19}-[0-9a-f]{1,19}", re.ASCII)
# More than any message needs, and less than Python's recursion limit.
_MAX_DEPTH = 16
# The largest integer that every JSON parser keeps exactly. Sums and dates computed from
# such numbers can still be printed.
_MAX_NUMBER = 2**53
# The types of a history's values.
_CELLS = {int, float, type(None)}


class ProtocolError(Exception):
    """A message breaks a rule of this protocol; the text says which."""


class TooLarge(ProtocolError):
    """A message is longer than MAX_REQUEST or MAX_REPLY."""


class BadMessage(ProtocolError):
    """A frame holds no JSON object, or an object with missing or wrong values."""


class BadVersion(ProtocolError):
    """A message is of a version of the protocol that this release doesn't support."""


class Truncated(ProtocolError):
    """The other end closed the connection before its message was complete."""


def encode(message: Mapping[str, Any], limit: int) -> bytes:
    """Return the frame of `message`.

    Raises TooLarge for a payload above `limit` bytes, and BadMessage for a value that
    JSON can't represent. The payload is ASCII with escapes, so a lone surrogate in the
    path of a request arrives as it was.
    """
    try:
        payload = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(f"not expressible in JSON: {error}") from error
    if len(payload) > limit:
        raise TooLarge(f"a message of {len(payload)} bytes, the limit is {limit}")
    return _HEADER.pack(len(payload)) + payload


class Decoder:
    """Assemble one message of at most `limit` bytes from the pieces received."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> dict[str, Any] | None:
        """Add a piece; return the message if it is complete now, else None.

        Raises TooLarge as soon as the length is known, and BadMessage for a complete
        frame that holds no JSON object or is followed by more bytes.
        """
        self._buffer += data
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        if length > self._limit:
            raise TooLarge(f"a message of {length} bytes, the limit is {self._limit}")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        if len(self._buffer) > end:
            raise BadMessage("bytes after the end of the message")
        return _parse(bytes(self._buffer[_HEADER.size :]))

    def closed(self) -> Truncated:
        """Return the error for a connection closed before the message was complete."""
        if not self._buffer:
            return Truncated("closed the connection without a message")
        return Truncated(
            f"closed the connection after {len(self._buffer)} bytes of a message"
        )


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(
            payload.decode(), parse_float=_finite, parse_constant=_finite
        )
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not a JSON text: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage("not a JSON object")
    _check_depth(message)
    return message


def _finite(text: str) -> float:
    """Parse a number; refuse NaN and infinity, which JSON can't represent."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is not a finite number")
    return value


def _check_depth(message: dict[str, Any]) -> None:
    level: list[Any] = [message]
    for _ in range(_MAX_DEPTH):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
        level = inside
    if level:
        raise BadMessage("nested too deeply")


def pid_of(hold: str) -> int:
    """Return the worker's pid in the id of a hold; ValueError for any other text."""
    match = _HOLD.fullmatch(hold)
    if match is None:
        raise ValueError(f"not the id of a hold: {hold!r}")
    return int(match[1])


def request(
    verb: str,
    aliases: Sequence[str] | None = None,
    *,
    holders: bool = False,
    history: bool | float = False,
    columns: Sequence[str] | None = None,
    step: float | None = None,
    waiters: bool = False,
    settings: bool = False,
    routes: bool = False,
    seconds: float | None = None,
    began: float | None = None,
    kept: bool = False,
    holds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return a request; `aliases` None means every pool of the worker.

    `holders` asks for the holders of connections too, `waiters` for who waits for one,
    `settings` for the pools' settings, `routes` for what was counted by route, and
    `history` for the samples of the last quarter of an hour, or of so many seconds: all
    `columns` or these, and with a `step` one row for so many seconds of what is older
    than a minute. A drain or a pause ends by itself after `seconds`, None for never,
    counted from `began`, a time of `time.monotonic`, None for the request's arrival.
    `kept` says that it is for workers that start later too (see `orders`). `holds` are
    the ids of the holders that "cancel" cancels.
    """
    return {
        "version": VERSION,
        "verb": verb,
        "aliases": None if aliases is None else list(aliases),
        "holders": holders,
        "history": history,
        "columns": None if columns is None else list(columns),
        "step": step,
        "waiters": waiters,
        "settings": settings,
        "routes": routes,
        "seconds": seconds,
        "began": began,
        "kept": kept,
        "holds": None if holds is None else list(holds),
    }


def error_reply(text: str) -> dict[str, Any]:
    """Return this process' reply to a request that failed with this text."""
    return {"version": VERSION, "ok": False, "pid": os.getpid(), "error": text}


def check_request(message: Mapping[str, Any]) -> None:
    """Raise BadVersion or BadMessage unless `message` is a request of this version."""
    _check_version(message)
    verb = message.get("verb")
    if verb not in VERBS:
        raise BadMessage(f"unknown verb {verb!r:.80}; known: {', '.join(VERBS)}")
    aliases = message.get("aliases")
    if aliases is not None and not _are_strings(aliases):
        raise BadMessage("'aliases' must be null or a list of strings")
    for key in (*PARTS, "kept"):
        if not isinstance(message.get(key, False), bool):
            raise BadMessage(f"'{key}' must be true or false")
    history = message.get("history", False)
    if not isinstance(history, bool) and not (_are_seconds(history) and history > 0):
        raise BadMessage("'history' must be true, false or a number of seconds above 0")
    columns = message.get("columns")
    if columns is not None and not _are_strings(columns):
        raise BadMessage("'columns' must be null or a list of strings")
    for key in ("step", "seconds"):
        seconds = message.get(key)
        if seconds is not None and not (_are_seconds(seconds) and seconds > 0):
            raise BadMessage(f"'{key}' must be null or a number above 0")
    began = message.get("began")
    if began is not None and not (_are_seconds(began) and began >= 0):
        raise BadMessage("'began' must be null or a number that isn't negative")
    holds = message.get("holds")
    if (verb == "cancel") is (holds is None):
        raise BadMessage("'holds' must be there with 'cancel', and with no other verb")
    if holds is not None and not _are_strings(holds):
        raise BadMessage("'holds' must be a list of strings")


def check_reply(message: Mapping[str, Any]) -> None:
    """Raise BadVersion or BadMessage unless `message` is a reply of this version.

    `render`, `prometheus` and `metrics.merge` accept such a reply without more checks.
    """
    _check_version(message)
    if message.get("ok") is False:
        return
    pools: Any = message.get("pools")
    histories: Any = message.get("history", [])
    orders: Any = message.get("orders", [])
    parts: list[Any] = [message.get(key, []) for key in PARTS]
    if (
        message.get("ok") is not True
        or not isinstance(message.get("command"), str)
        or not _are_seconds(message.get("uptime"))
        or not _are_seconds_or_null(message.get("maintenance_age"))
        or not _are_objects(pools)
        or not _are_objects(histories)
        or not all(map(_is_history, histories))
        or not _are_objects(orders)
        or not all(map(_is_order, orders))
        or not all(map(_are_objects, parts))
        or not _are_strings(message.get("cancelled", []))
        or not _are_strings(message.get("unknown", []))
    ):
        raise BadMessage("a reply with missing or wrong values")
    for pool in pools:
        _check_pool(pool)
    if len({(pool["alias"], pool["address"]) for pool in pools}) < len(pools):
        raise BadMessage("two reports of one pool")
    for key, rows in zip(PARTS, parts, strict=True):
        if not all(map(_CHECKS[key], rows)):
            raise BadMessage(f"{key} with missing or wrong values")


def _check_pool(pool: Mapping[str, Any]) -> None:
    texts = ("alias", "address", "state")
    wrong = [key for key in texts if not isinstance(pool.get(key), str)]
    wrong += [key for key in metrics.SUMMED if not _is_count(pool.get(key))]
    wrong += [key for key in metrics.GREATEST if not _are_seconds(pool.get(key))]
    wrong += [key for key in metrics.LABELLED if not _are_counts(pool.get(key))]
    wrong += [key for key in metrics.HISTOGRAMS if not _is_histogram(pool.get(key))]
    if not _are_windows(pool.get("recent")):
        wrong.append("recent")
    if not _are_seconds_or_null(pool.get("state_seconds_left")):
        wrong.append("state_seconds_left")
    if wrong:
        raise BadMessage(
            f"a pool's report lacks {', '.join(wrong)}; "
            f"do both ends run the same dbpool_mw?"
        )


def _is_holder(holder: Mapping[str, Any]) -> bool:
    pid = holder.get("backend_pid")
    return (
        _is_waiter(holder)
        and holder.keys() >= {"backend_pid", "statement"}
        and isinstance(holder.get("id"), str)
        and isinstance(holder.get("state"), str)
        and isinstance(holder.get("in_transaction"), bool)
        and _is_text_or_null(holder["statement"])
        and (pid is None or _is_count(pid))
        and _are_strings(holder.get("stack", []))
    )


def _is_waiter(waiter: Mapping[str, Any]) -> bool:
    texts = ("thread", "method", "path", "route")
    return (
        waiter.keys() >= set(texts)
        and _is_of_pool(waiter)
        and _are_seconds(waiter.get("seconds"))
        and all(_is_text_or_null(waiter[key]) for key in texts)
    )


def _is_settings(settings: Mapping[str, Any]) -> bool:
    return _is_of_pool(settings) and all(
        value is None
        or isinstance(value, (str, bool))
        or (isinstance(value, (int, float)) and abs(value) <= _MAX_NUMBER)
        for value in settings.values()
    )


def _is_route(row: Mapping[str, Any]) -> bool:
    return (
        isinstance(row.get("alias"), str)
        and isinstance(row.get("name"), str)
        and all(
            _is_histogram(row.get(key)) and _are_seconds_or_null(row[key].get("p95"))
            for key in ("holds", "waits")
        )
    )


def _is_of_pool(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("alias"), str) and isinstance(row.get("address"), str)


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


_CHECKS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "holders": _is_holder,
    "waiters": _is_waiter,
    "settings": _is_settings,
    "routes": _is_route,
}


def _is_order(order: Mapping[str, Any]) -> bool:
    aliases = order.get("aliases")
    return (
        isinstance(order.get("verb"), str)
        and (aliases is None or _are_strings(aliases))
        and _are_seconds_or_null(order.get("seconds_left"))
    )


def _are_windows(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(window := value.get(name), dict)
        and _are_seconds(window.get("seconds"))
        and all(_is_count(window.get(key)) for key in metrics.RECENT)
        and all(_is_histogram(window.get(key)) for key in metrics.HISTOGRAMS)
        for name in metrics.WINDOWS
    )


def _is_history(history: Mapping[str, Any]) -> bool:
    columns, rows = history.get("columns"), history.get("rows")
    return (
        isinstance(history.get("alias"), str)
        and isinstance(history.get("address"), str)
        and _are_seconds(history.get("interval"))
        and isinstance(columns, list)
        and _are_strings(columns)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(columns) for row in rows)
        and _are_cells(list(chain.from_iterable(rows)))
    )


def _are_cells(values: Sequence[Any]) -> bool:
    """Tell what `_are_seconds_or_null` does of each of many values, but faster."""
    return set(map(type, values)) <= _CELLS and all(
        map(float(_MAX_NUMBER).__ge__, map(abs, filter(None, values)))
    )


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_histogram(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("count"))
        and _are_seconds(value.get("sum"))
        and _are_seconds(value.get("max"))
        and isinstance(value.get("buckets"), list)
        and len(value["buckets"]) == len(metrics.BOUNDS) + 1
        and all(map(_is_count, value["buckets"]))
    )


def _is_count(value: object) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and 0 <= value <= _MAX_NUMBER
    )


def _are_seconds_or_null(value: object) -> bool:
    return value is None or _are_seconds(value)


def _are_seconds(value: object) -> bool:
    # The time of a hold that began while the report was made is slightly negative.
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= _MAX_NUMBER
    )


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _check_version(message: Mapping[str, Any]) -> None:
    version = message.get("version")
    if version != VERSION:
        raise BadVersion(
            f"control protocol version {version!r:.20} isn't supported "
            f"(this is version {VERSION}); do both ends run the same dbpool_mw?"
        )


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
