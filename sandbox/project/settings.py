"""Settings of the sandbox project; the environment chooses database and pooling.

``SANDBOX_DSN``
    The database, as ``postgresql://user:password@host:port/name`` or as libpq's
    ``key=value`` words. Required.
``SANDBOX_POOLING``
    ``dbpool`` (the default) runs requests on pooled connections, ``none`` opens a
    connection for each request as Django does by default, ``persistent`` sets
    ``CONN_MAX_AGE = None``, and ``native`` sets Django's own pool, which needs psycopg
    and Django 5.1. ``lazy`` is ``dbpool`` with ``DBPOOL_MW_EAGER = ()``, and
    ``nothing`` is ``none`` with a middleware that does nothing.
``SANDBOX_CONTROL_DIR``
    The directory of the control sockets; the default directory when it isn't set.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from psycopg2.extensions import parse_dsn

BASE_DIR = Path(__file__).resolve().parent.parent

APPLICATION_NAME = "dbpool_mw sandbox"

POOLING = os.environ.get("SANDBOX_POOLING") or "dbpool"
POOLINGS = ("dbpool", "lazy", "native", "none", "nothing", "persistent")
if POOLING not in POOLINGS:
    raise ImproperlyConfigured(
        f"SANDBOX_POOLING is {POOLING!r}; it must be one of {', '.join(POOLINGS)}."
    )
if not os.environ.get("SANDBOX_DSN"):
    raise ImproperlyConfigured(
        "Set SANDBOX_DSN to the sandbox's database, for example "
        "postgresql://user:password@127.0.0.1:5432/shop. "
        "'make sandbox SERVE=1' starts one and prints its SANDBOX_DSN."
    )

_dsn = {"application_name": APPLICATION_NAME, **parse_dsn(os.environ["SANDBOX_DSN"])}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _dsn.pop("dbname", "postgres"),
        "USER": _dsn.pop("user", ""),
        "PASSWORD": _dsn.pop("password", ""),
        "HOST": _dsn.pop("host", ""),
        "PORT": _dsn.pop("port", ""),
        "CONN_MAX_AGE": None if POOLING == "persistent" else 0,
        "OPTIONS": {**_dsn, "pool": True} if POOLING == "native" else _dsn,
    }
}

INSTALLED_APPS = ["sandbox.shop"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]
if POOLING in ("dbpool", "lazy"):
    # These two lines are all that a project adds.
    INSTALLED_APPS = ["dbpool_mw", *INSTALLED_APPS]
    MIDDLEWARE = ["dbpool_mw.middleware.ConnectionPoolMiddleware", *MIDDLEWARE]
elif POOLING == "nothing":
    MIDDLEWARE = ["sandbox.project.middleware.nothing", *MIDDLEWARE]

DBPOOL_MW_EAGER = () if POOLING == "lazy" else ("default",)

DBPOOL_MW_CONTROL_DIR = os.environ.get("SANDBOX_CONTROL_DIR") or None

# Any program of this machine may read /dbpool/metrics.
DBPOOL_MW_METRICS_LOOPBACK = True

DEBUG = False
SECRET_KEY = "the sandbox serves on the loopback interface only"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ROOT_URLCONF = "sandbox.project.urls"
WSGI_APPLICATION = "sandbox.project.wsgi.application"
ASGI_APPLICATION = "sandbox.project.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    }
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "format": "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "dbpool_mw": {"handlers": ["stderr"], "level": "INFO"},
        # /fail/ raises on purpose: its tracebacks would fill the log.
        "django.request": {"level": "CRITICAL"},
    },
}
