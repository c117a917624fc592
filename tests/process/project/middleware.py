"""Middleware around the views, and one around the pool's own."""

from django.db import connection, transaction


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
