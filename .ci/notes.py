#!/usr/bin/env python3
"""Print the notes of a release from CHANGES.rst: ``.ci/notes.py v1.0.0``.

The tag, ``__version__`` and the first heading of CHANGES.rst must name the same
version, and the heading a date; otherwise nothing is printed, and the exit code is 1.
The notes are Markdown, in which GitHub breaks lines where the text does: a paragraph is
one line.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version_of(package: str) -> str:
    """Return the ``__version__`` in the text of the package's ``__init__.py``."""
    return re.findall(r'^__version__ = "(.+)"$', package, re.MULTILINE)[0]


def first_section(changes: str) -> tuple[str, str]:
    """Return the heading of the first release in CHANGES.rst, and its text."""
    _, heading, text, *_ = re.split(
        r"^(.+)\n={3,}$", changes.partition("\n\n")[2], flags=re.M
    )
    return heading, text.strip()


def notes(tag: str, package: str, changes: str) -> str:
    """Return the notes of the release with that tag, as Markdown.

    ``package`` is the text of the package's ``__init__.py``. Raises ValueError where
    the three don't agree.
    """
    version = version_of(package)
    heading, text = first_section(changes)
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, and dbpool_mw.__version__ is {version}")
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading):
        raise ValueError(
            f"CHANGES.rst begins with {heading!r}, not {version} and a date"
        )
    return re.sub(r"(?<=\S)\n {0,2}(?=[^\s-])", " ", text)


def main() -> int:
    """Print the notes, or what doesn't agree; return the exit code."""
    if len(sys.argv) != 2:
        print("usage: .ci/notes.py TAG", file=sys.stderr)
        return 2
    package = (ROOT / "dbpool_mw" / "__init__.py").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGES.rst").read_text(encoding="utf-8")
    try:
        print(notes(sys.argv[1], package, changes))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
