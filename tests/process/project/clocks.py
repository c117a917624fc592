"""A clock that is set forward and back again and again."""

import time

_time = time.time
SECONDS_AHEAD = (0, 7200, -7200)


def ahead():
    """Return the seconds that the clock is ahead of the right time."""
    return round(time.time() - _time())


def set_forward_and_back():
    """Make time.time() jump five times a second."""
    time.time = lambda: _time() + SECONDS_AHEAD[int(time.monotonic() * 5) % 3]
