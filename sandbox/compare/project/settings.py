"""The settings of every subject: the sandbox's, with one way to connect.

``COMPARE_SUBJECT``
    A key of ``sandbox.compare.subjects``. Required.
``COMPARE_CONNECTIONS``
    The connections that a pool may open in this process, 4 unless given.
``SANDBOX_DSN``
    The database, or PgBouncer, as for the sandbox's settings.
"""

from __future__ import annotations

import os

# What a subject doesn't change is the sandbox's, without a pool.
os.environ["SANDBOX_POOLING"] = "none"

from sandbox.compare.subjects import CONNECTIONS
from sandbox.project.settings import *  # noqa: F403
from sandbox.project.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE

SUBJECT = os.environ["COMPARE_SUBJECT"]
SIZE = int(os.environ.get("COMPARE_CONNECTIONS") or CONNECTIONS)

#: Around what a page waits for outside of the database; it changes nothing, unless a
#: subject has something for it.
AWAY = "contextlib.nullcontext"

ROOT_URLCONF = "sandbox.compare.project.urls"

_default = DATABASES["default"]
_options = _default["OPTIONS"]

if "persistent" in SUBJECT:
    _default["CONN_MAX_AGE"] = None
if SUBJECT.endswith("-checked"):
    _default["CONN_HEALTH_CHECKS"] = True
if SUBJECT.startswith("pgbouncer-transaction"):
    _default["DISABLE_SERVER_SIDE_CURSORS"] = True

if SUBJECT.startswith("native") or SUBJECT == "real-pool":
    _options["pool"] = {"min_size": SIZE, "max_size": SIZE}
if SUBJECT == "native-closed":
    AWAY = "sandbox.compare.project.away.closed"
if SUBJECT == "real-pool":
    _default["ENGINE"] = "django_pg_real_pool"
elif SUBJECT == "connection-pool":
    _default["ENGINE"] = "dj_db_conn_pool.backends.postgresql"
    _default["POOL_OPTIONS"] = {"POOL_SIZE": SIZE, "MAX_OVERFLOW": 0}
elif SUBJECT == "geventpool":
    _default["ENGINE"] = "django_db_geventpool.backends.postgresql_psycopg3"
    _options |= {"MAX_CONNS": SIZE, "pool": False}
elif SUBJECT == "postgrespool2":
    _default["ENGINE"] = "django_postgrespool2"
    DATABASE_POOL_ARGS = {
        "pool_size": SIZE,
        "max_overflow": 0,
        "recycle": 300,
        "pre_ping": True,
    }
elif SUBJECT.startswith("dbpool-"):
    INSTALLED_APPS = ["dbpool_mw", *INSTALLED_APPS]
    MIDDLEWARE = ["dbpool_mw.middleware.ConnectionPoolMiddleware", *MIDDLEWARE]
    DBPOOL_MW_MAX_CONNS = SIZE
    if SUBJECT == "dbpool-released":
        AWAY = "dbpool_mw.released"
    DBPOOL_MW_EAGER = () if SUBJECT == "dbpool-lazy" else ("default",)
