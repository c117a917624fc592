"""Keep the pauses and drains that are on in the control directory.

A worker that starts later reads them there, and so is paused or drained from its first
request on.

The last order for an alias replaces those before it, and when it ends the pool runs. So
the file has the last order for each alias, and keeps it when it has ended or is a
RESUME. That makes two lists one without a question which of them is newer (`merged`): a
worker adds what it reads to what it knows. If the file is lost or damaged, the workers
write it anew. Nobody but the directory's owner, and root, can write it.

The times in the file are those of `time.monotonic`, a clock that all processes of a
machine share and that counts from its boot: setting the date changes nothing. After
another boot the orders of the file are void.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from dbpool_mw.control import paths

FILE_NAME = "orders.json"
#: The verbs of the orders that are on until they end. RESUME ends those before it.
KEPT = ("drain", "pause")
RESUME = "resume"
MAX_BYTES = 64 * 1024
#: Seconds that a command waits for another process that changes the file.
LOCK_SECONDS = 2.0

_VERSION = 1
_NEW_NAME = FILE_NAME + ".new"
_RETRY_SECONDS = 0.01
_ATTEMPTS = 10
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class OrdersError(Exception):
    """The file of the orders can't be read or written; the text says why."""


class OrdersLocked(OrdersError):
    """Another process keeps the directory locked."""


class Order(NamedTuple):
    """What the pools of some aliases shall do: "drain", "pause" or "resume".

    `aliases` None means every alias. `began` and `until` are times of
    `time.monotonic`; an order without `until` ends when another one replaces it.
    """

    verb: str
    aliases: tuple[str, ...] | None
    began: float
    until: float | None

    def covers(self, alias: str) -> bool:
        """Tell whether the order is for an alias."""
        return self.aliases is None or alias in self.aliases

    def has_ended(self, now: float) -> bool:
        """Tell whether the order's time is over."""
        return self.until is not None and self.until <= now


def last_for(orders: Iterable[Order], alias: str) -> Order | None:
    """Return the last order given for an alias, which may have ended."""
    found = (order for order in orders if order.covers(alias))
    return max(found, key=_age, default=None)


def in_force(orders: Iterable[Order], alias: str, now: float) -> Order | None:
    """Return the order that an alias is under, None if its pool simply runs.

    It is the last one given for the alias, as long as it hasn't ended.
    """
    last = last_for(orders, alias)
    is_on = last is not None and last.verb != RESUME and not last.has_ended(now)
    return last if is_on else None


def without(
    orders: Sequence[Order], aliases: Collection[str] | None
) -> tuple[Order, ...]:
    """Return the orders without these aliases (None: all of them)."""
    left = []
    for order in orders if aliases is not None else ():
        if order.aliases is not None:
            rest = tuple(a for a in order.aliases if a not in (aliases or ()))
            order = order._replace(aliases=rest)
        if order.aliases != ():
            left.append(order)
    return tuple(left)


def added(orders: Sequence[Order], new: Order) -> tuple[Order, ...]:
    """Return the orders with a new one, which replaces those of its aliases."""
    return (*without(orders, new.aliases), new)


def merged(*known: Iterable[Order]) -> tuple[Order, ...]:
    """Return what some lists of orders say together: the last order for each alias."""
    found: tuple[Order, ...] = ()
    for order in sorted(set(chain(*known)), key=_age):
        found = added(found, order)
    return found


def current(orders: Iterable[Order], now: float) -> tuple[Order, ...]:
    """Return the orders that are on, and RESUMEs for the aliases excepted from them."""
    found = [
        order._replace(verb=RESUME, until=None) if order.has_ended(now) else order
        for order in orders
    ]
    # Only an order for every alias needs an exception.
    is_for_all = any(o.aliases is None and o.verb != RESUME for o in found)
    return tuple(
        order
        for order in found
        if order.verb != RESUME or (is_for_all and order.aliases is not None)
    )


def _age(order: Order) -> tuple[float, str]:
    return order.began, repr(order)


