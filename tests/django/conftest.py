"""A project whose settings a test chooses, for the system checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.signals import setting_changed
from django.db import connections
from django.db.utils import ConnectionHandler
from django.test import override_settings

from dbpool_mw import checks, conf

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

Project = Callable[..., None]


@pytest.fixture
def defaults() -> Iterator[None]:
    """Take the defaults for every setting, and notice the changes of a test."""
    setting_changed.connect(conf.reset_cache, dispatch_uid="test_checks")
    with override_settings(
        MIDDLEWARE=[checks.MIDDLEWARE], **conf.DbpoolMwConf._meta.defaults
    ):
        yield
    setting_changed.disconnect(dispatch_uid="test_checks")
    conf.reset_cache()


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give the project other databases; "default" is on PostgreSQL unless said."""

    def put(**said: dict[str, Any]) -> None:
        copies = {"default": POSTGRESQL, **said}
        made = ConnectionHandler({each: dict(copies[each]) for each in copies}).settings
        monkeypatch.setitem(connections.__dict__, "settings", made)
        conf.reset_cache()

    put()
    return put
