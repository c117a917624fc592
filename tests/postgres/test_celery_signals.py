"""Celery's signals: a worker's tasks are pooled, eager tasks are left alone."""

from __future__ import annotations

import asyncio
import sys

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_prerun
from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import HttpResponse

from dbpool_mw import pooled
from dbpool_mw.binding import registry, scope
from dbpool_mw.binding.binding import KEY
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers", "celery_receivers")
app = Celery("tests", broker="memory://", fixups=[], set_as_current=False)


@app.task
def backend():
    return ask("SELECT pg_backend_pid()")


@app.task
def fails():
    ask("SELECT 1")
    raise ValueError("on purpose")


@app.task
def exits():
    ask("SELECT 1")
    raise SystemExit


@app.task(bind=True, max_retries=None)
def retries(self):
    ask("SELECT 1")
    raise self.retry()


@app.task
def calls():
    before = ask("SELECT pg_backend_pid()")
    assert backend.apply().get() == before
    assert ask("SELECT pg_backend_pid()") == before
    assert stats()["in_use"] == 1
    return before


def run(task):
    """Run a task in this thread as a worker does."""
    trace = build_tracer(task.name, task, app=app)
    return trace("an id", (), {}, {"id": "an id", "delivery_info": {}}).retval


def test_whatever_ends_a_task_its_connection_goes_back():
    first = run(backend)
    for task in (fails, retries, calls):
        run(task)
        assert stats()["in_use"] == 0
    with pytest.raises(SystemExit):
        run(exits)
    assert stats()["in_use"] == stats()["reclaimed"] == 0
    assert run(backend) == first
    assert stats()["opened"] == 1
    assert KEY not in vars(connection)


def test_an_eager_task_leaves_its_callers_session_alone():
    ask("CREATE TEMP TABLE kept (a int)")
    before = ask("SELECT pg_backend_pid()")
    assert backend.apply().get() == before
    assert ask("SELECT count(*) FROM kept") == 0
    assert registry.pools() == []


def test_an_eager_task_shares_the_connection_of_a_request(requests):
    def view(request):
        assert ask("SELECT pg_backend_pid()") == backend.apply().get()
        assert stats()["in_use"] == 1
        return HttpResponse()

    assert requests(view).status_code == 200
    assert stats()["checkouts"] == 1


def test_an_eager_task_called_by_a_coroutine_logs_nothing(caplog):
    @app.task
    def asks_nothing():
        return 7

    async def main():
        return asks_nothing.apply().get()

    assert asyncio.run(main()) == 7
    assert caplog.text == ""


def test_a_time_limit_that_interrupts_begin_affects_no_later_task(monkeypatch):
    def interrupted(self, wrapper):
        whole(self, wrapper)
        raise SoftTimeLimitExceeded

    whole = scope.Scope._begin
    with monkeypatch.context() as changes:
        changes.setattr(scope.Scope, "_begin", interrupted)
        run(backend)
    assert stats()["in_use"] == 0
    assert KEY not in vars(connection)
    run(backend)
    assert stats()["in_use"] == 0


def test_a_task_inside_of_a_block_gives_back_with_it():
    with pooled():
        first = ask("SELECT pg_backend_pid()")
        assert run(backend) == first
        assert stats()["in_use"] == 1
    assert stats()["in_use"] == 0


def test_without_the_library_the_app_connects_nothing(monkeypatch):
    uid = "dbpool_mw.begin"
    assert task_prerun.disconnect(dispatch_uid=uid)
    app_config = AppConfig.create("dbpool_mw.contrib.celery")
    with monkeypatch.context() as changes:
        for library in ("psycopg", "psycopg2"):
            changes.setitem(sys.modules, library, None)
        app_config.ready()
    assert not task_prerun.disconnect(dispatch_uid=uid)
    app_config.ready()


def test_the_app_raises_when_dbpool_mw_is_not_installed(monkeypatch):
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    with pytest.raises(ImproperlyConfigured, match='not "dbpool_mw"'):
        AppConfig.create("dbpool_mw.contrib.celery").ready()
