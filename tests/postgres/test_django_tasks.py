"""Tasks of django.tasks: run by a worker in threads, and immediately."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import KEY
from tests.postgres.conftest import ask, stats

tasks = pytest.importorskip(
    "django.tasks", reason="django.tasks came with Django 6.0", exc_type=ImportError
)

pytestmark = pytest.mark.usefixtures("fresh_wrappers")
IN_PLACE = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}
seen: list[object] = []


def backend_of_task():
    seen.append(ask("SELECT pg_backend_pid()"))
    seen.extend(holder["path"] for holder in registry.pools()[0].holders())


def failing_task():
    ask("SELECT 1")
    raise ValueError("on purpose")


def draining_task():
    seen.append(ask("SELECT pg_backend_pid()"))
    run(backend_of_task)
    assert stats()["in_use"] == 1


def exiting_task():
    ask("SELECT 1")
    raise SystemExit


class Backend:
    """The sender of the signals: a worker's backend."""


class Result:
    """The attributes of a task's result that the receivers read."""

    def __init__(self, function):
        self.id = f"result of {function.__name__} in {threading.get_ident()}"
        self.task = tasks.task(function)
        self.backend = "worker"
        self.status = tasks.TaskResultStatus.RUNNING


def run(function, sender=Backend):
    """Run a task as a worker's backend does: the signals around it, in this thread."""
    result = Result(function)
    task = result.task
    tasks.signals.task_started.send(sender=sender, task_result=result)
    try:
        task.func()
    except BaseException as error:
        return error
    finally:
        tasks.signals.task_finished.send(sender=sender, task_result=result)


@pytest.fixture(autouse=True)
def _settings():
    seen.clear()
    with override_settings(TASKS=IN_PLACE):
        yield


def test_each_task_has_a_pooled_connection_and_gives_it_back():
    for function in (backend_of_task, failing_task, exiting_task, backend_of_task):
        run(function)
        assert stats()["in_use"] == 0
    first, name, second, _ = seen
    assert first == second
    assert name == f"{__name__}.backend_of_task"
    assert stats()["checkouts"] == 4
    assert stats()["opened"] == 1
    assert stats()["reclaimed"] == 0
    assert KEY not in vars(connection)


def test_a_backend_may_send_itself_instead_of_its_class():
    assert run(backend_of_task, sender=Backend()) is None
    assert stats()["checkouts"] == 1
    assert stats()["in_use"] == 0


def test_a_worker_inside_of_a_task_leaves_that_tasks_connection_alone():
    assert run(draining_task) is None
    assert seen[0] == seen[1]
    assert stats()["checkouts"] == 1
    assert stats()["in_use"] == 0


def test_tasks_of_coroutines_share_a_connection_until_the_last_has_finished():
    started, finished = tasks.signals.task_started, tasks.signals.task_finished

    async def main():
        first, second = Result(failing_task), Result(exiting_task)
        await started.asend(sender=Backend, task_result=first)
        await sync_to_async(ask)("SELECT 1")
        await sync_to_async(started.send)(sender=Backend, task_result=second)
        assert stats()["in_use"] == 1
        await finished.asend(sender=Backend, task_result=first)
        await sync_to_async(ask)("SELECT 1")
        assert stats()["in_use"] == 1
        await finished.asend(sender=Backend, task_result=second)
        assert stats()["in_use"] == 0

    asyncio.run(main())
    assert stats()["checkouts"] == 1


def test_a_worker_that_sends_in_its_event_loop_is_left_alone():
    async def main():
        return run(no_query)

    assert asyncio.run(main()) is None
    assert registry.pools() == []


def no_query():
    pass


@override_settings(DBPOOL_MW_MAX_CONNS=2, DBPOOL_MW_TIMEOUT=20)
def test_a_worker_with_threads_shares_the_pool():
    threads = [threading.Thread(target=run, args=[backend_of_task]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert stats()["checkouts"] == 20
    assert stats()["opened"] <= 2
    assert stats()["in_use"] == stats()["reclaimed"] == 0


def test_a_task_run_in_place_uses_the_connection_of_the_request(requests):
    task = tasks.task(backend_of_task)

    def view(request):
        before = ask("SELECT pg_backend_pid()")
        task.enqueue()
        assert seen == [before, "/"]
        return HttpResponse()

    assert requests(view).status_code == 200
    assert stats()["checkouts"] == 1


def test_a_task_run_in_place_elsewhere_opens_no_pool():
    result = tasks.task(asks).enqueue()
    assert result.status == tasks.TaskResultStatus.SUCCESSFUL
    assert registry.pools() == []


def asks():
    ask("SELECT 1")
