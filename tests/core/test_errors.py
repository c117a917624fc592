"""What an error of a pool says, and to whom."""

from __future__ import annotations

import pickle

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
def test_each_has_its_alias_and_a_summary(kind):
    error = kind("replica", "it failed", "thread 7 holds all of them")
    assert isinstance(error, errors.PoolError)
    assert error.alias == "replica"
    assert error.summary == "it failed"
    assert str(error) == "it failed; thread 7 holds all of them"


@pytest.mark.parametrize("details", ["", "thread 7 holds all of them"])
def test_each_survives_a_pickle(details):
    error = errors.PoolTimeout("replica", "it failed", details)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.PoolTimeout
    assert (copy.alias, copy.summary, str(copy)) == ("replica", "it failed", str(error))


def test_without_details_the_text_is_the_summary():
    assert str(errors.PoolClosed("default", "it is closed")) == "it is closed"
