"""Middleware around the views, and one around the pool's own."""

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils.decorators import async_only_middleware


def backend_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def queries_afterwards(get_response):
    """Query when the response is there, whatever it is."""

    def middleware(request):
        response = get_response(request)
        response.headers["X-Afterwards"] = str(backend_pid())
        return response

    return middleware


def gives_up(get_response):
    """End the request's work under gevent, wherever it is, when its time is over."""
    import gevent

    def middleware(request):
        try:
            with gevent.Timeout(float(request.GET.get("limit", "20"))):
                return get_response(request)
        except gevent.Timeout:
            return HttpResponse("gave up", status=504)

    return middleware


def outer_atomic(get_response):
    """Run the whole request in a transaction."""

    def middleware(request):
        with transaction.atomic():
            before = backend_pid()
            response = get_response(request)
            # An error in the view must not have taken the connection away.
            response.headers["X-Same"] = str(backend_pid() == before)
            return response

    return middleware


def fails_afterwards_sync(get_response):
    """Fail when the response is there, after a query."""

    def middleware(request):
        get_response(request)
        backend_pid()
        raise ValueError("on purpose")

    return middleware


@async_only_middleware
def fails_afterwards_async(get_response):
    """Fail when the response is there, after a query."""

    async def middleware(request):
        await get_response(request)
        await sync_to_async(backend_pid)()
        raise ValueError("on purpose")

    return middleware
