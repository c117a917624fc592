"""Middleware that queries, fails or opens a transaction around the views."""

import json

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils.decorators import async_only_middleware


def backend_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def queries_afterwards(get_response):
    """Query after the response, whatever its status."""

    def middleware(request):
        response = get_response(request)
        response.headers["X-Afterwards"] = str(backend_pid())
        return response

    return middleware


def times_out(get_response):
    """End a request with a gevent.Timeout after ``?limit=`` seconds, 20 by default."""
    import gevent

    def middleware(request):
        try:
            with gevent.Timeout(float(request.GET.get("limit", "20"))):
                return get_response(request)
        except gevent.Timeout:
            return HttpResponse("timed out", status=504)

    return middleware


def outer_atomic(get_response):
    """Run the whole request in a transaction."""

    def middleware(request):
        with transaction.atomic():
            before = backend_pid()
            response = get_response(request)
            # An error in the view must not check the connection in.
            response.headers["X-Same"] = str(backend_pid() == before)
            return response

    return middleware


def fails_afterwards_sync(get_response):
    """Query after the response, then raise."""

    def middleware(request):
        get_response(request)
        backend_pid()
        raise ValueError("on purpose")

    return middleware


@async_only_middleware
def fails_afterwards_async(get_response):
    """Query after the response, then raise."""

    async def middleware(request):
        await get_response(request)
        await sync_to_async(backend_pid)()
        raise ValueError("on purpose")

    return middleware


def changes_session(get_response):
    """Set a tenant, make a table and take a lock; tell whether they are there after."""

    def middleware(request):
        with connection.cursor() as cursor:
            cursor.execute("SET app.tenant = '42'")
            cursor.execute("CREATE TEMP TABLE cart (item int)")
            cursor.execute("SELECT pg_advisory_lock(77)")
        response = get_response(request)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('app.tenant', true), pg_advisory_unlock(77),"
                " to_regclass('pg_temp.cart') IS NOT NULL"
            )
            response.headers["X-Session"] = json.dumps(cursor.fetchone())
            cursor.execute("DROP TABLE IF EXISTS cart")
        return response

    return middleware
