"""The app that gives each Celery task a scope; add it to INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig

from dbpool_mw.scope import Scope

#: Where a task's request, which is one for each run of a task, keeps its scope.
_SCOPE = "dbpool_mw_scope"


class CeleryConfig(AppConfig):
    """Connect to Celery's signals; a process that runs no task notices nothing."""

    name = "dbpool_mw.contrib.celery"
    label = "dbpool_mw_celery"
    verbose_name = "Database connection pool for Celery"

    def ready(self) -> None:
        """Have each task begin and end a scope; raises ImportError without Celery."""
        from celery import signals

        for signal, receiver in (
            (signals.task_prerun, begin),
            (signals.task_postrun, end),
        ):
            uid = f"dbpool_mw.{receiver.__name__}"
            signal.connect(receiver, weak=False, dispatch_uid=uid)


def begin(task: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_prerun``, in the task's own thread.

    In a task that runs in place of being sent (``task_always_eager``) it does nothing
    inside a request, and inside another task it shares that one's connection.
    """
    scope = Scope(method="task", path=task.name)
    scope.begin()
    setattr(task.request, _SCOPE, scope)


def end(task: Any, **signal: Any) -> None:
    """Give back what a task holds; a receiver of ``task_postrun``.

    Celery sends it whatever ends the task, in the same thread (``trace_task`` in
    ``celery.app.trace``, read in 5.4 to 5.7).
    """
    scope = getattr(task.request, _SCOPE, None)
    if scope is not None:
        scope.end()
