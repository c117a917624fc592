"""The assertions of ``dbpool_mw.test``: when they fail, and with which message.

That they pass is tested in the user's project, tests/django/users.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import unittest
from pathlib import Path

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.test import override_settings
from django.utils.connection import ConnectionDoesNotExist

import dbpool_mw
from dbpool_mw import pooled
from dbpool_mw.test import PoolAssertions, assert_checkouts, assert_none_in_use
from tests.postgres.conftest import ask, stats

pytestmark = pytest.mark.usefixtures("fresh_wrappers")

PACKAGE = Path(dbpool_mw.__file__).parent


@pooled
def task():
    return ask("SELECT 1")


@pytest.fixture
def held():
    """Have another thread hold a connection, as a block of pooled() does."""
    holds, end = threading.Event(), threading.Event()

    def hold():
        with pooled("default"):
            ask("SELECT 1")
            holds.set()
            end.wait()

    thread = threading.Thread(target=hold, name="the-holder")
    thread.start()
    holds.wait()
    yield end
    end.set()
    thread.join()


@pytest.mark.parametrize("expected", [0, 2])
def test_another_number_of_checkouts_fails(expected):
    message = f"'default': 1 checkouts, {expected} expected."
    with pytest.raises(AssertionError) as raised, assert_checkouts(expected):
        task()
    assert str(raised.value) == message


def test_an_exception_of_the_block_hides_the_count():
    async def main():
        async with assert_checkouts(7):
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        asyncio.run(main())
    with pytest.raises(ValueError, match="on purpose"), assert_checkouts(7):
        raise ValueError("on purpose")


def test_checkouts_of_another_alias_do_not_count():
    with assert_checkouts(0, using="replica"):
        task()


def test_who_holds_a_connection_is_named(held):
    with (
        pytest.raises(AssertionError, match="Now 'default' has 1 in use: thread the-h"),
        assert_checkouts(1),
    ):
        pass
    with pytest.raises(AssertionError) as raised:
        assert_none_in_use(within=0)
    text = "After 0 s 'default' has 1 in use: thread the-holder for "
    assert str(raised.value).startswith(text)
    assert_none_in_use("replica", within=0)


def test_a_connection_that_returns_in_time_passes(held, monkeypatch):
    looked = threading.Event()

    def look_again(seconds):
        looked.set()
        held.set()

    monkeypatch.setattr("dbpool_mw.test.time.sleep", look_again)
    assert_none_in_use(within=10)
    assert looked.is_set()


def test_a_query_of_the_test_before_the_block_is_named_as_the_cause():
    with (
        pytest.raises(AssertionError, match=r"a connection of Django's own.*before"),
        assert_checkouts(1),
    ):
        ask("SELECT 1")


def test_a_block_that_raises_is_not_counted():
    with pytest.raises(ZeroDivisionError), assert_checkouts(5):
        _ = 1 / 0


def test_settings_that_change_inside_of_a_block_are_refused():
    task()
    counted = assert_checkouts(1)
    counted.__enter__()
    with override_settings(DBPOOL_MW_MAX_CONNS=3):
        task()
    with pytest.raises(RuntimeError, match="outside"):
        counted.__exit__(None, None, None)


def test_inside_of_a_block_of_pooled_the_connection_stays():
    with pooled():
        pid = connection_pid()
        with assert_checkouts(0):
            assert connection_pid() == pid
        with pytest.raises(AssertionError, match="has 1 in use"):
            assert_none_in_use(within=0)
        assert stats()["in_use"] == 1


def connection_pid():
    return ask("SELECT pg_backend_pid()")


@pytest.mark.parametrize("using", ["default", None])
def test_in_a_transaction_they_raise(using):
    message = "'default' is in a transaction.*TransactionTestCase.*transactional_db"
    with transaction.atomic():
        with pytest.raises(RuntimeError, match=message):
            assert_checkouts(0).__enter__()
        with pytest.raises(RuntimeError, match=message):
            assert_none_in_use(using)
        # The wrapper was not bound.
        assert "_dbpool_mw" not in vars(connections["default"])


def test_in_a_transaction_without_atomic_they_raise():
    connection.set_autocommit(False)
    with pytest.raises(RuntimeError, match="in a transaction"):
        assert_checkouts(0).__enter__()
    connection.rollback()


def test_an_alias_without_a_pool_is_refused():
    for using in ("local", "default"):
        with (
            override_settings(DBPOOL_MW_POOLS={"default": None}),
            pytest.raises(RuntimeError, match=f"'{using}' has no pool"),
        ):
            assert_checkouts(0, using=using).__enter__()
    with (
        override_settings(DBPOOL_MW_ENABLED=False),
        pytest.raises(RuntimeError, match="No alias"),
    ):
        assert_none_in_use()
    with pytest.raises(ConnectionDoesNotExist):
        assert_none_in_use("elsewhere")


async def in_a_coroutine():
    with pytest.raises(SynchronousOnlyOperation, match="async with"):
        assert_checkouts(0).__enter__()
    with pytest.raises(SynchronousOnlyOperation, match="sync_to_async"):
        assert_none_in_use()


def test_in_a_coroutine_the_error_says_what_to_write():
    asyncio.run(in_a_coroutine())


class Methods(PoolAssertions, unittest.TestCase):
    __test__ = False

    def runTest(self):
        self.assertCheckouts(1, task)
        with self.assertCheckouts(1, using="default"):
            task()
        self.assertNoneInUse()
        self.assertCheckouts(7, task)


def test_as_a_method_it_fails_a_test_of_unittest():
    result = Methods().run()
    ((_, text),) = result.failures
    assert "'default': 1 checkouts, 7 expected." in text
    assert result.errors == []


def test_no_runner_takes_the_module_for_tests():
    found = unittest.TestLoader().discover(
        str(PACKAGE), pattern="test*.py", top_level_dir=str(PACKAGE.parent)
    )
    assert found.countTestCases() == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q"),
            *("-p", "no:cacheprovider", str(PACKAGE / "test.py"), str(PACKAGE)),
        ],
        cwd=PACKAGE.parent,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
