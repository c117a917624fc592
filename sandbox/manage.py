#!/usr/bin/env python
"""Run a management command of the sandbox project, from any directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this file's directory on the path; the project is imported as
    # sandbox.project, from the directory above.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sandbox.project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
