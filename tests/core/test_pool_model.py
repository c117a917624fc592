"""Every method of the pool in every state, compared with a model, on a manual clock.

hypothesis chooses the calls, the same ones in every run.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dbpool_mw.core.errors import (
    ConnectFailed,
    PoolClosed,
    PoolError,
    PoolTimeout,
    TooManyRequests,
)
from tests.core.fakes import DriverError, Holder, check, end_hold, make_pool
from tests.soak import soaked

DAY = 86_400.0


class PoolMachine(RuleBasedStateMachine):
    """One caller at a time, with TIMEOUT 0: a caller that would have to wait fails."""

    @initialize(
        max_conns=st.integers(1, 4),
        min_conns=st.integers(0, 1),
        max_waiting=st.integers(0, 1),
        reset=st.sampled_from(["auto", "always", "never"]),
        max_hold=st.sampled_from([float("inf"), 50.0]),
    )
    def start(self, max_conns, min_conns, max_waiting, reset, max_hold):
        self.pool, self.driver, self.clock = make_pool(
            max_conns=max_conns,
            min_conns=min_conns,
            max_waiting=max_waiting,
            reset=reset,
            max_hold=max_hold,
            leak_after=40.0,
            max_idle=30.0,
            max_lifetime=100.0,
            check_after_idle=10.0,
            timeout=0.0,
        )
        self.held = []
        self.state = "running"
        self.checkouts = self.timeouts = 0
        self.down_until = 0.0
        self.failed = False

    # --- What callers do -------------------------------------------------------------

    @rule()
    def check_out(self):
        before = self.pool.stats()
        try:
            entry = self.pool.checkout(Holder())
        except PoolTimeout:
            self.timeouts += 1
            # It may have connected in vain, and then waited for the one in use.
            if self.pool.stats()["connect_errors"] > before["connect_errors"]:
                self.failed = True
            # Full, paused, or after a failed connect.
            assert (
                before["size"] == before["max"]
                or self.state == "paused"
                or self.failed
                or self.driver.connect_error is not None
            )
            return
        except TooManyRequests:
            raise AssertionError("refused, though no caller was waiting") from None
        except PoolClosed:
            assert self.state == "closed"
            return
        except ConnectFailed:
            assert self.driver.connect_error is not None
            self.failed = True
            return
        except ValueError:
            assert isinstance(self.driver.connect_error, ValueError)
            return
        assert self.state != "paused" or before["idle"]
        assert self.state != "closed"
        self.checkouts += 1
        # The connection has no other holder, and can be used.
        assert entry not in self.held
        assert not entry.connection.closed
        assert entry.connection.aborted is None
        assert entry.connection.transaction == "idle"
        assert not entry.connection.dirty
        self.held.append(entry)
        if self.pool.stats()["opened"] > before["opened"]:
            self.failed = False

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        dirty=st.booleans(),
        transaction=st.sampled_from(["idle", "idle", "open", "busy", "unknown"]),
        closed=st.sampled_from([False, False, False, True]),
        verb=st.sampled_from(
            ["checkin", "checkin", "reclaim", "discard", "reclaim_soon"]
        ),
    )
    def end_hold(self, data, dirty, transaction, closed, verb):
        entry = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        entry.connection.dirty = dirty
        entry.connection.transaction = transaction
        entry.connection.closed = closed
        end_hold(self.pool, entry, verb)

    @rule()
    def end_hold_twice(self):
        if not self.held:
            return
        entry = self.held.pop()
        self.pool.discard(entry, "on purpose")
        with pytest.raises(PoolError, match="bug"):
            self.pool.checkin(entry)

    # --- What operators and time do --------------------------------------------------

    @rule(verb=st.sampled_from(["drain", "pause", "resume", "recycle"]))
    def change_state(self, verb):
        getattr(self.pool, verb)()
        if self.state != "closed":
            states = {"drain": "draining", "pause": "paused"}
            self.state = states.get(verb, "running")
        assert self.pool.state == self.state

    @precondition(lambda self: self.checkouts > 10)
    @rule()
    def close(self):
        self.pool.close()
        self.state = "closed"

    @rule(seconds=st.sampled_from([0.05, 1.0, 11.0, 31.0, 45.0, 101.0, DAY]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def maintain(self):
        opened = self.pool.stats()["opened"]
        self.pool.maintain()
        if self.pool.stats()["opened"] > opened:
            self.failed = False
        elif self.driver.connect_error is not None:
            self.failed = True

    # --- What breaks -----------------------------------------------------------------

    @rule(
        error=st.sampled_from(
            [None, None, ConnectFailed("default", "no", "down"), ValueError("broken")]
        )
    )
    def server_changes(self, error):
        self.driver.connect_error = error

    @rule(error=st.sampled_from([None, None, DriverError("broken")]))
    def resets_change(self, error):
        self.driver.reset_error = error

    @rule()
    def idle_connections_die(self):
        held = [entry.connection for entry in self.held]
        for connection in self.driver.open:
            if connection not in held:
                connection.alive = False

    @rule(answers=st.booleans())
    def idle_connections_answer(self, answers):
        held = [entry.connection for entry in self.held]
        for connection in self.driver.open:
            if connection not in held:
                connection.answers = answers

    # --- Invariants ------------------------------------------------------------------

    @invariant()
    def counts_add_up(self):
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        # end_hold() closes a connection and checks it in, in one step.
        broken = sum(entry.connection.closed for entry in self.held)
        assert broken == 0
        check(self.pool, self.driver)
        assert stats["in_use"] == len(self.held)
        assert stats["checkouts"] == self.checkouts
        assert stats["timeouts"] == self.timeouts
        assert stats["waiting"] == stats["connecting"] == 0
        assert stats["hold_seconds"]["count"] == self.checkouts - len(self.held)
        assert len(self.pool.holders()) == len(self.held)
        if self.state in ("paused", "draining", "closed"):
            assert stats["idle"] == 0

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        for entry in self.held:
            self.pool.checkin(entry)
        self.pool.close()
        stats = self.pool.stats()
        assert stats["size"] == 0
        assert self.driver.open == []
        assert stats["opened"] == sum(stats["discarded"].values())


PoolMachine.TestCase.settings = settings(
    max_examples=soaked(150),
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestPool = PoolMachine.TestCase
