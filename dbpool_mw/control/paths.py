"""Find, create and check the control directory and the sockets in it.

Every worker of a project has one socket, `<pid>-<8 random hex>.sock`, in the project's
control directory. A user who can write to that directory can pose as a worker, so the
workers and the commands refuse a directory that another user owns or may write to, and
one that is reached over a symbolic link which another user may have made.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path

_NAME = re.compile(r"(\d{1,10})-[0-9a-f]{8}\.sock")
_BASE = re.compile(r"dbpool_mw-([0-9]{1,10})")
_PROJECT = re.compile(r"[0-9a-f]{16}")
# The size of sun_path in <sys/un.h>, less its terminating NUL.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103


class ControlDirError(Exception):
    """The control directory can't be used or can't be trusted; the text says why."""


class ControlDirMissing(ControlDirError):
    """The control directory doesn't exist: no worker has created it yet."""


def ensure_directory(directory: Path) -> None:
    """Create `directory` with mode 0700 if it is missing, and check it.

    The directory must belong to the effective user and be writable by no other user.
    The mode of an existing directory is checked and never changed. Raises
    ControlDirError, and ControlDirMissing if somebody removes it meanwhile.
    """
    trusted = {0, os.geteuid()}
    # Checked before mkdir(), which would follow a link, and again after it, because
    # another user may have created a parent in between.
    _check_parents(directory, trusted)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_parents(directory, trusted)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
    except FileNotFoundError as error:
        raise ControlDirMissing(f"{directory.parent} was removed again") from error
    except OSError as error:
        raise ControlDirError(f"can't make {directory}: {error.strerror}") from error
    owner = check_directory(directory)
    if owner != os.geteuid():
        raise ControlDirError(_other_owner(directory, owner))


def check_directory(directory: Path) -> int:
    """Check that `directory` can be trusted, and return its owner's uid.

    The directory must be no symbolic link and must be writable by its owner only. Its
    owner must be the effective user; root may use any user's directory. Raises
    ControlDirMissing or ControlDirError.
    """
    _check_parents(directory, {0, os.geteuid()} if os.geteuid() else None)
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
        raise ControlDirError(_other_owner(directory, status.st_uid))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ControlDirError(
            f"{directory} may be written by others than its owner (mode {mode:04o}): "
            f"choose a directory of its own, with mode 0700"
        )
    return status.st_uid


def _check_parents(directory: Path, users: set[int] | None) -> None:
    """Refuse a parent of `directory` that another user may have created.

    In a directory such as /tmp, which everybody may write to, another user may have
    created the next parent first, as a directory or as a link to one of this user's.
    That parent must be a directory that one of `users` owns. `users` None means any
    user, but a parent named `dbpool_mw-<uid>` must belong to that uid or to root.
    Raises ControlDirError.
    """
    for parent in directory.parents:
        try:
            if not parent.parent.stat().st_mode & stat.S_IWOTH:
                continue
            status = parent.lstat()
        except OSError:
            # Whatever opens the directory reports why it can't.
            continue
        match = _BASE.fullmatch(parent.name)
        trusted = {0, int(match[1])} if users is None and match else users
        owned = trusted is None or status.st_uid in trusted
        if owned and stat.S_ISDIR(status.st_mode):
            continue
        whose = f" of uid {max(trusted)} or root" if trusted else ""
        raise ControlDirError(
            f"{parent} isn't a directory{whose}: in {parent.parent}, where anybody may "
            f"write, it can't be trusted"
        )


def _other_owner(directory: Path, owner: int) -> str:
    return f"{directory} belongs to uid {owner}, this process runs as {os.geteuid()}"


def socket_path(directory: Path) -> Path:
    """Return a new socket path for this process, with its pid and a random part.

    Raises ControlDirError for a path longer than the system allows.
    """
    path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise ControlDirError(
            f"the socket path {path} has {length} bytes, the system allows "
            f"{MAX_SOCKET_PATH}: choose a shorter control directory"
        )
    return path


def pid_of(path: Path) -> int:
    """Return the pid in a socket's name; raise ValueError for any other name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"not the name of a control socket: {path.name!r}")
    return int(match[1])


def discover(directory: Path) -> list[Path]:
    """Return the sockets in `directory` with a worker's name, sorted by pid.

    Regular files and links are skipped. A socket returned may be a dead worker's. A
    directory that doesn't exist has none. Raises ControlDirError if the directory can't
    be listed.
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


def is_default(directory: Path) -> bool:
    """Tell whether a directory is one that a project has without CONTROL_DIR."""
    return bool(
        _BASE.fullmatch(directory.parent.name) and _PROJECT.fullmatch(directory.name)
    )


def projects(directory: Path) -> list[Path]:
    """Return the default directories of this user's projects, `directory` included.

    A directory that isn't a default one is returned alone. Nothing is checked.
    """
    if not is_default(directory):
        return [directory]
    try:
        siblings = list(directory.parent.iterdir())
    except OSError:
        return []
    return sorted(sibling for sibling in siblings if is_default(sibling))


def other_users(directory: Path) -> list[Path]:
    """Return the default directories that other users have for the same project.

    Only root sees them all; other users see those that they have permission to see.
    Empty if `directory` isn't a default one.
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
