"""Send a verb such as drain to the workers, then poll them until it is done.

A verb is done when no selected pool has a stale connection any more and those of the
workers that confirmed it are still in its state. A worker that ends meanwhile counts as
done, because its connections end with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbpool_mw.control import paths, protocol
from dbpool_mw.control.client import Answer, ask, has_ended

ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.2
#: How long a poll waits at least, also when the time is nearly over.
_LEAST_ANSWER_SECONDS = 0.5

#: The state of a pool under a verb that goes on.
_STATES = {"drain": "draining", "pause": "paused"}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the workers have got with `verb`.

    `answers` has the latest answer of each worker that confirmed the verb and still
    exists, `failed` the answers of the workers that didn't confirm it, and `gone` the
    pids of those that have ended.
    """

    verb: str
    answers: list[Answer]
    failed: list[Answer]
    gone: list[int]

    @property
    def left(self) -> int:
        """The number of stale connections that the workers reported last."""
        return sum(
            pool["stale"]
            for answer in self.answers
            if answer.reply is not None
            for pool in answer.reply["pools"]
        )

    @property
    def silent(self) -> list[Answer]:
        """The answers of workers that confirmed the verb and didn't answer the poll."""
        return [answer for answer in self.answers if answer.reply is None]

    @property
    def ended(self) -> list[Answer]:
        """The answers of workers with a pool that isn't in the verb's state any more.

        The time of the order is over, or somebody has given another one.
        """
        state = _STATES.get(self.verb)
        return [
            answer
            for answer in self.answers
            if state is not None
            and answer.reply is not None
            and any(pool["state"] != state for pool in answer.reply["pools"])
        ]

    @property
    def done(self) -> bool:
        """Whether every worker is under the verb and reports no stale connection."""
        return not self.left and not self.silent and not self.ended


def send(
    verb: str,
    found: list[Path],
    aliases: Collection[str] | None = None,
    *,
    seconds: float | None = None,
    began: float | None = None,
    kept: bool = False,
) -> Progress:
    """Send the verb to the workers at these sockets at once; return their progress.

    `aliases` None means every pool; for `seconds`, `began` and `kept` see
    `protocol.request`.
    Raises ControlDirError and ProtocolError like `client.ask`.
    """
    request = protocol.request(
        verb, _sorted(aliases), holders=True, seconds=seconds, began=began, kept=kept
    )
    answers = ask(found, request, ANSWER_SECONDS)
    return Progress(
        verb,
        [a.only(aliases) for a in answers if a.reply is not None],
        [a for a in answers if a.reply is None and not a.gone],
        [a.pid for a in answers if a.gone],
    )


def wait(
    progress: Progress,
    aliases: Collection[str] | None,
    seconds: float,
    report: Callable[[Progress], None],
) -> Progress:
    """Poll the workers until the verb is done or has ended; return the progress.

    Waits `seconds` at most.

    `report` is called with the progress before the first poll and after each. Raises
    like `send`.
    """
    deadline = time.monotonic() + seconds
    request = protocol.request("stats", _sorted(aliases), holders=True)
    while True:
        report(progress)
        remaining = deadline - time.monotonic()
        if progress.done or progress.ended or remaining <= 0:
            return progress
        time.sleep(min(POLL_SECONDS, remaining))
        remaining = deadline - time.monotonic()
        timeout = max(_LEAST_ANSWER_SECONDS, min(ANSWER_SECONDS, remaining))
        answers = _poll(progress.answers, request, timeout)
        progress = Progress(
            progress.verb,
            [a.only(aliases) for a in answers if not a.gone],
            progress.failed,
            progress.gone + [a.pid for a in answers if a.gone],
        )


def _poll(asked: list[Answer], request: dict[str, Any], timeout: float) -> list[Answer]:
    try:
        return ask([answer.path for answer in asked], request, timeout)
    except paths.ControlDirMissing as error:
        # The last worker has removed it, or somebody has; then they make it anew.
        return [
            Answer(a.pid, a.path, error=str(error), gone=has_ended(a.pid))
            for a in asked
        ]


def _sorted(aliases: Collection[str] | None) -> list[str] | None:
    return None if aliases is None else sorted(aliases)
