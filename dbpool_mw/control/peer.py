"""Tell which user is at the other end of a Unix socket.

The kernel records the users of both ends, so neither end can forge its own. Linux gives
them by SO_PEERCRED, macOS and FreeBSD by LOCAL_PEERCRED (`struct xucred`).
"""

from __future__ import annotations

import socket
import struct

_PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_XUCRED = struct.Struct("II")  # struct xucred begins with version, uid
# From <sys/un.h> of macOS and FreeBSD: not every Python's socket module has them.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = getattr(socket, "LOCAL_PEERCRED", 1)
_XUCRED_SIZE = 76


def uid_of(sock: socket.socket) -> int:
    """Return the effective user id of the peer of a connected Unix socket.

    Raises OSError if the system can't tell; such a peer must not be trusted.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is not None:
        data = sock.getsockopt(socket.SOL_SOCKET, option, _PEERCRED.size)
        uid: int = _PEERCRED.unpack(data)[1]
        return uid
    data = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE)
    if len(data) < _XUCRED.size:
        raise OSError("the system doesn't say who is at the other end of the socket")
    version, uid = _XUCRED.unpack_from(data)
    if version != 0:
        raise OSError(f"unknown version {version} of the system's peer credentials")
    return uid
