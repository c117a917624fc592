from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from dbpool_mw.control import paths
from tests.control.conftest import Plant

OTHER_UID = 4711


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_directory_and_its_parents_are_private(directory: Path) -> None:
    made = directory / "a" / "b"
    paths.ensure_directory(made)
    paths.ensure_directory(made)
    assert mode(made) == mode(made.parent) == 0o700


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_may_write_is_refused(
    directory: Path, bits: int
) -> None:
    directory.chmod(bits)
    for look in (paths.ensure_directory, paths.check_directory):
        with pytest.raises(paths.ControlDirError, match="written by others") as error:
            look(directory)
        # It may be a directory that other programs share, such as /tmp.
        assert "chmod" not in str(error.value)
    assert mode(directory) == bits


def test_a_symlink_is_refused_even_to_a_directory_of_this_user(directory: Path) -> None:
    target, link = directory / "target", directory / "link"
    target.mkdir(0o700)
    link.symlink_to(target)
    for look in (paths.ensure_directory, paths.check_directory):
        with pytest.raises(paths.ControlDirError, match="symbolic link"):
            look(link)


def test_a_file_in_the_directorys_place_is_refused(directory: Path) -> None:
    planted = directory / "planted"
    planted.touch()
    for look in (paths.ensure_directory, paths.check_directory):
        with pytest.raises(paths.ControlDirError, match="isn't a directory"):
            look(planted)


def test_a_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_UID)
    for look in (paths.ensure_directory, paths.check_directory):
        with pytest.raises(paths.ControlDirError, match="belongs to uid"):
            look(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_may_read_any_users_directory_but_opens_no_socket_there(
    directory: Path,
) -> None:
    os.chown(directory, OTHER_UID, -1)
    assert paths.check_directory(directory) == OTHER_UID
    with pytest.raises(paths.ControlDirError, match=f"belongs to uid {OTHER_UID}"):
        paths.ensure_directory(directory)


def test_a_link_as_parent_in_a_directory_writable_by_all_is_refused(
    directory: Path,
) -> None:
    shared, target = directory / "shared", directory / "target"
    target.mkdir(0o700)
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "base").symlink_to(target)
    with pytest.raises(paths.ControlDirError, match="can't be trusted"):
        paths.ensure_directory(shared / "base" / "leaf")
    assert list(target.iterdir()) == []


def test_a_missing_directory_is_an_error_of_its_own(directory: Path) -> None:
    with pytest.raises(paths.ControlDirMissing):
        paths.check_directory(directory / "missing")


def test_a_directory_that_cannot_be_created_is_an_error_with_the_reason(
    directory: Path,
) -> None:
    (directory / "file").touch()
    with pytest.raises(paths.ControlDirError, match="can't make"):
        paths.ensure_directory(directory / "file" / "leaf")


def test_a_directory_that_cannot_be_read_is_an_error_with_the_reason(
    directory: Path,
) -> None:
    with pytest.raises(paths.ControlDirError, match=r"can't look at .*too long"):
        paths.check_directory(directory / ("x" * 300))


def test_a_directory_that_cannot_be_listed_is_an_error_with_the_reason(
    directory: Path,
) -> None:
    file = directory / "file"
    file.touch()
    with pytest.raises(paths.ControlDirError, match=r"can't list .*Not a directory"):
        paths.discover(file)


def test_every_socket_has_a_unique_name_with_the_pid(directory: Path) -> None:
    one, other = paths.socket_path(directory), paths.socket_path(directory)
    assert one != other
    assert paths.pid_of(one) == os.getpid()
    assert re.fullmatch(rf"{os.getpid()}-[0-9a-f]{{8}}\.sock", one.name)


def test_a_path_too_long_for_a_socket_is_an_error_with_a_remedy(
    directory: Path,
) -> None:
    with pytest.raises(paths.ControlDirError, match="choose a shorter"):
        paths.socket_path(directory / ("x" * 100))


def test_the_longest_path_allowed_can_be_bound(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = paths.socket_path(directory).name
    room = paths.MAX_SOCKET_PATH - len(str(directory)) - len(name) - 2
    deep = directory / ("x" * room)
    deep.mkdir()
    path = paths.socket_path(deep)
    assert len(str(path)) == paths.MAX_SOCKET_PATH
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    monkeypatch.setattr(paths, "MAX_SOCKET_PATH", paths.MAX_SOCKET_PATH - 1)
    with pytest.raises(paths.ControlDirError):
        paths.socket_path(deep)


def test_only_sockets_with_a_workers_name_are_found(
    directory: Path, plant: Plant
) -> None:
    ten, nine = plant(10), plant(9)
    (directory / "8-0000000a.sock").touch()
    (directory / "7-0000000a.sock").symlink_to(nine)
    (directory / "6-0000000a.sock").mkdir()
    ten.with_name("5-0000000a.bind").hardlink_to(ten)
    ten.with_name("five-0000000a.sock").hardlink_to(ten)
    assert paths.discover(directory) == [nine, ten]
    assert paths.discover(directory / "missing") == []


def test_other_names_have_no_pid() -> None:
    with pytest.raises(ValueError, match="not the name"):
        paths.pid_of(Path("/tmp/x.sock"))


def test_the_same_project_of_other_users_is_found(directory: Path) -> None:
    asked = directory / "dbpool_mw-1" / "abc"
    for base in ("dbpool_mw-1", "dbpool_mw-2", "else-3"):
        (directory / base / "abc").mkdir(parents=True)
    (directory / "dbpool_mw-4").mkdir()
    assert paths.other_users(asked) == [directory / "dbpool_mw-2" / "abc"]
    assert paths.other_users(directory / "chosen") == []
