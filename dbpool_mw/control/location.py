"""Find the default control directory of a project.

Every process of a project, whether worker or command, must find the same directory, and
two projects must never share one. The directory is therefore derived from the user and
from a key that identifies the project by its files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path


def default_directory(key: str) -> Path:
    """Return the control directory of the project ``key`` for the current user.

    The parent directory doesn't depend on TMPDIR or XDG_RUNTIME_DIR, because these
    often differ between a service and a shell. ``paths`` recognises the parent
    directory by its name.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return Path("/tmp") / f"dbpool_mw-{os.geteuid()}" / digest[:16]


def project_key(settings_module: str | None, root_urlconf: object) -> str:
    """Return a text that identifies the project in all of its processes.

    The key is made of the first of these that exists:

    - the name and the file of the settings module;
    - without a settings module (``settings.configure()``), the file of the module
      ``root_urlconf``. Its name is left out: in a project of one file that name is
      ``__main__`` when the file runs as a script, and another one under a server;
    - the directory of the program that was started, with the value of ``root_urlconf``.
    """
    if settings_module is not None:
        return f"{settings_module}:{_file_of(settings_module)}"
    if isinstance(root_urlconf, str):
        file = _file_of(root_urlconf)
        if file:
            return f"urls:{file}"
    program = os.path.realpath(sys.path[0] if sys.path else "")
    return f"path:{program}:{root_urlconf}"


def _file_of(module: str) -> str:
    """Return the real path of the file of a module, or "" if it has none.

    A module that isn't loaded is looked up without executing it; its parent packages
    are imported.
    """
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None and loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        file = spec.origin if spec is not None else None
    return os.path.realpath(file) if file else ""
