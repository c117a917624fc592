"""The user's settings; with TEST_APP the pool is installed."""

import os

from tests.settings import *  # noqa: F403

STATIC_URL = "/static/"
ROOT_URLCONF = "tests.django.users.urls"
INSTALLED_APPS = ["tests.django.users.shelf"]
MIDDLEWARE = []
if os.environ.get("TEST_APP"):
    INSTALLED_APPS = ["dbpool_mw", *INSTALLED_APPS]
    MIDDLEWARE = ["dbpool_mw.middleware.ConnectionPoolMiddleware"]
