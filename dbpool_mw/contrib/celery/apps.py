"""The app that runs each Celery task on pooled connections, in a ``Scope``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

from dbpool_mw import conf, drivers
from dbpool_mw.core import platform

#: The attribute of ``task.request`` that holds the scope: a request is one run.
_SCOPE = "dbpool_mw_scope"


class CeleryConfig(AppConfig):
    """Connect receivers to Celery's signals; they act only where a task runs."""

    name = "dbpool_mw.contrib.celery"
    label = "dbpool_mw_celery"
    verbose_name = "Database connection pool for Celery"

    def ready(self) -> None:
        """Begin a scope before each task and end it after.

        Raises ImportError without Celery, and ImproperlyConfigured without "dbpool_mw"
        in INSTALLED_APPS, which handles forks and the exit, and in a worker with the
        pool ``eventlet``.
        """
        from celery import signals

        if not apps.is_installed("dbpool_mw"):
            raise ImproperlyConfigured(
                'INSTALLED_APPS has "dbpool_mw.contrib.celery" and not "dbpool_mw".'
            )
        if conf.is_switched_off() or not drivers.can_import():
            return  # a check of dbpool_mw reports that there is no database library
        problem = platform.problem()
        if problem is not None:
            # Celery logs what the receivers raise, and goes on without them.
            raise ImproperlyConfigured(" ".join(problem))
        for signal, receiver in (
            (signals.worker_process_init, begin_process),
            (signals.task_prerun, begin),
            (signals.task_postrun, end),
            (signals.worker_process_shutdown, close),
        ):
            uid = f"dbpool_mw.{receiver.__name__}"
            signal.connect(receiver, weak=False, dispatch_uid=uid)


def begin_process(**signal: Any) -> None:
    """Show a child to the commands; a receiver of ``worker_process_init``.

    Celery sends the signal in each prefork child, and for the ``solo`` pool. Processes
    with another pool are seen from their first task on.
    """
    from dbpool_mw.binding import registry

    registry.begin()


def begin(task: Any, **signal: Any) -> None:
    """Begin a task's scope; a receiver of ``task_prerun``, in the task's own thread.

    An eager task (``task_always_eager``, ``apply``) has no scope: it runs inside the
    code that calls it, on that code's connection. Celery's own ``DjangoWorkerFixup``
    closes no connection of eager tasks either.
    """
    from dbpool_mw.binding.scope import Scope

    if not task.request.is_eager:
        scope = Scope(method="task", path=task.name)
        # Stored before begin(): if a soft time limit interrupts begin(), end() still
        # ends the scope.
        setattr(task.request, _SCOPE, scope)
        scope.begin()


def end(task: Any, **signal: Any) -> None:
    """Return what a task holds; a receiver of ``task_postrun``.

    Celery sends the signal in the task's thread, however the task ends (``trace_task``
    in ``celery.app.trace``, read in Celery 5.4 to 5.7).
    """
    scope = getattr(task.request, _SCOPE, None)
    if scope is not None:
        scope.end()


def close(**signal: Any) -> None:
    """Close the pools of a prefork child; a receiver of ``worker_process_shutdown``.

    The child ends with ``os._exit()``, which skips what is registered with atexit.
    """
    from dbpool_mw.binding import registry

    registry.close()
