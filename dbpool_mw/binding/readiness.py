"""Whether this process should get requests, judged by its pools; from memory."""

from __future__ import annotations

from typing import NamedTuple

from dbpool_mw import conf
from dbpool_mw.binding import registry

#: The state of an alias one of whose pools has had every connection in use, and none
#: given back, for STUCK_AFTER.
STUCK = "stuck"


class Unready(NamedTuple):
    """Why an alias needs requests to stay away: draining, paused or stuck.

    ``timeout`` is the seconds that a request would wait for a connection.
    """

    alias: str
    state: str
    timeout: float

    def __str__(self) -> str:
        return f"{self.alias} is {self.state}"


def unready() -> list[Unready]:
    """Return why this process should get no requests now, nothing if it should.

    Asks no database, opens no connection and waits for nothing. A pool that has never
    been used, one whose database can't be reached, and one that is full while its
    connections come back are no reasons. Raises ImproperlyConfigured when settings are
    wrong.
    """
    found = [
        Unready(alias, state, conf.config_for(alias).timeout)
        for alias in conf.pooled_aliases()
        if (state := registry.state_ordered(alias)) is not None
    ]
    stuck = {pool.name: pool for pool in registry.pools() if pool.is_stuck()}
    return found + [
        Unready(alias, STUCK, pool.config.timeout) for alias, pool in stuck.items()
    ]
