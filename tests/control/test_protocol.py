from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from dbpool_mw.control import protocol
from dbpool_mw.core import metrics
from tests.control.fakes import (
    histogram,
    holder,
    pool,
    pool_settings,
    reply,
    route,
    waiter,
)

HISTORY: dict[str, Any] = {
    "alias": "default",
    "address": "",
    "interval": 1.0,
    "columns": ["age", "hold_p95"],
    "rows": [[1.5, None], [0.5, 0.25]],
}


def windows(**changes: Any) -> dict[str, Any]:
    """Return recent figures of which the last minute's have these values."""
    return {"60": metrics.empty_window() | changes, "900": metrics.empty_window()}


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def test_a_message_cut_anywhere_is_decoded() -> None:
    message = protocol.request("stats", ["default"], holders=True)
    data = protocol.encode(message, protocol.MAX_REQUEST)
    for cut in range(1, len(data)):
        decoder = protocol.Decoder(protocol.MAX_REQUEST)
        assert decoder.feed(data[:cut]) is None
        assert decoder.feed(data[cut:]) == message


def test_the_frame_is_a_big_endian_length_and_json() -> None:
    data = protocol.encode({"a": "ü"}, 100)
    assert data[:4] == b"\0\0\0\x0e"
    assert json.loads(data[4:]) == {"a": "ü"}


def test_a_lone_surrogate_in_a_path_survives() -> None:
    data = protocol.encode({"path": "/\udcff"}, 100)
    assert protocol.Decoder(100).feed(data) == {"path": "/\udcff"}


def test_a_message_above_the_limit_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(protocol.TooLarge, match="101 bytes, the limit is 100"):
        protocol.Decoder(100).feed(struct.pack(">I", 101))


def test_a_message_above_the_limit_is_not_encoded() -> None:
    with pytest.raises(protocol.TooLarge):
        protocol.encode({"a": "x" * 100}, 100)


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf")])
def test_a_value_that_json_cannot_represent_is_a_bad_message(value: Any) -> None:
    with pytest.raises(protocol.BadMessage):
        protocol.encode({"a": value}, 1000)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[1]",
        b"7",
        b'{"a": 1',
        b"[" * 60_000,
        b'{"a":' + b"9" * 5000,
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":' + b"[" * 17 + b"]" * 17 + b"}",
    ],
    ids=[
        "empty",
        "text",
        "bytes",
        "list",
        "number",
        "half",
        "deep",
        "long number",
        "not a number",
        "infinite",
        "above every float",
        "deeper than any message",
    ],
)
def test_a_frame_without_a_json_object_is_a_bad_message(payload: bytes) -> None:
    with pytest.raises(protocol.BadMessage):
        protocol.Decoder(protocol.MAX_REQUEST).feed(frame(payload))


def test_bytes_after_the_message_are_refused() -> None:
    with pytest.raises(protocol.BadMessage, match="after the end"):
        protocol.Decoder(100).feed(frame(b"{}") + b"x")


def test_a_connection_closed_early_is_an_error_with_the_bytes_received() -> None:
    decoder = protocol.Decoder(100)
    assert "without a message" in str(decoder.closed())
    decoder.feed(b"\0\0\0\x09{")
    assert "after 5 bytes" in str(decoder.closed())


