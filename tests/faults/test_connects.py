"""What an attempt to connect leaves behind that got no answer."""

from __future__ import annotations

import socket

import pytest
from django.db import OperationalError, connection
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry


def test_an_attempt_that_timed_out_leaves_no_socket_open(databases):
    """Its slot is free then, whoever keeps the error: a log, an error page."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"HOST": "127.0.0.1", "PORT": str(silent.getsockname()[1])}
        connection.settings_dict.update(address)
        with override_settings(DBPOOL_MW_TIMEOUT=1):
            with pytest.raises(OperationalError) as kept, pooled():
                connection.ensure_connection()
            (pool,) = registry.pools()
            assert pool.stats()["size"] == pool.stats()["connecting"] == 0
        client, _ = silent.accept()
        with client:
            client.settimeout(10)
            while client.recv(4096):
                pass
    assert kept.value is not None
