"""What Django's test classes and pytest-django change, and how to recognise it.

The rest of the package asks here whether tests run, whether a test may use a database
and whether its transaction is open. Two places know of tests besides: the receiver of
``setting_changed`` in ``signals``, and ``dbpool_mw.test``, which tests call themselves.

Read in Django 4.2 to 6.1 and in pytest-django 4.14.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.creation import TEST_DATABASE_PREFIX

#: Django's ``ensure_connection``; None where it had been replaced before this module
#: was imported. Where ``BaseDatabaseWrapper`` has another one, ask
#: ``may_forbid_connecting()``.
DJANGO_ENSURE_CONNECTION: Any = BaseDatabaseWrapper.ensure_connection
if DJANGO_ENSURE_CONNECTION.__module__ != BaseDatabaseWrapper.__module__:
    DJANGO_ENSURE_CONNECTION = None

#: The name of each alias's database in the project's settings.
_configured_databases: dict[str, str] = {}


def remember_databases() -> None:
    """Note the name of each alias's database; called once, when the app is ready.

    Test runners change the names afterwards: ``DATABASES[alias]["NAME"]`` becomes that
    of the test database.
    """
    _configured_databases.update(
        (alias, values["NAME"]) for alias, values in connections.settings.items()
    )


def is_test_run() -> bool:
    """Tell whether Django's test runner or pytest-django runs in this process.

    Both call ``django.test.utils.setup_test_environment()``, which keeps what it
    changed in ``_TestState.saved_data`` until ``teardown_test_environment()``.
    """
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def has_no_test_database(alias: str, database: str) -> bool:
    """Tell whether tests run and ``database`` is the project's own database.

    Runners make test databases only for the aliases that the chosen tests need, and
    after the tests are imported.
    """
    return is_test_run() and database == _configured_databases.get(alias)


def must_keep_no_idle_connection(alias: str, database: str) -> bool:
    """Tell whether a pool of this database must close connections at their checkin.

    The runner drops a test database at the end, which the server refuses while a
    connection is open. A database may have the configured name during a test run too:
    ``TEST["NAME"]`` allows that. One that is named as test databases are counts even
    where no runner is known to run, as under ``manage.py testserver``.
    """
    if is_test_run():
        return True
    if database == _configured_databases.get(alias, database):
        return False
    name = connections.settings[alias]["TEST"]["NAME"]
    return database.startswith(name or TEST_DATABASE_PREFIX)


def forbids_connecting(wrapper: Any) -> bool:
    """Tell whether a test replaced ``connect`` of a wrapper that isn't bound.

    SimpleTestCase assigns an object that raises to ``wrapper.connect``, for each alias
    that isn't in its ``databases``. At the end of the class it assigns the method of
    the wrapper's class: that attribute forbids nothing.
    """
    connect = vars(wrapper).get("connect")
    return (
        connect is not None
        and getattr(connect, "__func__", None) is not type(wrapper).connect
    )


def may_forbid_connecting() -> bool:
    """Tell whether a test may have replaced ``ensure_connection``.

    SimpleTestCase and its subclasses do from Django 5.2 on, pytest-django in all tests
    that may not use the database, and from its start on. Where no tests run, a package
    did that connects anew, such as django-dbconn-retry.
    """
    return is_test_run() or is_blocked_by_pytest_django()


def is_blocked_by_pytest_django() -> bool:
    """Tell whether pytest-django forbids the running test to use a database.

    Its ``DjangoDbBlocker`` replaces ``BaseDatabaseWrapper.ensure_connection`` by a
    function that raises.
    """
    module = BaseDatabaseWrapper.ensure_connection.__module__
    return module.partition(".")[0] == "pytest_django"


def connect_if_allowed(wrapper: Any) -> None:
    """Call a replaced ``ensure_connection``; do nothing where it refuses.

    Django's raises an AssertionError, pytest-django's a RuntimeError. A request may
    begin all the same: the first query in it raises that error.
    """
    with contextlib.suppress(AssertionError, RuntimeError):
        wrapper.ensure_connection()


def in_open_transaction(wrapper: Any) -> bool:
    """Tell whether a wrapper's connection is in a transaction that must go on.

    It is one of TestCase, which runs each test in ``atomic()``, or of the code around;
    with autocommit switched off by that code, every query is in a transaction.
    """
    return wrapper.connection is not None and (
        wrapper.in_atomic_block
        or wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]
    )
