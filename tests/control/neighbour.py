"""Act as another user of this host: `python neighbour.py UID`, started by root.

Each line of stdin is a JSON list: a verb and its arguments. The answer is a line of
JSON: the result, or {"error": the errno's name}. The script imports all it needs, from
the standard library only, before it changes to UID, because that user may not be
allowed to read Python's files.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

PATIENCE = 10.0
_heard: queue.Queue[str] = queue.Queue()
_listening: list[socket.socket] = []


def connect(path: str, sent: str) -> str:
    """Connect, send bytes, and return the bytes received; both in hexadecimal."""
    got = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        with suppress(ConnectionError):
            sock.sendall(bytes.fromhex(sent))
            while chunk := sock.recv(65536):
                got += chunk
    return got.hex()


def lie(path: str, frame: str) -> None:
    """Pose as a worker that sends this frame to every client."""
    listener = socket.socket(socket.AF_UNIX)
    _listening.append(listener)
    listener.bind(path)
    listener.listen(8)
    threading.Thread(target=_lie, args=(listener, frame), daemon=True).start()


def _lie(listener: socket.socket, frame: str) -> None:
    while True:
        sock, _ = listener.accept()
        got = b""
        with sock, suppress(ConnectionError):
            sock.sendall(bytes.fromhex(frame))
            while chunk := sock.recv(65536):
                got += chunk
        _heard.put(got.hex())


def heard() -> str:
    """Return what the next client of `lie` sent, in hexadecimal."""
    return _heard.get(timeout=PATIENCE)


def die(path: str) -> None:
    """Leave a socket that no process listens on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def touch(path: str) -> None:
    """Make a regular file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))


VERBS = {
    "connect": connect,
    "lie": lie,
    "heard": heard,
    "die": die,
    "touch": touch,
    "mkdir": os.mkdir,
    "symlink": os.symlink,
    "rename": os.rename,
    "listdir": os.listdir,
}


def main() -> None:
    uid = int(sys.argv[1])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            result: Any = VERBS[verb](*arguments)
        except OSError as error:
            result = {"error": errno.errorcode[error.errno or 0]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
