"""The result of a benchmark: a series of rounds for each measured thing, and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal


@dataclass
class Series:
    """One thing measured once in every round."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the middle round."""
        return median(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """One series divided by another, and the target for that ratio, if there is one.

    The figure is the median of the rounds' ratios: a load that slows the machine for
    some seconds slows both measurements of a round alike.
    """

    over: Series
    under: Series
    bound: Literal["at most", "at least"] = "at most"
    target: float | None = None

    @property
    def name(self) -> str:
        """Return the two series' names."""
        return f"{self.over.name} / {self.under.name}"

    @property
    def rounds(self) -> list[float]:
        """Return the ratio in each round."""
        return [
            over / under
            for over, under in zip(self.over.rounds, self.under.rounds, strict=True)
        ]

    @property
    def median(self) -> float:
        """Return the middle ratio."""
        return median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met; None without a target."""
        if self.target is None:
            return None
        if self.bound == "at most":
            return self.median <= self.target
        return self.median >= self.target

    @property
    def verdict(self) -> str:
        """Return the target in words, and by how many percent it is missed."""
        if self.target is None:
            return "no target"
        text = f"{self.bound} {self.target:g}: "
        if self.met:
            return text + "met"
        missed = abs(self.median - self.target) / self.target
        return text + f"missed by {missed:.1%}"


@dataclass(frozen=True)
class Part:
    """One benchmark: its title and method, its series and its ratios."""

    title: str
    method: str
    series: Sequence[Series]
    ratios: Sequence[Ratio]
