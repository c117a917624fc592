"""Send a verb such as drain to the workers, then poll them until it is done.

A verb is done when no selected pool has a stale connection any more. A worker that ends
meanwhile counts as done, because its connections end with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dbpool_mw.control import protocol
from dbpool_mw.control.client import Answer, ask

ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the workers have got with a verb.

    `answers` has the latest answer of each worker that confirmed the verb and still
    exists, `failed` the answers of the workers that didn't confirm it, and `gone` the
    pids of those that have ended.
    """

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
    def done(self) -> bool:
        """Whether every worker that confirmed the verb reports no stale connection."""
        return not self.left and not self.silent


def send(
    verb: str,
    found: list[Path],
    aliases: Collection[str] | None = None,
    *,
    seconds: float | None = None,
    kept: bool = False,
) -> Progress:
    """Send the verb to the workers at these sockets at once; return their progress.

    `aliases` None means every pool; for `seconds` and `kept` see `protocol.request`.
    Raises ControlDirError and ProtocolError like `client.ask`.
    """
    request = protocol.request(
        verb, _sorted(aliases), holders=True, seconds=seconds, kept=kept
    )
    answers = ask(found, request, ANSWER_SECONDS)
    return Progress(
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
    """Poll the workers until the verb is done, at most `seconds`; return the progress.

    `report` is called with the progress before the first poll and after each. Raises
    like `send`.
    """
    deadline = time.monotonic() + seconds
    request = protocol.request("stats", _sorted(aliases), holders=True)
    while True:
        report(progress)
        remaining = deadline - time.monotonic()
        if progress.done or remaining <= 0:
            return progress
        time.sleep(min(POLL_SECONDS, remaining))
        timeout = max(POLL_SECONDS, min(ANSWER_SECONDS, deadline - time.monotonic()))
        found = [answer.path for answer in progress.answers]
        answers = ask(found, request, timeout)
        progress = Progress(
            [a.only(aliases) for a in answers if not a.gone],
            progress.failed,
            progress.gone + [a.pid for a in answers if a.gone],
        )


def _sorted(aliases: Collection[str] | None) -> list[str] | None:
    return None if aliases is None else sorted(aliases)
