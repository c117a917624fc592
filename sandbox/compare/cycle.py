"""Go through requests' cycles: ``python -m sandbox.compare.cycle``.

Reads a number from each line of its standard input, and answers with the microseconds
that one of so many cycles took. Its settings are a subject's.
"""

from __future__ import annotations

import os
import sys

if "gevent" in os.environ["COMPARE_SUBJECT"]:
    from gevent import monkey

    monkey.patch_all()

import gc
import time

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.module_loading import import_string

_RESPONSE = HttpResponse()


def view(request: HttpRequest) -> HttpResponse:
    """Connect, as the first query does, and ask nothing."""
    connection.ensure_connection()
    return _RESPONSE


def main() -> None:
    """Answer until the standard input ends."""
    django.setup()
    handler = view
    for name in settings.MIDDLEWARE:
        # Django's own two cost every subject the same.
        if not name.startswith("django."):
            handler = import_string(name)(handler)
    for line in sys.stdin:
        number = int(line)
        requests = [RequestFactory().get("/") for _ in range(number)]
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        for request in requests:
            request_started.send(sender=WSGIHandler, environ=request.environ)
            handler(request)
            request_finished.send(sender=WSGIHandler)
        seconds = time.perf_counter() - began
        gc.enable()
        print(seconds / number * 1e6, flush=True)


if __name__ == "__main__":
    main()
