"""Blocks of ``pooled()``: code outside of requests on pooled connections."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.db.utils import ConnectionDoesNotExist, OperationalError
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import pooled
from dbpool_mw.binding import registry
from dbpool_mw.binding.binding import KEY
from dbpool_mw.core.errors import PoolTimeout
from tests.core.fakes import until
from tests.postgres.conftest import ask, stats
from tests.vocabulary import TrackedConnection


def backend(alias="default"):
    return ask("SELECT pg_backend_pid()", alias)


def is_plain(alias="default"):
    """Tell whether the thread's wrapper is not bound."""
    state = vars(connections[alias])
    return not state.keys() & {KEY, "connect", "_close"}


pytestmark = pytest.mark.usefixtures("fresh_wrappers")


def in_thread(function):
    """Run a function in a new thread; return what it returns."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(30)
    (result,) = results
    return result


def test_a_block_queries_on_a_pooled_connection_and_gives_it_back():
    with pooled():
        first = backend()
        assert stats()["in_use"] == 1
        assert isinstance(connection.connection, TrackedConnection)
    assert stats()["in_use"] == 0
    assert stats()["idle"] == 1
    with pooled():
        assert backend() == first


def test_a_block_that_asks_nothing_checks_nothing_out():
    with pooled():
        pass
    assert registry.pools() == []


def test_after_the_block_the_thread_has_djangos_own_connections_again():
    with pooled():
        inside = backend()
    assert is_plain()
    assert backend() != inside
    assert stats()["in_use"] == 0
    assert not isinstance(connection.connection, TrackedConnection)


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="only Linux tells a thread's signals"
)
def test_the_threads_of_the_package_leave_signals_to_the_main_thread():
    with pooled():
        backend()
    ours = [t for t in threading.enumerate() if t.name.startswith("dbpool_mw")]
    assert len(ours) == 2
    for thread in ours:
        with open(f"/proc/self/task/{thread.native_id}/status") as file:
            (line,) = [line for line in file if line.startswith("SigBlk:")]
        blocked = int(line.split()[1], 16)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            assert blocked & 1 << (number - 1)
        # A signal for what the thread itself did must not be blocked.
        assert not blocked & 1 << (signal.SIGSEGV - 1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_only_the_named_aliases_are_pooled():
    with pooled("replica"):
        backend("replica")
        backend("default")
        assert [pool.name for pool in registry.pools()] == ["replica"]
        assert is_plain("default")
    assert stats("replica")["in_use"] == 0


def test_a_block_inside_of_a_block_holds_the_same_connection():
    @pooled
    def inner():
        return backend()

    with pooled():
        with pooled("default"):
            first = backend()
        assert stats()["in_use"] == 1
        assert inner() == first
        assert stats()["in_use"] == 1
        ask("CREATE TEMP TABLE kept (a int)")
        inner()
        assert ask("SELECT count(*) FROM kept") == 0
    assert stats()["in_use"] == 0
    assert stats()["checkouts"] == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
def test_the_connection_returns_whatever_ends_the_block(error):
    @pooled
    def work():
        backend()
        raise error

    with pytest.raises(error):
        work()
    assert stats()["in_use"] == 0
    assert stats()["reclaimed"] == 0
    assert is_plain()


def test_a_transaction_that_failed_in_the_block_is_gone_with_it():
    def work():
        with pooled(), transaction.atomic():
            ask("CREATE TABLE never (a int)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with pooled():
        assert ask("SELECT to_regclass('never')") is None
    assert stats()["rollbacks"] == 0


def test_what_a_block_changed_in_its_session_does_not_reach_the_next():
    with pooled():
        first = backend()
        ask("SET a.b = 'leaks'")
    with pooled():
        assert backend() == first
        assert ask("SELECT current_setting('a.b', true)") in (None, "")


def test_a_connection_that_was_open_before_is_closed_as_before_a_request():
    before = backend()
    with pooled():
        assert backend() != before
        with connections["replica"].cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [before]
            )
            assert cursor.fetchone() == (0,)


def test_a_block_in_the_middle_of_a_transaction_leaves_it_alone():
    with transaction.atomic():
        before = backend()
        with pooled():
            assert backend() == before
        assert backend() == before
        assert is_plain()
    assert registry.pools() == []


def test_a_block_leaves_a_transaction_without_autocommit_alone():
    transaction.set_autocommit(False)
    try:
        before = backend()
        with pooled():
            assert backend() == before
        assert is_plain()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_inside_a_request_a_block_does_nothing(requests):
    seen = []

    def view(request):
        before = backend()
        with pooled():
            assert backend() == before
            (holder,) = registry.pools()[0].holders()
            seen.append(holder["path"])
        assert backend() == before
        assert stats()["in_use"] == 1
        return HttpResponse()

    assert requests(view).status_code == 200
    assert seen == ["/"]
    assert stats()["checkouts"] == 1


def test_a_block_after_a_request_leaves_the_wrapper_to_the_next_request(requests):
    requests(lambda request: HttpResponse(str(backend())))
    with pooled():
        backend()
        assert stats()["in_use"] == 1
    assert stats()["in_use"] == 0
    assert not is_plain()
    requests(lambda request: HttpResponse(str(backend())))
    assert stats()["opened"] == 1


def test_a_block_after_a_request_that_did_not_end_returns_its_connection(requests):
    from django.test import RequestFactory

    from dbpool_mw.middleware import ConnectionPoolMiddleware

    def view(request):
        raise SystemExit

    with pytest.raises(SystemExit):
        ConnectionPoolMiddleware(view)(RequestFactory().get("/"))
    with pooled():
        backend()
    assert stats()["in_use"] == 0


def test_a_decorated_function_is_named_among_the_holders():
    @pooled("default")
    def work(a, *, b):
        """Work hard."""
        backend()
        (holder,) = registry.pools()[0].holders()
        return a, b, holder["method"], holder["path"]

    name = "test_a_decorated_function_is_named_among_the_holders.<locals>.work"
    assert work(1, b=2) == (1, 2, "pooled", f"{__name__}.{name}")
    assert work.__doc__ == "Work hard."
    assert stats()["in_use"] == 0


def test_a_decorated_function_can_call_itself():
    @pooled
    def work(depth):
        backend()
        return depth and work(depth - 1)

    assert work(5) == 0
    assert stats()["checkouts"] == 1
    assert stats()["in_use"] == 0


@override_settings(DBPOOL_MW_MAX_CONNS=3, DBPOOL_MW_TIMEOUT=20)
def test_many_threads_share_a_small_pool():
    @pooled
    def work():
        return backend()

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert stats()["checkouts"] == 40
    assert stats()["opened"] <= 3
    assert stats()["in_use"] == stats()["timeouts"] == stats()["reclaimed"] == 0


@override_settings(DBPOOL_MW_MAX_CONNS=1, DBPOOL_MW_TIMEOUT=0.05)
def test_a_block_that_finds_no_connection_gets_the_pools_error():
    @pooled
    def hold():
        backend()
        with pytest.raises(OperationalError) as caught:
            raise in_thread(fail)
        return caught.value

    def fail():
        try:
            with pooled():
                backend()
        except OperationalError as error:
            assert is_plain()
            return error

    error = hold()
    assert isinstance(error.__cause__, PoolTimeout)
    assert "pooled tests.postgres.test_scope" in str(error)


@override_settings(DBPOOL_MW_ENABLED=False)
def test_where_the_pools_are_off_a_block_runs_on_djangos_own_connections():
    with pooled(), pooled("replica"):
        backend()
        assert is_plain()
    assert registry.pools() == []


@override_settings(DBPOOL_MW_POOLS={"replica": None})
def test_an_alias_without_a_pool_is_djangos_own_in_a_block():
    with pooled("replica", "default"):
        backend("replica")
        assert is_plain("replica")
        assert not is_plain("default")


def test_an_unknown_alias_is_an_error():
    with pytest.raises(ConnectionDoesNotExist, match="replcia"), pooled("replcia"):
        pass
    assert is_plain()


def test_an_unknown_alias_is_an_error_in_a_coroutine_too():
    async def main():
        async with pooled("replcia"):
            pass

    with pytest.raises(ConnectionDoesNotExist, match="replcia"):
        asyncio.run(main())


def test_a_block_ends_though_django_made_another_wrapper_in_it():
    with pooled():
        first = backend()
        del connections["default"]
        with pooled():
            assert backend() != first
            assert stats()["in_use"] == 2
        assert stats()["in_use"] == 1
        assert is_plain()
    assert stats()["in_use"] == 0
    assert stats()["idle"] == 2


def test_a_wrapper_that_threads_share_is_left_alone():
    """Django's LiveServerTestCase has its server's thread use the test's wrapper."""
    shared = connections["default"]
    shared.inc_thread_sharing()

    def in_another():
        connections["default"] = shared
        with pooled():
            return backend()

    try:
        before = backend()
        assert in_thread(in_another) == before
    finally:
        shared.dec_thread_sharing()
    assert registry.pools() == []


