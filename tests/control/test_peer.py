from __future__ import annotations

import os
import socket
import struct

import pytest

from dbpool_mw.control import peer


def test_the_peer_of_a_socket_pair_is_this_user() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer.uid_of(one) == os.geteuid()


class BsdSocket:
    """Answer like a system with LOCAL_PEERCRED."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (0, 1)
        return self.data[:size]


@pytest.fixture
def bsd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    monkeypatch.setattr(peer, "_LOCAL_PEERCRED", 1)


@pytest.mark.usefixtures("bsd")
def test_the_peer_is_read_from_a_bsd_credential() -> None:
    data = struct.pack("IIh", 0, 501, 1) + b"\0" * 64
    assert peer.uid_of(BsdSocket(data)) == 501  # type: ignore[arg-type]


@pytest.mark.usefixtures("bsd")
@pytest.mark.parametrize("data", [b"", struct.pack("II", 7, 501)])
def test_unreadable_credentials_are_an_error(data: bytes) -> None:
    with pytest.raises(OSError, match=r"credentials|doesn't say"):
        peer.uid_of(BsdSocket(data))  # type: ignore[arg-type]
