"""What a server's reports say of writes."""

from __future__ import annotations

import pytest

from dbpool_mw.drivers.postgresql.failover import refuses_writes, takes_writes


@pytest.mark.parametrize(
    ("standby", "session", "takes", "refuses", "refuses_own"),
    [
        ("off", "off", True, False, False),
        ("off", "on", False, True, False),
        ("on", "off", False, True, True),
        ("on", "on", False, True, True),
        # Before PostgreSQL 14, and behind some proxies, nothing is reported.
        (None, None, False, False, False),
    ],
)
def test_a_server_takes_or_refuses_writes(
    standby, session, takes, refuses, refuses_own
):
    reported = {
        "in_hot_standby": standby,
        "default_transaction_read_only": session,
    }.get
    assert takes_writes(reported) is takes
    assert refuses_writes(reported, own=False) is refuses
    assert refuses_writes(reported, own=True) is refuses_own
