"""A clock that somebody sets to and fro."""

import time

_time = time.time
SECONDS_AHEAD = (0, 7200, -7200)


def ahead():
    """Give the seconds that the clock is ahead of the right time."""
    return round(time.time() - _time())


def set_it_to_and_fro():
    """Have the clock set anew five times a second."""
    time.time = lambda: _time() + SECONDS_AHEAD[int(time.monotonic() * 5) % 3]
