"""uWSGI: it loads the application in one process and forks, in C, those that serve.

Python's hooks for forks don't run there, unless ``py-call-uwsgi-fork-hooks`` is set.
uWSGI calls one function in each child instead, ``uwsgi.post_fork_hook``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbpool_mw.core.logs import get_logger

logger = get_logger("dbpool_mw.pool")


#: What ``uwsgidecorators`` sets when it is imported.
_HOOKS = ("post_fork_hook", "spooler", "mule_msg_hook")


def _module() -> Any:
    """Return the module that uWSGI makes in its processes, None in all others."""
    module = sys.modules.get("uwsgi")
    return module if hasattr(module, "worker_id") else None


def is_loading() -> bool:
    """Tell whether this process loads the application for those that uWSGI will fork.

    A thread that is started in it may hold a lock, or the interpreter's, at the fork.
    """
    uwsgi = _module()
    if uwsgi is None:
        return False
    is_spooler = getattr(uwsgi, "i_am_the_spooler", bool)
    return not (uwsgi.worker_id() or uwsgi.mule_id() or is_spooler())


def call_after_forks(function: Callable[[], object]) -> None:
    """Have uWSGI call a function in each process that serves, before other hooks.

    Without a master, one of them is the process that loaded the application. Does
    nothing under another server.
    """
    uwsgi = _module()
    if uwsgi is None:
        return
    before = {name: getattr(uwsgi, name, None) for name in _HOOKS}
    with suppress(Exception):  # it refuses to be imported without a master
        # Imported later, it would replace the hook that is set here.
        import uwsgidecorators  # noqa: F401
    own = getattr(uwsgi, "post_fork_hook", None)
    for name, set_before in before.items():
        if set_before is not None:
            setattr(uwsgi, name, set_before)
    hooks = dict.fromkeys([before["post_fork_hook"], own])

    def hook() -> None:
        function()
        for other in hooks:
            if other is not None:
                other()

    uwsgi.post_fork_hook = hook


def warn_without_threads() -> None:
    """Log once that uWSGI runs no threads, if so: the first worker does at the most."""
    uwsgi = _module()
    if uwsgi is None or uwsgi.has_threads or uwsgi.worker_id() > 1:
        return
    logger.warning(
        "uWSGI runs no threads between requests: MIN_CONNS, MAX_IDLE, MAX_HOLD and the "
        "commands need them. Set enable-threads = true in uWSGI's configuration."
    )
