"""What a pool needs of the process that it runs in."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from . import docs

#: Windows, for example, doesn't have them.
_NEEDED = (
    (os, "geteuid"),
    (os, "register_at_fork"),
    (select, "poll"),
    (signal, "pthread_sigmask"),
    (socket, "AF_UNIX"),
)


def problem() -> tuple[str, str] | None:
    """Return why no pool can run in this process and what helps, None if one can."""
    if _is_patched_by_eventlet():
        return (
            "eventlet has patched Python, and a pool can't run in its greenlets.",
            "Use gevent instead, or threads: gunicorn's workers gevent and gthread, "
            f"Celery's pools gevent and threads. {docs.see('gevent', 'gevent')}",
        )
    missing = [
        f"{module.__name__}.{name}"
        for module, name in _NEEDED
        if not hasattr(module, name)
    ]
    if missing:
        return (
            f"A pool needs {', '.join(missing)}, which Python doesn't have here.",
            "dbpool_mw runs on Linux, macOS and BSD.",
        )
    return None


def _is_patched_by_eventlet() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and any(
        map(patcher.is_monkey_patched, ("select", "socket", "thread"))
    )