def described(orders: Iterable[Order], now: float) -> list[dict[str, Any]]:
    """Return the orders as plain data, with the seconds that are left of them."""
    return [
        {
            "verb": order.verb,
            "aliases": None if order.aliases is None else list(order.aliases),
            "seconds_left": None if order.until is None else max(0, order.until - now),
        }
        for order in current(orders, now)
    ]


def keep(directory: Path, *given: Order, wait: float = LOCK_SECONDS) -> None:
    """Write orders into the directory, in place of those that they replace.

    A file that can't be read is overwritten. The directory is made if it is missing,
    but not for a RESUME. Waits `wait` seconds at most for another process that writes.
    Raises OrdersError, and OrdersLocked when the wait is over.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _keep(directory, given, wait)
            return
        except (FileNotFoundError, paths.ControlDirMissing) as error:
            # Somebody swept the directory away between making and locking it.
            if attempt == _ATTEMPTS:
                raise OrdersError(f"{directory} is removed again and again") from error
        except paths.ControlDirError as error:
            raise OrdersError(str(error)) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise OrdersError(
                f"can't write {directory / FILE_NAME}: {reason}"
            ) from error


def _keep(directory: Path, given: Sequence[Order], wait: float) -> None:
    try:
        owner = paths.check_directory(directory)
    except paths.ControlDirMissing:
        if all(order.verb == RESUME for order in given):
            return
        paths.ensure_directory(directory)
        owner = os.geteuid()
    with _locked(directory, wait) as descriptor:
        before: tuple[Order, ...] = ()
        with contextlib.suppress(OrdersError):
            before = _read(descriptor, owner)
        found = merged(before, given)
        try:
            _write(descriptor, owner, found)
        except OSError:
            # On a full disk a file can be removed still.
            if current(found, time.monotonic()):
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(FILE_NAME, dir_fd=descriptor)


def remove_void(directory: Path, descriptor: int) -> None:
    """Remove the file if it has no order that is still on.

    For a directory, open as `descriptor`, without workers: they might have missed the
    RESUME that emptied the file. A file that can't be read stays.
    """
    owner = os.fstat(descriptor).st_uid
    with contextlib.suppress(OrdersError, OSError):
        if owner == os.geteuid() and not read(directory):
            os.unlink(FILE_NAME, dir_fd=descriptor)


def read(directory: Path) -> tuple[Order, ...]:
    """Return the orders kept in a directory that are on; none if it is missing.

    Raises OrdersError for a file, and ControlDirError for a directory, that can't be
    trusted or read.
    """
    return current(_load(directory), time.monotonic())


def _load(directory: Path) -> tuple[Order, ...]:
    """Return all orders in a directory, those that have ended too. Raises like read."""
    try:
        owner = paths.check_directory(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    except (paths.ControlDirMissing, FileNotFoundError):
        return ()
    except OSError as error:
        raise OrdersError(f"can't open {directory}: {error.strerror}") from error
    try:
        return _read(descriptor, owner)
    finally:
        os.close(descriptor)


class KeptOrders:
    """The orders kept in a directory, as one worker knows them.

    Not safe for several threads at once.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.orders: tuple[Order, ...] = ()
        self._path = directory / FILE_NAME
        self._seen: tuple[int, ...] | None = None
        #: What the file says.
        self._filed: tuple[Order, ...] = ()
        self._problem: str | None = None

    def add(self, order: Order) -> None:
        """Add an order that a request brought, whether or not it is in the file."""
        self.orders = merged(self.orders, (order,))

    def refresh(self) -> None:
        """Add the orders of the file, if it is another one than at the last call.

        A file that is missing or can't be used takes away nothing: no command did that,
        but perhaps a cleaner of /tmp.
        """
        try:
            status = self._path.lstat()
        except OSError:
            self._seen, self._filed = None, ()
            return
        seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if seen == self._seen:
            return
        self._seen, self._filed = seen, ()
        try:
            self._filed = _load(self.directory)
        except (OrdersError, paths.ControlDirError) as error:
            self._problem = f"{self._path}: {error}"
        self.orders = merged(self.orders, self._filed)

    def missing(self, now: float) -> tuple[Order, ...]:
        """Return the orders to be written anew: the file says something else."""
        if current(self.orders, now) == current(self._filed, now):
            return ()
        return self.orders

    def pop_problem(self) -> str | None:
        """Return the file's path and what is wrong, None if it was returned before."""
        problem, self._problem = self._problem, None
        return problem


