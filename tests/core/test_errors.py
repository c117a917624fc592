"""The errors of a pool: alias, summary and text."""

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
def test_every_error_has_an_alias_and_a_summary(kind):
    error = kind("replica", "it failed", "thread 7 holds all of them")
    assert isinstance(error, errors.PoolError)
    assert error.alias == "replica"
    assert error.summary == "it failed"
    assert str(error) == "it failed; thread 7 holds all of them"


@pytest.mark.parametrize("details", ["", "thread 7 holds all of them"])
def test_an_error_can_be_pickled(details):
    error = errors.PoolTimeout("replica", "it failed", details)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.PoolTimeout
    assert (copy.alias, copy.summary, str(copy)) == ("replica", "it failed", str(error))


def test_without_details_the_text_is_the_summary():
    assert str(errors.PoolClosed("default", "it is closed")) == "it is closed"
