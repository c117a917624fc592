"""The WSGI application."""

import os

from django.core.wsgi import get_wsgi_application
from django.db import connections

application = get_wsgi_application()

#: What the server said before any fork; the connection stays open.
AT_IMPORT = None
if os.environ.get("TEST_QUERY_AT_IMPORT"):
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        AT_IMPORT = cursor.fetchone()[0]
