"""What Python itself has, where gevent replaced it."""

from __future__ import annotations

import sys
from typing import Any


def original(module: str, name: str) -> Any:
    """Return Python's own object of that name, even where gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(sys.modules[module], name)
    return monkey.get_original(module, name)
