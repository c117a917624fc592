"""The tasks of Django 6 and later on pooled connections."""

from __future__ import annotations

import threading
from typing import Any

from dbpool_mw.scope import Scope


class _Local(threading.local):
    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}


#: The scopes of the tasks that this thread runs, by the ids of their results.
_here = _Local()


def connect() -> None:
    """Connect to the signals of ``django.tasks``, where there are any."""
    try:
        from django.tasks import signals
    except ImportError:
        return
    signals.task_started.connect(begin, dispatch_uid="dbpool_mw.begin_task")
    signals.task_finished.connect(end, dispatch_uid="dbpool_mw.end_task")


def begin(sender: Any, task_result: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_started``, in the task's own thread.

    Not for the ImmediateBackend, whose tasks are a part of what enqueues them.
    """
    from django.tasks.backends.immediate import ImmediateBackend

    if not issubclass(sender, ImmediateBackend):
        scope = Scope(method="task", path=task_result.task.module_path)
        scope.begin()
        _here.scopes[task_result.id] = scope


def end(task_result: Any, **signal: Any) -> None:
    """Give back what a task holds; a receiver of ``task_finished``."""
    scope = _here.scopes.pop(task_result.id, None)
    if scope is not None:
        scope.end()
