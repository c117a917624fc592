"""What a pool's connections are opened with, and the pools by it, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from dbpool_mw.binding import parameters, pools
from dbpool_mw.binding.parameters import KEYS, Parameters
from dbpool_mw.core.config import PoolConfig
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.pool import ConnectionPool
from tests.core.fakes import Clock, FakeDriver, Holder


def of(**values: Any) -> Parameters:
    return parameters.read({**dict.fromkeys(KEYS), "OPTIONS": {}, **values})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"NAME": "shop", "USER": "app", "HOST": "db1", "PORT": 1}, "shop/app@db1:1"),
        ({"NAME": "shop", "USER": "app", "HOST": "db1"}, "shop/app@db1"),
        ({"NAME": "shop", "USER": "app", "PORT": "6432"}, "shop/app@:6432"),
        ({"NAME": "shop", "USER": "app"}, "shop/app"),
        ({"NAME": "shop", "HOST": "/run/pg"}, "shop/@/run/pg"),
        ({"NAME": "shop"}, "shop"),
        ({"OPTIONS": {"service": "shop_rw"}}, "shop_rw"),
        ({"NAME": "shop", "OPTIONS": {"user": "app", "host": "db2"}}, "shop/app@db2"),
        ({"NAME": "shop", "PASSWORD": "s3cret", "OPTIONS": {"password": "x"}}, "shop"),
        ({"OPTIONS": None}, ""),
    ],
)  # fmt: skip
def test_an_address_has_what_is_set_and_never_a_password(
    values: dict[str, Any], text: str
) -> None:
    assert parameters.address(of(**values)) == text


def test_a_copy_is_reached_by_no_change_in_place() -> None:
    options = {"hosts": ["a", {"b": {1}}], "pair": ("x", ["y"])}
    original = of(OPTIONS=options)
    copy = parameters.copied(original)
    assert copy == original
    options["hosts"][1]["b"].add(2)  # type: ignore[index]
    assert copy != original
    options["hosts"][1]["b"].remove(2)  # type: ignore[index]
    assert copy == original
    options["pair"][1].append("z")  # type: ignore[union-attr]
    assert copy != original


class Some:
    """The pools of aliases, with a fake driver and a manual clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.driver = FakeDriver()
        self.pools = pools.Pools()

    def build(self, address: str, label: str, state: str) -> ConnectionPool:
        return ConnectionPool(
            "default",
            PoolConfig(),
            driver=self.driver,
            connect=self.driver.connect,
            reset=self.driver.reset,
            address=address,
            label=label,
            state=state,
            clock=self.clock,
        )

    def add(self, user: str, is_own: bool = False) -> ConnectionPool:
        pool, _ = self.pools.add("default", of(USER=user), is_own, self.build)
        return pool

    def kept(self, user: str = "own") -> list[ConnectionPool]:
        """Remove what is not needed while DATABASES has this user; return the rest."""
        settings = dict(zip(KEYS, of(USER=user), strict=True))
        for pool in self.pools.remove_unused({"default": settings}):
            pool.close()
        return self.pools.all()


def test_a_pool_is_found_by_what_opens_its_connections() -> None:
    some = Some()
    own, other = some.add("own", is_own=True), some.add("other")
    assert some.pools.find("default", of(USER="own")) is own
    assert some.pools.find("default", of(USER="other")) is other
    assert some.pools.find("default", of(USER="third")) is None
    assert some.pools.find("replica", of(USER="own")) is None
    assert (own.label, other.label) == ("default", "default (/other)")


def test_another_pool_than_the_aliass_own_stays_for_ten_seconds_after_its_use() -> None:
    some = Some()
    own, other = some.add("own", is_own=True), some.add("other")
    some.clock.now += 9.9
    entry = other.checkout(Holder())
    some.clock.now += 60
    assert some.kept() == [own, other]
    other.checkin(entry)
    some.clock.now += 9.9
    assert some.kept() == [own, other]
    some.clock.now += 0.2
    assert some.kept() == [own]
    assert other.state == "closed"


def test_a_pool_whose_settings_were_the_aliass_own_is_another_one_then() -> None:
    some = Some()
    old = some.add("old", is_own=True)
    some.clock.now += 11
    assert some.kept("old") == [old]
    new = some.add("new", is_own=True)
    assert some.kept("new") == [new]


def test_a_pool_that_drains_stays_so_that_the_next_one_does() -> None:
    some = Some()
    other = some.add("other")
    other.pause()
    some.clock.now += 11
    assert some.kept() == [other]
    assert some.add("third").state == "paused"
    for pool in some.pools.all():
        pool.resume()
    some.clock.now += 11
    assert some.kept() == []


def test_at_the_bound_the_longest_unused_goes_and_one_in_use_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "MOST", 2)
    some = Some()
    first, second = some.add("first"), some.add("second")
    entry = first.checkout(Holder())
    some.clock.now += 5
    _, victim = some.pools.add("default", of(USER="third"), False, some.build)
    assert victim is second
    third = some.pools.all()[1]
    third.checkout(Holder())
    with pytest.raises(PoolError, match="connections of 2 users, hosts or OPTIONS"):
        some.add("fourth")
    assert some.pools.all() == [first, third]
    first.checkin(entry)
    some.clock.now += 1
    fourth = some.add("fourth")
    assert some.pools.all() == [third, fourth]


def test_pools_with_the_same_address_are_told_apart() -> None:
    some = Some()
    for password in "abc":
        some.pools.add("default", of(PASSWORD=password, NAME="shop"), False, some.build)
    labels = [pool.label for pool in some.pools.all()]
    assert labels == [
        "default (shop)",
        "default (shop (2))",
        "default (shop (3))",
    ]
