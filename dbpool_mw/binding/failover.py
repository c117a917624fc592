"""Replace a pool's connections when their server hands over to another.

All of them go at once, because all of them lead to the same server: one failed
statement tells it for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dbpool_mw.core.logs import get_logger
from dbpool_mw.core.pool import ConnectionPool

logger = get_logger("dbpool_mw.pool")


class Failover:
    """Has a pool replace, once, all connections that a failover leaves behind.

    ``pool`` is assigned before the first connection is opened. The other methods may be
    called from any thread.
    """

    pool: ConnectionPool

    def __init__(self) -> None:
        # One for the connections that are opened until the next failover: a list with
        # one element, because ``pop`` is atomic. Whoever gets the element acts.
        self._turn = [None]

    def before_connect(self) -> Callable[[str], None]:
        """Return what the connection that is opened next calls with a reason.

        Of all connections that were opened since the last failover, the first call has
        the pool replace them, and the others do nothing.
        """
        return partial(self._hand_over, self._turn)

    def _hand_over(self, turn: list[None], reason: str) -> None:
        try:
            turn.pop()
        except IndexError:
            return
        # Whatever is opened until the pool acts is replaced with the others.
        self._turn = [None]
        try:
            self.pool.fail_over()
        except BaseException:
            turn.append(None)  # another one's
            raise
        # Only now: a log handler may take its time.
        logger.warning("%s: %s; replacing every connection", self.pool.label, reason)
