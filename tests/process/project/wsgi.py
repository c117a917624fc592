"""The WSGI application."""

import json
import os

from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.test import RequestFactory

application = get_wsgi_application()

#: The backend of a query that ran before any fork; its connection stays open.
AT_IMPORT = None
if os.environ.get("TEST_AT_IMPORT") == "query":
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        AT_IMPORT = cursor.fetchone()[0]
elif os.environ.get("TEST_AT_IMPORT") == "request":
    # The request leaves pools with idle connections, their thread and a control socket.
    environ = RequestFactory().get("/facts/").environ
    response = application(environ, lambda status, headers: None)
    AT_IMPORT = json.loads(b"".join(response))["backend"]
    response.close()
