"""The tasks of Django 6 and later on pooled connections."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from dbpool_mw.binding.scope import Scope


class _Local(threading.local):
    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}


#: The scopes of the tasks that this thread runs, by the ids of their results.
_here = _Local()


def connect() -> None:
    """Connect to the signals of ``django.tasks``, where there are any."""
    try:
        from django.tasks import signals
    except ImportError:  # pragma: no cover  # before Django 6.0, where none is measured
        return
    signals.task_started.connect(begin, dispatch_uid="dbpool_mw.begin_task")
    signals.task_finished.connect(end, dispatch_uid="dbpool_mw.end_task")


def begin(sender: Any, task_result: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_started``, in the task's own thread.

    Not for the ImmediateBackend, whose tasks are a part of what enqueues them, nor in
    an event loop, whose thread runs no queries.
    """
    if _runs_in_place(sender) or _in_event_loop():
        return
    scope = Scope(method="task", path=task_result.task.module_path)
    # Kept first: whatever interrupts begin(), what it did is undone.
    _here.scopes[task_result.id] = scope
    scope.begin()


def end(task_result: Any, **signal: Any) -> None:
    """Give back what a task holds; a receiver of ``task_finished``."""
    scope = _here.scopes.pop(task_result.id, None)
    if scope is not None:
        scope.end()


def _runs_in_place(sender: Any) -> bool:
    from django.tasks.backends.immediate import ImmediateBackend

    # Django's own backend sends its class; others send themselves.
    backend = sender if isinstance(sender, type) else type(sender)
    return issubclass(backend, ImmediateBackend)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
