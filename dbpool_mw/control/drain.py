"""Send a drain and its like to the workers, and watch until it is done.

Done means: no selected pool has a connection left from before (`stale` is 0). A worker
that ends meanwhile takes its connections with it, so it counts as empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dbpool_mw.control import protocol
from dbpool_mw.control.client import Answer, ask_paths

ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a drain stands.

    `answers` are the latest of the workers that took the verb and still exist,
    `ignored` those of the workers that did not take it, `gone` the pids that ended.
    """

    answers: list[Answer]
    ignored: list[Answer]
    gone: list[int]

    @property
    def left(self) -> int:
        """The connections from before that are still open, as far as workers say."""
        return sum(
            pool["stale"]
            for answer in self.answers
            if answer.reply is not None
            for pool in answer.reply["pools"]
        )

    @property
    def silent(self) -> list[Answer]:
        """The workers that took the verb and then did not answer a poll."""
        return [answer for answer in self.answers if answer.reply is None]

    @property
    def done(self) -> bool:
        """Whether nothing is left in any worker that took the verb."""
        return not self.left and not self.silent


def send(
    verb: str, found: list[Path], aliases: Collection[str] | None = None
) -> Progress:
    """Send the verb to these workers, all at once; say who took it.

    Raises ControlDirError and ProtocolError, as `client.ask_all` does.
    """
    request = protocol.request(verb, _listed(aliases), holders=True)
    answers = ask_paths(found, request, ANSWER_SECONDS)
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
    """Ask on until it is done, at most `seconds`; `report` gets every step.

    Raises like `send`.
    """
    deadline = time.monotonic() + seconds
    request = protocol.request("stats", _listed(aliases), holders=True)
    while True:
        report(progress)
        left = deadline - time.monotonic()
        if progress.done or left <= 0:
            return progress
        time.sleep(min(POLL_SECONDS, left))
        patience = max(POLL_SECONDS, min(ANSWER_SECONDS, deadline - time.monotonic()))
        asked = [answer.path for answer in progress.answers]
        answers = ask_paths(asked, request, patience)
        progress = Progress(
            [a.only(aliases) for a in answers if not a.gone],
            progress.ignored,
            progress.gone + [a.pid for a in answers if a.gone],
        )


def _listed(aliases: Collection[str] | None) -> list[str] | None:
    return None if aliases is None else sorted(aliases)
