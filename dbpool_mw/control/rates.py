"""How much the pools' counters go up in a second, from one look to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dbpool_mw.control.client import Answer

#: A pool: its worker's socket, its alias and its address.
Key = tuple[Path, str, str]


class _Look(NamedTuple):
    uptime: float
    counts: Mapping[str, int]


class Rates:
    """Compare each pool's counters with those of the look before.

    The time between two looks is taken from the worker's own clock, so that a slow
    answer distorts nothing.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._looks: dict[Key, _Look] = {}

    def look(self, answers: Iterable[Answer]) -> dict[Key, dict[str, float]]:
        """Return the rates of every pool by `keys`, and remember its counters.

        A pool that wasn't seen before has none, nor one that began anew: its counters,
        or the uptime of its worker, are lower than they were. A worker that doesn't
        answer is compared with its last answer when it does again.
        """
        rates: dict[Key, dict[str, float]] = {}
        looks: dict[Key, _Look] = {}
        for answer in answers:
            if answer.reply is None:
                looks |= {k: v for k, v in self._looks.items() if k[0] == answer.path}
                continue
            for pool in answer.reply["pools"]:
                key = key_of(answer, pool)
                looks[key] = _Look(
                    answer.reply["uptime"], {name: pool[name] for name in self._keys}
                )
                if key in self._looks:
                    found = _between(self._looks[key], looks[key])
                    if found is not None:
                        rates[key] = found
        self._looks = looks
        return rates


def key_of(answer: Answer, pool: Mapping[str, Any]) -> Key:
    """Return what a pool of an answer is known by."""
    return answer.path, pool["alias"], pool["address"]


def _between(before: _Look, now: _Look) -> dict[str, float] | None:
    seconds = now.uptime - before.uptime
    grown = {key: now.counts[key] - number for key, number in before.counts.items()}
    if seconds <= 0 or min(grown.values()) < 0:
        return None
    return {key: number / seconds for key, number in grown.items()}
