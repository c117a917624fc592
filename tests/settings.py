"""Settings of the test run, and of the servers that tests start.

Two variables name the databases, so that a server in another process uses the same
databases: DBPOOL_MW_TEST_DSN for "default", and DBPOOL_MW_TEST_REPLICA_DSN for
"replica" (by default the same database). Without both variables nothing listens at the
address: a test that needs a database uses the fixture `databases`.
"""

from __future__ import annotations

import os
from typing import Any

from tests.library import IS_PSYCOPG

if IS_PSYCOPG:
    from psycopg.conninfo import conninfo_to_dict as parse_dsn
else:
    from psycopg2.extensions import parse_dsn


def _database(dsn: str | None) -> dict[str, Any]:
    parts = parse_dsn(dsn or "postgresql://postgres@127.0.0.1:1/not_started")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "postgres"),
        "USER": parts.get("user", "postgres"),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", "127.0.0.1"),
        "PORT": parts.get("port", "5432"),
        "OPTIONS": {k: v for k, v in parts.items() if k == "sslmode"},
    }


_DSN = os.environ.get("DBPOOL_MW_TEST_DSN")

SECRET_KEY = "only for tests"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": _database(_DSN),
    "replica": _database(os.environ.get("DBPOOL_MW_TEST_REPLICA_DSN", _DSN)),
    "local": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}

INSTALLED_APPS = [
    "dbpool_mw",
    "django.contrib.contenttypes",  # the ENGINE of django-tenants uses its models
]
MIDDLEWARE = ["dbpool_mw.middleware.ConnectionPoolMiddleware"]
