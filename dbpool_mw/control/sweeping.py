"""Remove what killed workers left behind, and nothing that a worker is making.

Whoever makes a file in a control directory holds a shared lock on the directory
meanwhile (flock), and whoever removes one holds an exclusive lock. A socket refuses
connections between bind() and listen() as a dead worker's does: the lock tells the two
apart. systemd-tmpfiles leaves a locked directory alone too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dbpool_mw.control import orders, paths

#: Seconds that a worker waits for a process that removes something.
LOCK_SECONDS = 1.0
_RETRY_SECONDS = 0.01
_ATTEMPTS = 100


@contextlib.contextmanager
def kept(directory: Path) -> Iterator[None]:
    """Make and check a control directory; nobody sweeps anything in it in the block.

    Any number of processes may be in such a block at once. Raises ControlDirError like
    `paths.ensure_directory`, and OSError.
    """
    for _ in range(_ATTEMPTS):
        try:
            paths.ensure_directory(directory)
            descriptor = _open(directory)
        except (paths.ControlDirMissing, FileNotFoundError):
            continue
        with _closing(descriptor):
            deadline = time.monotonic() + LOCK_SECONDS
            # A process that is stopped with the lock must not stop a worker: a socket
            # that it removes in error is made anew.
            while not _lock(descriptor, fcntl.LOCK_SH) and time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
            if _is_at(descriptor, directory):
                yield
                return
    raise paths.ControlDirError(f"{directory} is removed whenever it is made")


def remove_dead(path: Path) -> bool:
    """Remove a socket that refused a connection; return whether its worker is dead.

    False means that another process is making or removing something in the directory,
    or that the socket accepts connections now: try again soon. Nothing is removed from
    a directory that the effective user doesn't own.
    """
    try:
        descriptor = _open(path.parent)
    except OSError:
        return True  # The directory is gone, and with it the socket.
    with _closing(descriptor):
        if not _lock(descriptor, fcntl.LOCK_EX) or not _is_refused(path):
            return False
        _unlink(path, descriptor)
    return True


def sweep(directory: Path) -> None:
    """Remove what killed workers and ended orders left, and directories without a use.

    A default directory is swept together with those of this user's other projects, and
    is removed when nothing is left in it. Directories in which another process makes
    or removes something, and those that can't be trusted, are left for another time.
    """
    for found in paths.projects(directory):
        with contextlib.suppress(paths.ControlDirError, OSError):
            _sweep(found)


def _sweep(directory: Path) -> None:
    paths.check_directory(directory)
    descriptor = _open(directory)
    with _closing(descriptor):
        if not _lock(descriptor, fcntl.LOCK_EX) or not _is_at(descriptor, directory):
            return
        # A dead worker's pid tells nothing where containers, which number their
        # processes separately, share a directory.
        for path in paths.discover(directory):
            if _is_refused(path):
                _unlink(path, descriptor)
        if not paths.discover(directory):
            orders.remove_void(directory, descriptor)
        owned = os.fstat(descriptor).st_uid == os.geteuid()
        if owned and paths.is_default(directory):
            directory.rmdir()


def _is_refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)


def _unlink(path: Path, descriptor: int) -> None:
    """Remove a socket from the directory open as `descriptor`, if this user owns it.

    By descriptor, because the directory may have been replaced since it was opened.
    """
    with contextlib.suppress(OSError):
        status = os.stat(path.name, dir_fd=descriptor, follow_symlinks=False)
        owned = os.fstat(descriptor).st_uid == os.geteuid()
        if owned and stat.S_ISSOCK(status.st_mode):
            os.unlink(path.name, dir_fd=descriptor)


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _lock(descriptor: int, operation: int) -> bool:
    """Lock a directory without waiting; return False if another process has the lock.

    A file system that has no locks counts as locked: what is removed there in error is
    made anew.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    """Unlock and close a descriptor at the end of the block."""
    try:
        yield
    finally:
        # A child that was forked in the block has a copy, which would keep the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_at(descriptor: int, directory: Path) -> bool:
    """Tell whether the directory open as `descriptor` still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), directory.lstat())
    except OSError:
        return False
