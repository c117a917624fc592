"""tests.settings, and the settings of a test in TEST_SETTINGS, a JSON object."""

import json
import os

from tests.process.project import clocks
from tests.settings import *  # noqa: F403

if os.environ.get("TEST_CLOCK") == "jumps":
    clocks.set_forward_and_back()
ROOT_URLCONF = "tests.process.project.urls"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
for _alias, _changes in json.loads(os.environ.get("TEST_DATABASES", "{}")).items():
    DATABASES[_alias].update(_changes)  # noqa: F405
globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
