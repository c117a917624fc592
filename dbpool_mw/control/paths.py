"""Find, make and judge the control directory and the sockets in it.

Every worker of a project has one socket, `<pid>-<8 random hex>.sock`, in the project's
control directory. Whoever can write to that directory can pose as a worker, so both
sides refuse one that another user owns or may write to, and one behind a symlink.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import sys
from pathlib import Path

_NAME = re.compile(r"(\d{1,10})-[0-9a-f]{8}\.sock")
_BASE = re.compile(r"dbpool_mw-([0-9]{1,10})")
# sun_path of <sys/un.h>, less the closing NUL.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103


class ControlDirError(Exception):
    """A control directory that can't be used or can't be trusted; the text says why."""


class ControlDirMissing(ControlDirError):
    """A control directory that doesn't exist: no worker has made it yet."""


def ensure_directory(directory: Path) -> None:
    """Make `directory` (0700) unless it is there; refuse one that isn't ours alone.

    Raises ControlDirError. An existing directory's mode is judged, not repaired.
    """
    ours = {0, os.geteuid()}
    # Before, so that no link is followed; and after, for one made meanwhile.
    _check_planted(directory, ours)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_planted(directory, ours)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
    except OSError as error:
        raise ControlDirError(f"can't make {directory}: {error.strerror}") from error
    owner = check_directory(directory)
    if owner != os.geteuid():
        raise ControlDirError(_foreign(directory, owner))


def check_directory(directory: Path) -> int:
    """Return the uid of the owner of a directory that may be trusted.

    It must be a real directory, owned by the effective user (root may look at anyone's)
    and writable by its owner only. Raises ControlDirMissing or ControlDirError.
    """
    _check_planted(directory, {0, os.geteuid()} if os.geteuid() else None)
    try:
        status = directory.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ControlDirMissing(f"{directory} doesn't exist") from error
    except OSError as error:
        raise ControlDirError(f"can't look at {directory}: {error.strerror}") from error
    if stat.S_ISLNK(status.st_mode):
        raise ControlDirError(f"{directory} is a symbolic link; name its target")
    if not stat.S_ISDIR(status.st_mode):
        raise ControlDirError(f"{directory} isn't a directory")
    if os.geteuid() not in (0, status.st_uid):
        raise ControlDirError(_foreign(directory, status.st_uid))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ControlDirError(
            f"{directory} may be written by others than its owner (mode {mode:04o}); "
            f"chmod 700 it"
        )
    return status.st_uid


def _check_planted(directory: Path, users: set[int] | None) -> None:
    """Refuse a way to `directory` that leads over what a stranger has made.

    In a directory like /tmp anybody may have made the next one before us, as a
    directory of his own or as a link to one of ours. It must be of one of `users`; None
    stands for anybody, but a base named for a user must be of that user or root.
    """
    for base in directory.parents:
        try:
            if not base.parent.stat().st_mode & stat.S_IWOTH:
                continue
            status = base.lstat()
        except OSError:
            # Whoever needs it finds out why.
            continue
        named = _BASE.fullmatch(base.name)
        trusted = {0, int(named[1])} if users is None and named else users
        ours = trusted is None or status.st_uid in trusted
        if ours and stat.S_ISDIR(status.st_mode):
            continue
        whose = f" of uid {max(trusted)} or root" if trusted else ""
        raise ControlDirError(
            f"{base} isn't a directory{whose}: in {base.parent}, where anybody may "
            f"write, it can't be trusted"
        )


def _foreign(directory: Path, owner: int) -> str:
    return f"{directory} belongs to uid {owner}, this process runs as {os.geteuid()}"


def socket_path(directory: Path) -> Path:
    """Return a new socket path for this process; raise ControlDirError if too long."""
    path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise ControlDirError(
            f"the socket path {path} has {length} bytes, the system allows "
            f"{MAX_SOCKET_PATH}: choose a shorter control directory"
        )
    return path


def pid_of(path: Path) -> int:
    """Return the process id in a socket's name; raise ValueError for other names."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"not the name of a control socket: {path.name!r}")
    return int(match[1])


def discover(directory: Path) -> list[Path]:
    """Return the sockets in `directory` that are named like a worker's, by pid.

    Regular files and links are passed over. A socket found may still be stale. Raises
    ControlDirError when the directory can't be listed.
    """
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not _NAME.fullmatch(entry.name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                        found.append(Path(entry.path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ControlDirError(f"can't list {directory}: {error.strerror}") from error
    return sorted(found, key=lambda path: (pid_of(path), path.name))


def remove_stale(path: Path, owner: int) -> None:
    """Remove a socket that refused a connection, if its directory (`owner`) is ours.

    Only a process that died without goodbye leaves one: a worker's socket gets its
    name after it listens and loses the name before it closes.
    """
    if owner == os.geteuid():
        with contextlib.suppress(OSError):
            # A directory may have been exchanged for another since it was judged.
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()


def sweep(directory: Path) -> None:
    """Remove the sockets of dead processes, so that killed workers don't pile up.

    The test is a connection, not the pid: a directory may be shared by containers,
    each with process ids of its own. Raises ControlDirError.
    """
    owner = check_directory(directory)
    for path in discover(directory):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                remove_stale(path, owner)


def other_users(directory: Path) -> list[Path]:
    """Return the default directories other users have for the same project.

    Only root sees them all; others see those they may look into. Empty for a directory
    that isn't a default one.
    """
    base = directory.parent
    if not _BASE.fullmatch(base.name):
        return []
    found = []
    with contextlib.suppress(OSError):
        for sibling in base.parent.iterdir():
            candidate = sibling / directory.name
            if sibling == base or not _BASE.fullmatch(sibling.name):
                continue
            with contextlib.suppress(OSError):
                if all(stat.S_ISDIR(p.lstat().st_mode) for p in (sibling, candidate)):
                    found.append(candidate)
    return sorted(found)
