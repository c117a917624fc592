"""Settings for Django's own tests, which add the apps that they need."""

from __future__ import annotations

import os

from tests.settings import _DSN, _database

DATABASES = {
    alias: {
        **_database(_DSN),
        "ENGINE": os.environ["TEST_ENGINE"],
        "TEST": {"NAME": f"{os.environ['TEST_PREFIX']}_{alias}"},
    }
    for alias in ("default", "other")
}
SECRET_KEY = "only for tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "tests.postgres.djangos.runner.Runner"