@contextlib.contextmanager
def _locked(directory: Path, wait: float) -> Iterator[int]:
    """Open the directory and lock it, so that one process at a time changes the file.

    Raises OSError, and OrdersLocked if another process has the lock for too long.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OrdersLocked(
                        f"can't write {directory / FILE_NAME}: another process keeps "
                        "the directory locked"
                    ) from None
                time.sleep(_RETRY_SECONDS)
            except OSError:
                break  # A file system without locks.
        yield descriptor
    finally:
        # A child that was forked meanwhile has a copy, which would keep the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _read(descriptor: int, owner: int) -> tuple[Order, ...]:
    """Read the file in the directory open as `descriptor`; `owner` must own it."""
    try:
        # A named pipe would block without O_NONBLOCK.
        flags = os.O_RDONLY | os.O_NONBLOCK | _FLAGS
        file = os.open(FILE_NAME, flags, dir_fd=descriptor)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise OrdersError(f"it can't be opened: {error.strerror}") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OrdersError("it isn't a regular file")
        if status.st_uid != owner:
            raise OrdersError(f"it belongs to uid {status.st_uid}, not to {owner}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OrdersError("it may be written by others than its owner")
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise OrdersError(f"it can't be read: {error.strerror}") from error
    finally:
        os.close(file)
    if len(data) > MAX_BYTES:
        raise OrdersError(f"it has more than {MAX_BYTES} bytes")
    return _parse(data)


def _write(descriptor: int, owner: int, orders: Sequence[Order]) -> None:
    """Replace the file in the directory open as `descriptor`."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NEW_NAME, dir_fd=descriptor)
    document = {
        "version": _VERSION,
        "boot": _boot_id(),
        "orders": [order._asdict() for order in orders],
    }
    data = json.dumps(document).encode()
    if len(data) > MAX_BYTES:
        raise OrdersError(f"the orders have more than {MAX_BYTES} bytes")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
    file = os.open(_NEW_NAME, flags, 0o600, dir_fd=descriptor)
    try:
        with os.fdopen(file, "wb") as opened:
            # Root may give the order in the directory of the workers' user.
            if os.geteuid() != owner:
                os.fchown(file, owner, -1)
            opened.write(data)
        os.rename(_NEW_NAME, FILE_NAME, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(_NEW_NAME, dir_fd=descriptor)
        raise


def _parse(data: bytes) -> tuple[Order, ...]:
    """Return the orders in the file's content; none if they are of another boot."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OrdersError("it isn't a JSON text") from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise OrdersError(f"it isn't of version {_VERSION}")
    rows = document.get("orders")
    if not isinstance(rows, list):
        raise OrdersError("it has no list of orders")
    orders = tuple(map(_order, rows))
    now = time.monotonic()
    if document.get("boot") != _boot_id() or any(o.began > now for o in orders):
        return ()
    return orders


def _order(row: Any) -> Order:
    if not isinstance(row, dict):
        raise OrdersError("an order isn't an object")
    verb, aliases = row.get("verb"), row.get("aliases")
    began: Any = row.get("began")
    until: Any = row.get("until")
    if (
        verb not in (*KEPT, RESUME)
        or not _is_time(began)
        or not (until is None or _is_time(until))
        or not (
            aliases is None
            or (isinstance(aliases, list) and all(isinstance(a, str) for a in aliases))
        )
    ):
        raise OrdersError("an order has missing or wrong values")
    return Order(verb, None if aliases is None else tuple(aliases), began, until)


def _is_time(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value < math.inf
    )


@cache
def _boot_id() -> str:
    """Return what tells one boot of the machine from another, "" if nothing does."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