def test_one_object_serves_one_block_at_a_time():
    block = pooled()
    with block:
        with pytest.raises(RuntimeError, match="anew"), block:
            pass
        backend()
    with block:
        backend()
    assert stats()["in_use"] == 0


def test_what_pooled_can_not_decorate_is_refused():
    def generator():
        yield

    async def async_generator():
        yield

    for wrong in (generator, async_generator, HttpResponse, 7):
        with pytest.raises(TypeError, match="pooled"):
            pooled(wrong)


def test_what_a_thread_holds_when_it_ends_in_a_block_is_reclaimed():
    def work():
        block = pooled()
        block.__enter__()
        backend()

    in_thread(work)
    until(lambda: stats()["reclaimed"] == 1 and stats()["in_use"] == 0)


# --- Coroutines ----------------------------------------------------------------------


async def async_backend():
    return await sync_to_async(backend)()


def test_an_async_block_queries_on_a_pooled_connection_and_gives_it_back():
    async def work():
        async with pooled():
            first = await async_backend()
            assert stats()["in_use"] == 1
            async with pooled("default"):
                assert await async_backend() == first
            assert stats()["in_use"] == 1
        assert stats()["in_use"] == 0
        assert await sync_to_async(is_plain)()

    asyncio.run(work())
    assert stats()["checkouts"] == 1


