"""What every part of a comparison is given: the subjects, the server, and how long."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sandbox.compare.subjects import Subject
from sandbox.postgres import PostgresServer

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Run:
    """One run of ``python -m sandbox.compare``.

    ``subjects`` are those that can run here. ``rounds`` is what the command line says,
    None where each part has its own number.
    """

    subjects: Sequence[Subject]
    server: PostgresServer
    directory: Path
    quick: bool = False
    rounds: int | None = None

    def tell(self, text: str) -> None:
        """Print progress to stderr, apart from the figures."""
        print(text, file=sys.stderr, flush=True)

    def attempt(
        self, subject: Subject, work: Callable[[Subject], _Item]
    ) -> _Item | str:
        """Return what ``work`` returns, or why it failed, on one line for the table.

        A subject that fails doesn't end the run: whatever it raises is its result.
        """
        try:
            return work(subject)
        except Exception as error:
            lines = str(error).strip().splitlines()
            said = lines[-1].strip() if lines else ""
            self.tell(f"{subject.title} failed: {type(error).__name__}: {error}")
            return f"failed: {type(error).__name__}: {said}"[:120]


def in_turn(items: Sequence[_Item], rounds: int) -> Iterator[_Item]:
    """Yield every item once in each round, shuffled: none always follows the same one.

    The shuffles are the same in every run.
    """
    shuffles = random.Random(0)
    for _ in range(rounds):
        yield from shuffles.sample(items, len(items))
