"""Pages with django-debug-toolbar in them, and its own."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.urls import include, path

from dbpool_mw.decorators import no_pool
from tests.process.project.urls import urlpatterns as others

PAGE = "<!doctype html><html><head><title>Page</title></head><body></body></html>"


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def change() -> None:
    """Check a second connection out, and change its session."""
    run("SELECT 1")
    connection.close()
    run("SET statement_timeout = 12345")


def two(request: Any) -> HttpResponse:
    change()
    return HttpResponse(PAGE)


async def two_async(request: Any) -> HttpResponse:
    await sync_to_async(change)()
    return HttpResponse(PAGE)


def clean(request: Any) -> HttpResponse:
    run("SELECT '<script>'")
    return HttpResponse(PAGE)


def marks(request: Any) -> HttpResponse:
    run("SET application_name = '<script>'")
    return HttpResponse(PAGE)


@no_pool
def none(request: Any) -> HttpResponse:
    return HttpResponse(PAGE)


urlpatterns = [
    path("two/", two),
    path("two_async/", two_async),
    path("clean/", clean),
    path("marks/", marks),
    path("none/", none),
    path("__debug__/", include("debug_toolbar.urls")),
    *others,
]
