"""Where Elastic APM sends what it has recorded, in the tests."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticapm.transport.base import Transport


class KeptEvents(Transport):
    """A transport of Elastic APM that keeps what it would send."""

    events: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
        self.events.append((event_type, data))

    def start_thread(self, pid: int | None = None) -> None:
        pass
