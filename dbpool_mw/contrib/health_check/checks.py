"""The check: it fails where ``readyz`` answers 503, and takes no connection either."""

from __future__ import annotations

import dataclasses

from health_check.exceptions import ServiceUnavailable

from dbpool_mw.binding.readiness import unready

try:
    from health_check import HealthCheck
except ImportError:  # up to 3.20
    from health_check.backends import BaseHealthCheckBackend as HealthCheck


@dataclasses.dataclass
class Pools(HealthCheck):  # type: ignore[misc]
    """Check that no pool of this process is drained, paused or stuck.

    ``alias`` restricts that to the pools of one alias. Answers from memory: the check
    works while every connection is in use and while the database is down.
    """

    alias: str | None = None

    async def run(self) -> None:
        """Raise ServiceUnavailable with the reasons; django-health-check 4 calls it.

        A coroutine, because it blocks on nothing, and would be run in another thread.
        """
        self.check_status()

    def check_status(self) -> None:
        """Raise ServiceUnavailable with the reasons; django-health-check 3 calls it."""
        reasons = [
            str(reason) for reason in unready() if self.alias in (None, reason.alias)
        ]
        if reasons:
            raise ServiceUnavailable(", ".join(reasons))
