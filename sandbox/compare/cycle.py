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
from typing import Any

import django
from django.conf import settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.module_loading import import_string


def view(request: HttpRequest) -> HttpResponse:
    """Connect and check, as the first query does, and ask nothing."""
    connection.cursor().close()
    return HttpResponse()


def main() -> None:
    """Answer until the standard input ends."""
    django.setup()
    # Django wraps each layer in this.
    handler: Any = convert_exception_to_response(view)
    for name in settings.MIDDLEWARE:
        # Django's own two cost every subject the same.
        if not name.startswith("django."):
            handler = convert_exception_to_response(import_string(name)(handler))
    for line in sys.stdin:
        number = int(line)
        requests = [RequestFactory().get("/") for _ in range(number)]
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        for request in requests:
            request_started.send(sender=WSGIHandler, environ=request.environ)
            response = handler(request)
            # As a server does; it sends request_finished.
            response.close()
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
        seconds = time.perf_counter() - began
        gc.enable()
        print(seconds / number * 1e6, flush=True)


if __name__ == "__main__":
    main()
