"""How a client learns that its server has handed over to another one.

A server that loses its part to another may stay up, and keep its connections: as a
standby, or with ``default_transaction_read_only`` switched on. Writes fail there.
"""

from __future__ import annotations

from collections.abc import Callable

#: What a write on a server, in a session or in a transaction that is read-only fails
#: with: ``read_only_sql_transaction``.
READ_ONLY = "25006"

#: What a server that ends, or is not up yet, answers to a statement: admin_shutdown,
#: crash_shutdown, cannot_connect_now.
SHUTDOWN = frozenset({"57P01", "57P02", "57P03"})

#: A server reports both with each answer after which they differ, since PostgreSQL 14.
_STANDBY, _SESSION = "in_hot_standby", "default_transaction_read_only"


def takes_writes(reported: Callable[[str], str | None]) -> bool:
    """Tell whether a server says that a new session can write; False if it says none.

    ``reported`` returns what the server last reported of a setting.
    """
    return reported(_STANDBY) == reported(_SESSION) == "off"


def refuses_writes(reported: Callable[[str], str | None], own: bool) -> bool:
    """Tell whether a server says that a session can't write, and not by its own doing.

    ``own`` says that the session may have been made read-only by its user.
    """
    return reported(_STANDBY) == "on" or (reported(_SESSION) == "on" and not own)
