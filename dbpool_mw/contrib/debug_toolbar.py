"""A panel of django-debug-toolbar: what a request did with the pools."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from debug_toolbar.panels import Panel

from dbpool_mw.binding.usage import Usage
from dbpool_mw.core.cleaning import RESET


class PoolPanel(Panel):  # type: ignore[misc]
    """Show a request's checkouts, its waits for them, its holds and its resets.

    With each reset stands the statement that caused it. A hold that lasts to the end of
    the request is checked in after the page was made: for it the panel says what is
    going to happen, as the session is then.

    What the request's own thread does is shown, under ASGI too; blocks of ``pooled()``
    in other threads aren't.
    """

    is_async = True
    title = "Database pools"
    template = "dbpool_mw/debug_toolbar.html"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._usage: Usage | None = None

    @property
    def nav_subtitle(self) -> str:
        """The number of checkouts and of resets."""
        stats = self.get_stats()
        if not stats:
            return ""
        shown = _counted(len(stats["checkouts"]), "checkout")
        return f"{shown}, {_counted(stats['resets'], 'reset')}"

    async def aenable_instrumentation(self) -> None:
        """Begin to record in the request's own thread, which has the connections."""
        await sync_to_async(self.enable_instrumentation)()

    def enable_instrumentation(self) -> None:
        """Begin to record what this thread checks out and in."""
        if self._usage is None:
            self._usage = Usage()

    def disable_instrumentation(self) -> None:
        """End the recording; the request has its response."""
        if self._usage is not None:
            self._usage.stop()

    def generate_stats(self, request: Any, response: Any) -> None:
        """Record the figures, as plain data."""
        if self._usage is None:
            return
        checkouts = self._usage.as_list()
        for checkout in checkouts:
            checkout["wait_ms"] = 1000 * checkout.pop("wait_seconds")
            checkout["hold_ms"] = 1000 * checkout.pop("hold_seconds")
        self.record_stats(
            {
                "checkouts": checkouts,
                "wait_ms": sum(checkout["wait_ms"] for checkout in checkouts),
                "hold_ms": sum(checkout["hold_ms"] for checkout in checkouts),
                "resets": sum(one["outcome"] == RESET for one in checkouts),
            }
        )

    def generate_server_timing(self, request: Any, response: Any) -> None:
        """Add the time that the request waited for connections to Server-Timing."""
        stats = self.get_stats()
        if stats:
            title = f"Waiting, {_counted(len(stats['checkouts']), 'checkout')}"
            self.record_server_timing("pool", title, stats["wait_ms"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
