"""Strategies for what may arrive on a control socket: valid and invalid messages."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from dbpool_mw.control import protocol
from tests.control.fakes import (
    histogram,
    holder,
    pool,
    pool_settings,
    reply,
    route,
    waiter,
)

CAP = 200

counts = st.integers(0, 2**53)
numbers = st.one_of(
    counts,
    st.integers(-2, 40),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 10**4200, 2**53, 2**63, 2**64]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308, 1e16, 0.5]),
)
texts = st.one_of(
    st.text(st.characters(), max_size=20),
    st.text(st.sampled_from('\x00\x07\t\n\r\x1b\x7f\x85\u2028\u202e\ud800"\\{},=a')),
    st.sampled_from(["", "default", "\x1b[2J", "stats", "x" * 5000]),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)


def raw(text: str) -> str:
    """Return a text that `framed` inserts without quotes, valid JSON or not."""
    return f"<{text}>"


strange = st.one_of(
    leaves,
    values,
    st.integers(0, 1500).map(lambda depth: raw("[" * depth + "7" + "]" * depth)),
    st.sampled_from([raw("1e400"), raw("-1e400"), raw("9" * 5000), raw("1e-400")]),
)


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Draw values of the same type, which a check of the type alone accepts."""
    if isinstance(value, str):
        return texts
    if isinstance(value, int) and not isinstance(value, bool):
        return st.one_of(counts, counts, counts, numbers)
    return numbers if isinstance(value, float) else strange


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield the path and the value of everything in a JSON value, at every depth."""
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, item in inside:
        yield (*above, key), item
        yield from places(item, (*above, key))


def copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


@st.composite
def damaged(draw: st.DrawFn, sound: Callable[[str], Any]) -> Any:
    """Draw a valid message with one to three changes."""
    message = copied(sound(draw(st.one_of(st.just("sound"), texts))))
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 2, 3]))):
        how = draw(
            st.sampled_from(["alike"] * 5 + ["else"] * 2 + ["remove", "add", "again"])
        )
        found = [
            place
            for place, value in places(message)
            if how != "alike" or not isinstance(value, (dict, list))
        ]
        if not found:
            break
        # Draw the depth first: most paths lead to the buckets of histograms.
        depth = draw(st.sampled_from(sorted({len(place) for place in found})))
        *way, last = draw(st.sampled_from([p for p in found if len(p) == depth]))
        inside = message
        for key in way:
            inside = inside[key]
        if how == "alike":
            inside[last] = draw(alike(inside[last]))
        elif how == "else":
            inside[last] = draw(strange)
        elif how == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(texts)] = draw(strange)
        else:
            inside.append(draw(strange) if how == "add" else copied(inside[last]))
    return message


def a_request(text: str) -> dict[str, Any]:
    return protocol.request(
        "cancel",
        ["default", text],
        holders=True,
        waiters=True,
        settings=True,
        routes=True,
        seconds=5.0,
        began=1.0,
        holds=[text, "1-2-3"],
    )


def a_reply(text: str) -> dict[str, Any]:
    """Return a complete reply with `text` wherever any text is allowed."""
    held = holder(leaked=True, stack=[text, "    pay()"], stale=True, thread=text)
    counted = histogram(0.001, 0.5)
    return reply(
        pool(discarded={text: 2, "expired": 1}, stale=1, wait_seconds=counted),
        pool(f"{text} ", size=3, state=text, hold_seconds=counted),
        command=text,
        orders=[{"verb": text, "aliases": ["default", text], "seconds_left": 1.5}],
        holders=[held, holder(f"{text} ", method=None, path=text, statement=text)],
        waiters=[waiter(path=text, route=text), waiter(text, thread=None)],
        settings=[pool_settings(RESET=text)],
        routes=[route(name=text), route(text)],
        cancelled=["7-1-2", text],
        unknown=["7-1-2"],
    )


# Drawn without one_of, which flattens `values` and so gives it too much weight.
requests = st.sampled_from([damaged(a_request)] * 4 + [values]).flatmap(lambda s: s)
replies = st.sampled_from(
    [damaged(a_reply)] * 10 + [damaged(protocol.error_reply), values]
).flatmap(lambda s: s)


def framed(message: Any) -> bytes:
    """Frame any JSON value, also one that `protocol.encode` refuses."""
    payload = re.sub(rb'"<([^"\\]*)>"', rb"\1", json.dumps(message).encode())
    return struct.pack(">I", len(payload)) + payload


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


cuts = st.lists(st.integers(0, 10_000), max_size=6)
frames = st.one_of(
    st.binary(max_size=CAP + 50),
    st.binary(max_size=CAP + 50).map(lambda b: struct.pack(">I", len(b)) + b),
    st.one_of(requests, values).map(framed),
    st.tuples(values.map(framed), st.binary(max_size=5)).map(b"".join),
)