def test_a_decorated_coroutine_function_stays_one():
    @pooled
    async def work(number):
        await async_backend()
        return number, stats()["in_use"]

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(7)) == (7, 1)
    assert stats()["in_use"] == 0


def test_async_blocks_that_overlap_end_with_nothing_held():
    async def work(begun, gate):
        async with pooled():
            await async_backend()
            begun.release()
            await gate.wait()
            await async_backend()

    async def main():
        begun = asyncio.Semaphore(0)
        gates = [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(work(begun, gate)) for gate in gates]
        for _ in gates:
            await begun.acquire()
        for gate, task in zip(gates, tasks, strict=True):
            assert stats()["in_use"] == 1
            gate.set()
            await task
        assert stats()["in_use"] == 0
        assert await sync_to_async(is_plain)()

    asyncio.run(main())


def test_a_task_that_is_cancelled_gives_back_at_once():
    async def work(started):
        async with pooled():
            await async_backend()
            started.set()
            await asyncio.Event().wait()

    async def main():
        started = asyncio.Event()
        task = asyncio.create_task(work(started))
        await started.wait()
        assert stats()["in_use"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stats()["in_use"] == 0

    asyncio.run(main())
    assert stats()["reclaimed"] == 0


def test_a_task_cancelled_while_it_begins_or_ends_gives_back():
    """The thread is busy: begin() and end() wait for it when the cancel comes."""

    async def work(state):
        async with pooled():
            await async_backend()
            state.append("inside")
        state.append("done")

    async def main():
        # begin() waits for the thread when the cancel comes.
        gate = threading.Event()
        blocker = asyncio.ensure_future(sync_to_async(gate.wait)(30))
        await asyncio.sleep(0)
        task = asyncio.create_task(work([]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        gate.set()
        await blocker
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await sync_to_async(is_plain)()
        # end() waits for the thread when the cancels come.
        gate = threading.Event()
        inside, block = [], pooled()
        await block.__aenter__()
        await async_backend()
        blocker = asyncio.ensure_future(sync_to_async(gate.wait)(30))
        await asyncio.sleep(0)
        task = asyncio.ensure_future(block.__aexit__(None, None, None))
        await asyncio.sleep(0)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        assert inside == []
        gate.set()
        await blocker
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stats()["in_use"] == 0
        assert await sync_to_async(is_plain)()

    asyncio.run(main())


def test_a_plain_with_in_a_coroutine_is_an_error():
    async def work():
        with pytest.raises(SynchronousOnlyOperation, match="async with pooled"):
            pooled().__enter__()

    asyncio.run(work())