@pytest.mark.parametrize("verb", protocol.VERBS)
def test_a_request_with_any_verb_is_valid(verb: str) -> None:
    holds = ["1-2-3"] if verb == "cancel" else None
    protocol.check_request(protocol.request(verb, holds=holds))
    parts: Any = dict.fromkeys(protocol.PARTS, True)
    protocol.check_request(protocol.request(verb, ["default"], holds=holds, **parts))
    protocol.check_request(protocol.request(verb, holds=holds, history=True))
    protocol.check_request(protocol.request(verb, holds=holds, history=2.5))
    few: Any = {"history": True, "columns": ["age"], "step": 6}
    protocol.check_request(protocol.request(verb, holds=holds, **few))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version 2 isn't supported"),
        ({"version": "x" * 5000}, "isn't supported"),
        ({"verb": "explode"}, "unknown verb 'explode'"),
        ({"verb": ["stats"]}, "unknown verb"),
        ({"verb": {}}, "unknown verb"),
        ({"aliases": "default"}, "aliases"),
        ({"aliases": [1]}, "aliases"),
        *[({part: "yes"}, part) for part in protocol.PARTS],
        ({"history": "yes"}, "history"),
        ({"history": 0}, "history"),
        ({"history": None}, "history"),
        ({"columns": "age"}, "columns"),
        ({"step": 0}, "step"),
        ({"verb": "cancel"}, "'holds' must be there with 'cancel'"),
        ({"holds": ["1-2-3"]}, "'holds' must be there with 'cancel', and with no"),
        ({"verb": "cancel", "holds": "1-2-3"}, "'holds' must be a list of strings"),
        ({"verb": "cancel", "holds": [1]}, "'holds' must be a list of strings"),
    ],
)
def test_a_wrong_request_is_an_error_that_says_what_is_wrong(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(protocol.ProtocolError, match=text) as caught:
        protocol.check_request({**protocol.request("stats"), **change})
    assert len(str(caught.value)) < 300


def test_a_complete_reply_is_valid() -> None:
    protocol.check_reply(
        reply(
            pool(),
            holders=[holder(), holder(route=None, statement="SELECT 1")],
            waiters=[waiter()],
            settings=[pool_settings()],
            routes=[route()],
            history=[HISTORY],
            cancelled=["1-2-3"],
            unknown=[],
        )
    )
    protocol.check_reply(protocol.error_reply("no"))


@pytest.mark.parametrize(
    "message",
    [
        {**reply(), "version": None},
        {**reply(), "ok": 1},
        {**reply(), "pools": None},
        {**reply(), "pools": [7]},
        {**reply(), "uptime": "long"},
        {**reply(), "maintenance_age": "long"},
        {**reply(), "command": None},
        {**reply(), "holders": [{"path": "/"}]},
        {**reply(), "history": None},
        {**reply(), "history": [7]},
        {**reply(), "history": [{**HISTORY, "alias": 7}]},
        {**reply(), "history": [{**HISTORY, "address": None}]},
        {**reply(), "history": [{**HISTORY, "interval": "1"}]},
        {**reply(), "history": [{**HISTORY, "columns": None}]},
        {**reply(), "history": [{**HISTORY, "columns": ["age", 7]}]},
        {**reply(), "history": [{**HISTORY, "rows": None}]},
        {**reply(), "history": [{**HISTORY, "rows": [7]}]},
        {**reply(), "history": [{**HISTORY, "rows": [[1.0]]}]},
        {**reply(), "history": [{**HISTORY, "rows": [[1.0, "2"]]}]},
        {**reply(), "history": [{**HISTORY, "rows": [[1.0, True]]}]},
        {**reply(), "history": [{**HISTORY, "rows": [[1.0, -(2**54)]]}]},
        {**reply(), "orders": None},
        {**reply(), "orders": [{"verb": None}]},
        {**reply(), "orders": [{"verb": "pause", "aliases": "default"}]},
        {**reply(), "orders": [{"verb": "pause", "seconds_left": "long"}]},
        {**reply(), "waiters": [7]},
        {**reply(), "settings": {}},
        {**reply(), "routes": None},
        {**reply(), "cancelled": "1-2-3"},
        {**reply(), "unknown": [1]},
        reply(pool(), pool()),
        reply(pool(alias=7)),
        reply(pool(size=None)),
        reply(pool(size=True)),
        reply(pool(size=-1)),
        reply(pool(stale=0.5)),
        reply(pool(opened=10**30)),
        reply(pool(oldest_hold_seconds=None)),
        reply(pool(oldest_wait_seconds="long")),
        reply(pool(refused_by_reason={"timeout": "x"})),
        reply(pool(recent=None)),
        reply(pool(recent={"60": metrics.empty_window()})),
        reply(pool(recent={"60": metrics.empty_window(), "900": 7})),
        reply(pool(recent=windows(seconds="long"))),
        reply(pool(recent=windows(in_use_peak=-1))),
        reply(pool(recent=windows(hold_seconds={}))),
        reply(pool(discarded=[])),
        reply(pool(discarded={"idle": -1})),
        reply(pool(wait_seconds={"count": 1})),
        reply(pool(wait_seconds={"count": 0, "sum": 0, "max": 0, "buckets": [0]})),
    ],
)
def test_a_reply_with_missing_or_wrong_values_is_a_protocol_error(
    message: dict[str, Any],
) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.check_reply(message)


def test_a_report_without_a_figure_is_an_error_that_names_it() -> None:
    old = pool()
    del old["reclaimed"]
    with pytest.raises(protocol.BadMessage, match="lacks reclaimed"):
        protocol.check_reply(reply(old))


@pytest.mark.parametrize(
    "change",
    [
        {"alias": ["default"]},
        {"address": None},
        {"backend_pid": "\x1b[2J"},
        {"thread": 7},
        {"path": {}},
        {"route": 1},
        {"seconds": 10**400},
    ],
)
def test_a_holder_or_waiter_with_a_wrong_value_is_refused(
    change: dict[str, Any],
) -> None:
    with pytest.raises(protocol.BadMessage, match="holders with missing"):
        protocol.check_reply(reply(pool(), holders=[holder(**change)]))
    if "backend_pid" not in change:
        with pytest.raises(protocol.BadMessage, match="waiters with missing"):
            protocol.check_reply(reply(pool(), waiters=[waiter(**change)]))


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("holders", holder(id=None)),
        ("holders", holder(state=1)),
        ("holders", holder(in_transaction=None)),
        ("holders", holder(statement=["SELECT 1"])),
        ("settings", pool_settings(alias=None)),
        ("settings", pool_settings(RESET=["auto"])),
        ("settings", pool_settings(MAX_CONNS=10**30)),
        ("routes", route(alias=None)),
        ("routes", route(name=None)),
        ("routes", route(holds={"count": 1})),
        ("routes", route(waits={**histogram(), "p95": "long"})),
    ],
)
def test_what_else_a_worker_says_is_checked_too(part: str, row: dict[str, Any]) -> None:
    with pytest.raises(protocol.BadMessage, match=f"{part} with missing"):
        protocol.check_reply(reply(pool(), **{part: [row]}))


@pytest.mark.parametrize("key", ["id", "state", "in_transaction", "statement", "route"])
def test_a_holder_without_a_key_is_refused(key: str) -> None:
    row = holder()
    del row[key]
    with pytest.raises(protocol.BadMessage, match="holders with missing"):
        protocol.check_reply(reply(pool(), holders=[row]))


def test_one_alias_may_have_several_pools() -> None:
    protocol.check_reply(reply(pool(), pool(address="shop/report@db1:5432")))


def test_a_hold_that_began_during_the_report_is_valid() -> None:
    quick = holder(seconds=-1e-6, backend_pid=None, path=None, method=None)
    protocol.check_reply(reply(pool(), holders=[quick]))


@pytest.mark.parametrize("stack", ["a text", [1], {}, None])
def test_a_stack_that_is_not_a_list_of_lines_is_refused(stack: Any) -> None:
    bad = reply(pool(), holders=[holder(stack=stack)])
    with pytest.raises(protocol.BadMessage, match="holders with missing"):
        protocol.check_reply(bad)
