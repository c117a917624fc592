"""The settings of the user's project, which depend on environment variables.

``TEST_POOL`` contains "middleware", "engine", both or nothing. With ``TEST_SAME_NAME``
the test databases have the names that are configured, with ``TEST_MIRROR`` the replica
is a mirror. ``TEST_EARLY`` is described in ``early.py``.
"""

import os

from tests.django.users import watch
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

STATIC_URL = "/static/"
ROOT_URLCONF = "tests.django.users.urls"
INSTALLED_APPS = ["tests.django.users.shelf"]
MIDDLEWARE = []

POOL = os.environ.get("TEST_POOL", "").split()
if POOL:
    INSTALLED_APPS = ["dbpool_mw", *INSTALLED_APPS]
    DBPOOL_MW_CONTROL_DIR = os.environ["TEST_CONTROL_DIR"]
    watch.start(os.environ["TEST_THREADS"])
if "middleware" in POOL:
    MIDDLEWARE = ["dbpool_mw.middleware.ConnectionPoolMiddleware"]
if "engine" in POOL:
    for _alias in ("default", "replica"):
        DATABASES[_alias]["ENGINE"] = "dbpool_mw.backends.postgresql"
        DATABASES[_alias]["OPTIONS"] = {"MAX_CONNS": 4, "MIN_CONNS": 1}
else:
    DBPOOL_MW_MAX_CONNS = 4
    DBPOOL_MW_MIN_CONNS = 1

MIRRORED = bool(os.environ.get("TEST_MIRROR"))
if MIRRORED:
    DATABASES["replica"]["TEST"] = {"MIRROR": "default"}
if os.environ.get("TEST_SAME_NAME"):
    for _alias in ("default", "replica"):
        DATABASES[_alias]["NAME"] = f"test_{DATABASES[_alias]['NAME']}"
        DATABASES[_alias]["TEST"] = {"NAME": DATABASES[_alias]["NAME"]}
