"""What a pool needs of the operating system, and Windows, for example, doesn't have."""

from __future__ import annotations

import os
import select
import signal
import socket

_NEEDED = (
    (os, "geteuid"),
    (os, "register_at_fork"),
    (select, "poll"),
    (signal, "pthread_sigmask"),
    (socket, "AF_UNIX"),
)


def missing() -> list[str]:
    """Return the names of what Python doesn't have here, such as "socket.AF_UNIX"."""
    return [
        f"{module.__name__}.{name}"
        for module, name in _NEEDED
        if not hasattr(module, name)
    ]
