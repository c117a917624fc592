"""The app that gives each Celery task a scope; add it to INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

#: Where a task's request, which is one for each run of a task, keeps its scope.
_SCOPE = "dbpool_mw_scope"


class CeleryConfig(AppConfig):
    """Connect to Celery's signals; a process that runs no task notices nothing."""

    name = "dbpool_mw.contrib.celery"
    label = "dbpool_mw_celery"
    verbose_name = "Database connection pool for Celery"

    def ready(self) -> None:
        """Have each task begin and end a scope.

        Raises ImportError without Celery, and ImproperlyConfigured when dbpool_mw is no
        installed app: its part in forks and at exit would be missing.
        """
        from celery import signals

        if not apps.is_installed("dbpool_mw"):
            raise ImproperlyConfigured(
                'INSTALLED_APPS has "dbpool_mw.contrib.celery" and not "dbpool_mw".'
            )
        try:
            import psycopg2  # noqa: F401
        except ImportError:
            return  # a check of dbpool_mw says so
        for signal, receiver in (
            (signals.task_prerun, begin),
            (signals.task_postrun, end),
            (signals.worker_process_shutdown, close),
        ):
            uid = f"dbpool_mw.{receiver.__name__}"
            signal.connect(receiver, weak=False, dispatch_uid=uid)


def begin(task: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_prerun``, in the task's own thread.

    Not for a task that runs in place of being sent (``task_always_eager``, ``apply``):
    it is a part of what calls it, whose connection isn't to be closed. Celery's own
    ``DjangoWorkerFixup`` leaves those alone too.
    """
    from dbpool_mw.binding.scope import Scope

    if not task.request.is_eager:
        scope = Scope(method="task", path=task.name)
        # Kept first: a soft time limit may interrupt begin(), and end() comes even so.
        setattr(task.request, _SCOPE, scope)
        scope.begin()


def end(task: Any, **signal: Any) -> None:
    """Give back what a task holds; a receiver of ``task_postrun``.

    Celery sends it whatever ends the task, in the same thread (``trace_task`` in
    ``celery.app.trace``, read in 5.4 to 5.7).
    """
    scope = getattr(task.request, _SCOPE, None)
    if scope is not None:
        scope.end()


def close(**signal: Any) -> None:
    """Close the pools of a prefork child; a receiver of ``worker_process_shutdown``.

    The child ends by ``os._exit``, so that nothing registered with atexit runs.
    """
    from dbpool_mw.binding import registry

    registry.close()
