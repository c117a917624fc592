"""Run a command in this process, or in a process of its own as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from tests.library import PYTHONPATH


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Ended:
    """How a command ended: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def run(
    directory: Path | bool,
    name: str,
    *args: str,
    terminal: bool = False,
    **options: Any,
) -> Ended:
    stream = Terminal if terminal else StringIO
    out, err = stream(), stream()
    code = 0
    with override_settings(DBPOOL_MW_CONTROL_DIR=directory):
        try:
            call_command(name, *args, stdout=out, stderr=err, **options)
        except CommandError as error:
            code = error.returncode
            err.write(str(error))
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


class Project:
    """A Django project in another process, whose database can't be reached."""

    def __init__(self, directory: Path, home: Path) -> None:
        (home / "project_settings.py").write_text(
            "from tests.settings import *\n"
            f"DBPOOL_MW_CONTROL_DIR = {str(directory)!r}\n"
        )
        self.environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{home}",
            "PYTHONWARNINGS": "error",
        }

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, "-m", "django", *args],
            env={**self.environ, **options.pop("env", {})},
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *args: str, **options: Any) -> Ended:
        with self.start(*args, **options) as process:
            out, err = process.communicate(timeout=30)
        return Ended(process.returncode, out or "", err)
