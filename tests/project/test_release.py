"""A release's tag, version and notes agree, and the notes are Markdown."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

import dbpool_mw
from tests.documents import ROOT

SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "notes.py"))
notes, first_section = SCRIPT["notes"], SCRIPT["first_section"]

PACKAGE = '"""A pool."""\n\n__version__ = "1.1.0"\n'
CHANGES = """\
=======
Changes
=======

1.1.0 (2027-01-31)
==================

Pooling
-------

- A line of ``code`` that
  goes on,
  and on.
- Another one.

1.0.0 (2026-12-01)
==================

- The first.
"""


def test_the_changes_begin_with_the_version_of_the_package() -> None:
    version, is_dev, _ = dbpool_mw.__version__.partition(".dev")
    heading, text = first_section((ROOT / "CHANGES.rst").read_text(encoding="utf-8"))
    if is_dev:
        assert heading == f"{version} (unreleased)"
    else:
        assert re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading)
    # Links and roles aren't Markdown.
    assert re.findall(r"`_|:\w+:`|\.\. ", text) == []


def test_the_notes_are_those_of_the_tag_a_paragraph_a_line() -> None:
    assert notes("v1.1.0", PACKAGE, CHANGES).splitlines() == [
        "Pooling",
        "-------",
        "",
        "- A line of ``code`` that goes on, and on.",
        "- Another one.",
    ]


@pytest.mark.parametrize(
    ("tag", "package", "changes", "said"),
    [
        ("v1.1.1", PACKAGE, CHANGES, "the tag is v1.1.1"),
        ("1.1.0", PACKAGE, CHANGES, "the tag is 1.1.0"),
        ("v1.1.0", PACKAGE.replace("1.1.0", "1.1.0.dev0"), CHANGES, "is 1.1.0.dev0"),
        ("v1.1.0", PACKAGE, CHANGES.replace("2027-01-31", "unreleased"), "begins with"),
        ("v1.1.0", PACKAGE, CHANGES.replace("1.1.0 (2", "1.0.1 (2"), "begins with"),
    ],
)
def test_what_does_not_agree_is_refused(
    tag: str, package: str, changes: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        notes(tag, package, changes)


def test_without_a_tag_it_says_how_it_is_called() -> None:
    script = ROOT / ".ci" / "notes.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: .ci/notes.py TAG\n"
