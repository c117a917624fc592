"""Pooled connections for the tasks of ``django.tasks``, in Django 6.0 and later."""

from __future__ import annotations

import asyncio
from typing import Any

from dbpool_mw.binding.binding import thread_state
from dbpool_mw.binding.scope import Scope


def connect() -> None:
    """Connect to the signals of ``django.tasks``, where Django has it."""
    try:
        from django.tasks import signals
    except ImportError:  # pragma: no cover  # before Django 6.0, where none is measured
        return
    signals.task_started.connect(begin, dispatch_uid="dbpool_mw.begin_task")
    signals.task_finished.connect(end, dispatch_uid="dbpool_mw.end_task")


def begin(sender: Any, task_result: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_started``, in the task's own thread.

    Tasks of the ImmediateBackend have no scope: they run inside the code that enqueues
    them. Nor have tasks that start in an event loop, whose thread runs no queries.
    """
    if _runs_immediately(sender) or _in_event_loop():
        return
    scope = Scope(method="task", path=task_result.task.module_path)
    # Stored before begin(): if an exception interrupts begin(), end() still ends it.
    thread_state.task_scopes[task_result.id] = scope
    scope.begin()


def end(task_result: Any, **signal: Any) -> None:
    """Return what a task holds; a receiver of ``task_finished``."""
    scope = thread_state.task_scopes.pop(task_result.id, None)
    if scope is not None:
        scope.end()


def _runs_immediately(sender: Any) -> bool:
    from django.tasks.backends.immediate import ImmediateBackend

    # The sender is the backend's class in Django, the backend itself in other packages.
    backend = sender if isinstance(sender, type) else type(sender)
    return issubclass(backend, ImmediateBackend)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
