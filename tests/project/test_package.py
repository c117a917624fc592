"""What ``make package`` says where it can't build."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import package


def test_an_unpacked_sdist_is_told_that_it_needs_a_git_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "ROOT", tmp_path)
    with pytest.raises(package.PackageError, match="isn't a git checkout"):
        package.main()


def test_what_git_complains_of_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").write_text("gitdir: gone")
    monkeypatch.setattr(package, "ROOT", tmp_path)
    with pytest.raises(package.PackageError, match=r"git ls-files: .*gone"):
        package.main()
