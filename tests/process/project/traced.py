"""The pages that tests.process.traced requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.db import connection
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.http import JsonResponse
from django.urls import include, path

from tests.library import IS_PSYCOPG
from tests.process.project.middleware import backend_pid
from tests.process.project.views import Database


def page(view: Callable[[Any], object]) -> Callable[[Any], JsonResponse]:
    """Make a view of a function that uses a cursor; the answer has the backend too."""

    def answer(request: Any) -> JsonResponse:
        with connection.cursor() as cursor:
            found = view(cursor)
        return JsonResponse({"found": found, "backend": backend_pid()})

    return answer


#: A cursor that was kept after the end of its request.
kept: list[Any] = []


def clean(cursor: Any) -> object:
    """Query in three ways; return what another request may have left in the session."""
    Database.objects.filter(name__startswith="template").exclude(name="x").count()
    next(Database.objects.iterator(chunk_size=1))
    cursor.execute(
        "SELECT current_setting('statement_timeout'), to_regclass('left_behind'),"
        " current_setting('application_name'), current_setting(%s)",
        ["transaction_isolation"],
    )
    return cursor.fetchone()


def sets(cursor: Any) -> object:
    cursor.execute("SET statement_timeout = 12345")
    return None


def sets_by_parameter(cursor: Any) -> object:
    cursor.execute("SELECT set_config(%s, %s, false)", ["application_name", "mine"])
    return cursor.fetchone()


def makes_table(cursor: Any) -> object:
    cursor.execute("CREATE TEMP TABLE left_behind (a int)")
    return None


def sets_attribute(cursor: Any) -> object:
    connection.connection.isolation_level = IsolationLevel.SERIALIZABLE
    return None


def begins(cursor: Any) -> object:
    cursor.execute("BEGIN")
    return None


def keeps(cursor: Any) -> object:
    own = connection.connection.cursor()
    own.execute("SELECT 1")
    kept.append(own)
    return None


def uses(cursor: Any) -> object:
    try:
        kept.pop().execute("SELECT 1")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


#: Each changes its session.
CHANGES = {
    view.__name__: view
    for view in (sets, sets_by_parameter, makes_table, sets_attribute)
}
#: Those that cost a reset. Of psycopg's attributes the server knows nothing.
RESETS = [name for name in CHANGES if not (IS_PSYCOPG and name == "sets_attribute")]
PAGES = {**CHANGES, **{view.__name__: view for view in (clean, begins, keeps, uses)}}

urlpatterns = [path(f"{name}/", page(view)) for name, view in PAGES.items()]
if apps.is_installed("debug_toolbar"):
    urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))
