"""Fixtures that give the tests of the system checks a project with chosen settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.core.signals import setting_changed
from django.db import connections
from django.db.utils import ConnectionHandler
from django.test import override_settings

from dbpool_mw import checks, conf

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

Project = Callable[..., None]


def found() -> list[CheckMessage]:
    """Return the messages of the checks of the settings and of the project."""
    return [*checks.check_settings(), *checks.check_project()]


def only(code: str) -> CheckMessage:
    """Return the only message, which must have the id of ``code``."""
    messages = found()
    assert [message.id for message in messages] == [checks.IDS[code]], messages
    return messages[0]


def advice(message: CheckMessage) -> str:
    """Return a message's hint without the sentence that says where more stands."""
    return str(message.hint).partition(" See https://")[0]


@pytest.fixture
def defaults() -> Iterator[None]:
    """Give every setting its default, and reset the cache when a test changes one."""
    setting_changed.connect(conf.reset_cache, dispatch_uid="test_checks")
    with override_settings(
        MIDDLEWARE=[checks.MIDDLEWARE], **conf.DbpoolMwConf._meta.defaults
    ):
        yield
    setting_changed.disconnect(dispatch_uid="test_checks")
    conf.reset_cache()


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a function that replaces DATABASES by its keyword arguments.

    Unless given, "default" is on PostgreSQL.
    """

    def set_databases(**databases: dict[str, Any]) -> None:
        copies = {
            alias: dict(database)
            for alias, database in {"default": POSTGRESQL, **databases}.items()
        }
        handler = ConnectionHandler(copies)
        monkeypatch.setitem(connections.__dict__, "settings", handler.settings)
        conf.reset_cache()

    set_databases()
    return set_databases
