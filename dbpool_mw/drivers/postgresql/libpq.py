"""What libpq is told when a connection is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What libpq says of a connection's transaction: PGTransactionStatusType.
#: A connection that is in no transaction, one that is busy, one in a transaction, and
#: one that is broken.
IDLE, ACTIVE, IN_TRANSACTION, UNKNOWN = 0, 1, 2, 4

#: Limits for a network that stops answering, unless the project sets its own: seconds,
#: the last one in milliseconds. By libpq's defaults a connect to a host that doesn't
#: answer takes minutes, and a query to a host that is gone waits for hours.
NETWORK_LIMITS = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def with_network_limits(params: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return connection parameters with the limits that they don't set themselves.

    ``seconds`` is how long connecting may take; libpq counts whole seconds, for each
    address of a host, and takes 1 for 2.

    Parameters that name a service are left as they are: the limits would override what
    the service's file says.
    """
    if "service" in params:
        return dict(params)
    connect_timeout = NETWORK_LIMITS["connect_timeout"]
    if seconds < connect_timeout:
        connect_timeout = max(1, math.ceil(seconds))
    return {**NETWORK_LIMITS, "connect_timeout": connect_timeout, **params}
