"""What an error of a pool says, and to whom."""

from __future__ import annotations

import psycopg2
import pytest

from dbpool_mw.core import errors


@pytest.mark.parametrize(
    "kind",
    [
        errors.PoolError,
        errors.PoolTimeout,
        errors.TooManyRequests,
        errors.ConnectFailed,
        errors.PoolClosed,
    ],
)
def test_each_is_an_operational_error_with_its_alias_and_a_summary(kind):
    error = kind("replica", "it failed", "thread 7 holds all of them")
    assert isinstance(error, psycopg2.OperationalError)
    assert isinstance(error, errors.PoolError)
    assert error.alias == "replica"
    assert error.summary == "it failed"
    assert str(error) == "it failed; thread 7 holds all of them"


def test_without_details_the_text_is_the_summary():
    assert str(errors.PoolClosed("default", "it is closed")) == "it is closed"
