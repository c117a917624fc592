"""The user's settings; the environment says how much of the pool is installed.

``TEST_POOL`` names any of "middleware" and "engine"; ``TEST_EARLY`` when the project
queries its database before there is a test database; ``TEST_SAME_NAME`` when its test
database has the name that is configured.
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

if os.environ.get("TEST_SAME_NAME"):
    for _alias in ("default", "replica"):
        DATABASES[_alias]["NAME"] = f"test_{DATABASES[_alias]['NAME']}"
        DATABASES[_alias]["TEST"] = {"NAME": DATABASES[_alias]["NAME"]}
