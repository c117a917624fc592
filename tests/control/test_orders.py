"""The pauses and drains that are kept in the control directory."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbpool_mw.control import orders, paths, sweeping
from dbpool_mw.control.orders import KeptOrders, Order, OrdersError, in_force
from tests.control.messages import values


def order(
    verb: str, *aliases: str, seconds: float | None = None, ago: float = 0.0
) -> Order:
    began = time.monotonic() - ago
    until = None if seconds is None else began + seconds
    return Order(verb, aliases or None, began, until)


def verb_of(directory: Path, alias: str = "default") -> str | None:
    found = in_force(orders.read(directory), alias, time.monotonic())
    return None if found is None else found.verb


def put(directory: Path, content: bytes | str) -> Path:
    path = directory / orders.FILE_NAME
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


# --- What is kept ---------------------------------------------------------------------


def test_an_order_is_read_as_it_was_written(directory: Path) -> None:
    given = order("pause", "default", seconds=300)
    orders.keep(directory, given)
    assert orders.read(directory) == (given,)
    status = (directory / orders.FILE_NAME).stat()
    assert status.st_mode & 0o777 == 0o600
    assert [path.name for path in directory.iterdir()] == [orders.FILE_NAME]


def test_a_directory_is_made_for_an_order_and_not_for_a_resume(directory: Path) -> None:
    missing = directory / "control"
    orders.keep(missing, order("resume"))
    assert not missing.exists()
    assert orders.read(missing) == ()
    orders.keep(missing, order("drain"))
    assert verb_of(missing) == "drain"
    assert missing.stat().st_mode & 0o777 == 0o700


def test_the_last_order_for_an_alias_counts(directory: Path) -> None:
    orders.keep(directory, order("drain"))
    orders.keep(directory, order("pause", "default", seconds=300))
    assert verb_of(directory) == "pause"
    assert verb_of(directory, "replica") == "drain"
    orders.keep(directory, order("resume", "default"))
    assert verb_of(directory) is None
    assert verb_of(directory, "replica") == "drain"
    orders.keep(directory, order("pause"))
    assert verb_of(directory) == verb_of(directory, "replica") == "pause"
    orders.keep(directory, order("resume"))
    assert orders.read(directory) == ()


def test_an_order_of_two_aliases_can_be_ended_for_one(directory: Path) -> None:
    orders.keep(directory, order("drain", "default", "replica"))
    orders.keep(directory, order("resume", "default"))
    assert verb_of(directory) is None
    assert verb_of(directory, "replica") == "drain"
    assert len(orders.read(directory)) == 1


def test_when_the_last_order_for_an_alias_ends_the_alias_runs(
    directory: Path,
) -> None:
    orders.keep(directory, order("drain", ago=3))
    orders.keep(directory, order("pause", "default", seconds=1, ago=2))
    assert verb_of(directory) is None
    assert verb_of(directory, "replica") == "drain"
    shown = orders.described(orders.read(directory), time.monotonic())
    assert [(o["verb"], o["aliases"]) for o in shown] == [
        ("drain", None),
        ("resume", ["default"]),
    ]
    orders.keep(directory, order("pause", seconds=1, ago=2))
    assert verb_of(directory) == verb_of(directory, "replica") is None
    assert orders.read(directory) == ()


ALIASES = ("default", "replica", "archive")
some_orders = st.lists(
    st.builds(
        Order,
        st.sampled_from([*orders.KEPT, orders.RESUME]),
        st.none() | st.sets(st.sampled_from(ALIASES), min_size=1).map(tuple),
        st.floats(0, 10),
        st.none() | st.floats(0, 20),
    ),
    max_size=6,
    unique_by=lambda each: each.began,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    given=some_orders,
    cuts=st.lists(st.integers(0, 6), max_size=3),
    now=st.floats(0, 20),
)
def test_lists_of_orders_say_the_same_however_they_are_merged(
    given: list[Order], cuts: list[int], now: float
) -> None:
    together = orders.merged(given)
    edges = [0, *sorted(cuts), len(given)]
    parts = [given[a:b] for a, b in pairwise(edges)]
    assert orders.merged(*map(orders.merged, reversed(parts))) == together
    assert orders.merged(together, given) == together
    for alias in ALIASES:
        found = in_force(given, alias, now)
        for known in (together, orders.current(together, now)):
            again = in_force(known, alias, now)
            assert (again and (again.verb, again.until)) == (
                found and (found.verb, found.until)
            )


def test_orders_of_another_boot_are_void(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.keep(directory, order("drain"))
    monkeypatch.setattr(orders, "_boot_id", lambda: "another")
    assert orders.read(directory) == ()
    # As where nothing tells one boot from another: it began in the future.
    orders.keep(directory, order("drain", ago=-1000))
    assert orders.read(directory) == ()


def test_a_write_that_fails_leaves_the_orders_as_they_were(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.keep(directory, order("drain"))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OrdersError, match="No space left"):
            orders.keep(directory, order("pause"))
    assert verb_of(directory) == "drain"
    assert [path.name for path in directory.iterdir()] == [orders.FILE_NAME]


def test_commands_at_once_lose_no_order(directory: Path) -> None:
    aliases = [f"alias{number}" for number in range(20)]
    threads = [
        threading.Thread(target=orders.keep, args=(directory, order("drain", alias)))
        for alias in aliases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {verb_of(directory, alias) for alias in aliases} == {"drain"}


def test_a_command_that_is_stopped_with_the_lock_holds_up_no_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "LOCK_SECONDS", 0.05)
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(OrdersError, match="another process keeps the directory locked"):
        orders.keep(directory, order("drain"))
    os.close(descriptor)
    orders.keep(directory, order("drain"))


# --- A file that can't be used --------------------------------------------------------

SOUND = {"verb": "drain", "aliases": None, "began": 1.0, "until": None}
BROKEN = {
    "empty": "",
    "cut off": '{"version": 1, "orders": [',
    "no object": "[]",
    "another version": '{"version": 2, "orders": []}',
    "no orders": '{"version": 1}',
    "nested": "[" * 50_000,
    "huge": " " * (orders.MAX_BYTES + 1),
    "not UTF-8": b"\xff\xfe\x00",
    **{
        f"{key} {value}": json.dumps({"version": 1, "orders": [{**SOUND, key: value}]})
        for key, value in [
            ("verb", "recycle"),
            ("verb", None),
            ("verb", []),
            ("aliases", "default"),
            ("aliases", [1]),
            ("began", None),
            ("began", True),
            ("began", float("nan")),
            ("until", float("inf")),
            ("until", -1),
        ]
    },
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_said_once_ignored_and_overwritten(
    directory: Path, content: str
) -> None:
    path = put(directory, content)
    kept = KeptOrders(directory)
    kept.refresh()
    assert kept.orders == ()
    assert str(path) in (kept.pop_problem() or "")
    kept.refresh()
    assert kept.pop_problem() is None
    orders.keep(directory, order("pause"))
    kept.refresh()
    assert [o.verb for o in kept.orders] == ["pause"]
    put(directory, content)
    kept.refresh()
    assert [o.verb for o in kept.orders] == ["pause"]
    assert kept.pop_problem() is not None
    assert kept.missing(time.monotonic()) == kept.orders


def test_a_resume_replaces_a_broken_file(directory: Path) -> None:
    put(directory, "{")
    orders.keep(directory, order("resume"))
    assert orders.read(directory) == ()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(value=values, key=st.sampled_from(["version", "boot", "orders", *SOUND]))
def test_any_json_gives_orders_or_an_error(value: Any, key: str) -> None:
    row = {**SOUND, key: value} if key in SOUND else SOUND
    document = {"version": 1, "boot": orders._boot_id(), "orders": [row]}
    if key not in SOUND:
        document[key] = value
    for data in (json.dumps(document), json.dumps(value)):
        try:
            found = orders._parse(data.encode())
        except OrdersError:
            continue
        assert all(isinstance(each, Order) for each in found)
        in_force(found, "default", 1.0)
        json.dumps(orders.described(found, 1.0))


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "writable by others"])
def test_only_a_regular_file_of_the_owner_alone_is_read(
    directory: Path, kind: str
) -> None:
    path = directory / orders.FILE_NAME
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    orders.keep(elsewhere, order("pause"))
    if kind == "link":
        path.symlink_to(elsewhere / orders.FILE_NAME)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir()
    else:
        orders.keep(directory, order("pause"))
        path.chmod(0o622)
    kept = KeptOrders(directory)
    kept.refresh()
    assert kept.orders == ()
    assert kept.pop_problem() is not None
    if kind != "directory":
        orders.keep(directory, order("drain"))
        kept.refresh()
        assert [o.verb for o in kept.orders] == ["drain"]
        # What a link points to is not written.
        assert verb_of(elsewhere) == "pause"


def test_a_directory_that_others_may_write_to_keeps_nothing(directory: Path) -> None:
    orders.keep(directory, order("pause"))
    directory.chmod(0o777)
    with pytest.raises(OrdersError, match="may be written by others"):
        orders.keep(directory, order("drain"))
    kept = KeptOrders(directory)
    kept.refresh()
    assert kept.orders == ()
    directory.chmod(0o700)
    assert verb_of(directory) == "pause"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_ignored(directory: Path) -> None:
    orders.keep(directory, order("pause"))
    os.chown(directory / orders.FILE_NAME, 65534, -1)
    with pytest.raises(OrdersError, match="belongs to uid 65534"):
        orders.read(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give orders to others")
def test_root_keeps_an_order_that_the_owner_of_the_directory_can_read(
    directory: Path,
) -> None:
    os.chown(directory, 65534, -1)
    orders.keep(directory, order("pause"))
    assert (directory / orders.FILE_NAME).stat().st_uid == 65534
    assert verb_of(directory) == "pause"


# --- As a worker sees it --------------------------------------------------------------


def test_a_change_is_seen_and_a_removal_is_not_an_order(directory: Path) -> None:
    kept = KeptOrders(directory)
    kept.refresh()
    orders.keep(directory, order("pause"))
    kept.refresh()
    orders.keep(directory, order("drain"))
    kept.refresh()
    assert [o.verb for o in kept.orders] == ["drain"]
    (directory / orders.FILE_NAME).unlink()
    kept.refresh()
    assert [o.verb for o in kept.orders] == ["drain"]
    # The new file knows nothing of the drain.
    orders.keep(directory, order("pause", "replica"))
    kept.refresh()
    assert [o.verb for o in kept.orders] == ["drain", "pause"]
    orders.keep(directory, order("resume"))
    kept.refresh()
    assert orders.current(kept.orders, time.monotonic()) == ()


def test_on_a_full_disk_a_resume_removes_the_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.keep(directory, order("drain"))
    orders.keep(directory, order("pause", "replica"))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OrdersError, match="No space left"):
        orders.keep(directory, order("resume", "replica"))
    assert verb_of(directory) == "drain"
    orders.keep(directory, order("resume"))
    assert list(directory.iterdir()) == []


def test_an_unchanged_file_is_not_read_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.keep(directory, order("pause"))
    kept = KeptOrders(directory)
    kept.refresh()
    monkeypatch.setattr(orders, "_load", None)
    kept.refresh()


# --- Sweeping -------------------------------------------------------------------------


@pytest.fixture
def default_directory(directory: Path) -> Path:
    found = directory / f"dbpool_mw-{os.geteuid()}" / ("0" * 16)
    paths.ensure_directory(found)
    return found


def test_a_directory_without_workers_stays_while_an_order_is_kept(
    default_directory: Path,
) -> None:
    orders.keep(default_directory, order("drain"))
    sweeping.sweep(default_directory)
    assert verb_of(default_directory) == "drain"
    orders.keep(default_directory, order("resume"))
    sweeping.sweep(default_directory)
    assert not default_directory.exists()


def test_an_order_that_has_ended_keeps_no_directory(default_directory: Path) -> None:
    orders.keep(default_directory, order("pause", seconds=1, ago=2))
    sweeping.sweep(default_directory)
    assert not default_directory.exists()


@pytest.mark.parametrize("removed", ["directory", "parent"])
def test_orders_are_kept_where_the_new_directory_is_removed_at_once(
    default_directory: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    default_directory.rmdir()
    default_directory.parent.rmdir()
    made = Path.mkdir
    left = [default_directory if removed == "directory" else default_directory.parent]

    def mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        made(path, *args, **kwargs)
        if path in left:
            left.remove(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    orders.keep(default_directory, order("pause"))
    assert not left
    assert verb_of(default_directory) == "pause"


def test_orders_are_kept_while_the_directory_is_swept(default_directory: Path) -> None:
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            sweeping.sweep(default_directory)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(100):
            orders.keep(default_directory, order("pause"))
            assert verb_of(default_directory) == "pause"
            orders.keep(default_directory, order("resume"))
    finally:
        done.set()
        sweeper.join()
