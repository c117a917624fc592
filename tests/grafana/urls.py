"""The sandbox's pages, and pages that make faults, each on the alias ``?alias=``."""

import os
import threading

from django.db import connections
from django.http import HttpResponse, JsonResponse
from django.urls import path

from dbpool_mw import pooled
from sandbox.project.urls import handler500, urlpatterns

__all__ = ["handler500", "urlpatterns"]

KEPT = []


def query(request):
    """Query."""
    with connections[request.GET["alias"]].cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("well")


def hold(request):
    """Hold a connection, in a query, until nobody has the lock ``?key=``."""
    with connections[request.GET["alias"]].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [request.GET["key"]])
    return HttpResponse("well")


def end(request):
    """End a thread that has a connection, and never gives it back."""

    def work():
        block = pooled(request.GET["alias"])
        block.__enter__()
        # A block that nobody has any more would end.
        KEPT.append(block)
        query(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return HttpResponse("well")


def maintenance(request):
    """Tell the process, and the system's id of its maintenance thread."""
    (thread,) = (
        each.native_id
        for each in threading.enumerate()
        if each.name == "dbpool_mw-maintenance"
    )
    return JsonResponse({"pid": os.getpid(), "thread": thread})


urlpatterns = [
    *urlpatterns,
    path("query/", query),
    path("hold/", hold),
    path("end/", end),
    path("maintenance/", maintenance),
]
