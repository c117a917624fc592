"""gunicorn's gevent worker: hundreds of greenlets on a small pool."""

from __future__ import annotations

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings

from tests.library import IS_PSYCOPG, only_psycopg2
from tests.process.projects import GEVENT, Project
from tests.process.servers import traffic, wait_until


@pytest.fixture
def ten(project: Project) -> Project:
    """Give the project with one pool of ten connections."""
    project.settings |= {"DBPOOL_MW_MAX_CONNS": 10, "DBPOOL_MW_TIMEOUT": 20}
    project.settings["DBPOOL_MW_POOLS"] = {"replica": None}
    return project


def test_hundreds_of_greenlets_share_a_pool_of_ten(ten):
    with ten.gevent() as server, ThreadPoolExecutor(300) as clients:
        with ten.lock(1):
            requests = [clients.submit(server.get, "/holds/?key=1") for _ in range(300)]
            ten.wait_for_lock(1, 10)
            wait_until(lambda: ten.totals()["waiting"] == 290, "the others wait")
            # The waiting greenlets block neither other requests nor the commands.
            assert server.get("/exempt/").body == b"well"
            stats = ten.stats()
            assert (stats["size"], stats["in_use"], stats["max"]) == (10, 10, 10)
            assert len(ten.backends()) == 10
            assert len(ten.holders("/holds/")) == 10
        answers = [request.result(60) for request in requests]
        assert Counter(answer.status for answer in answers) == {200: 300}
        assert len({answer["backend"] for answer in answers}) == 10
        stats = ten.settled()
        assert stats["waits"] == 290
        assert stats["timeouts"] == stats["reclaimed"] == 0
        ten.check_no_place_is_lost()


def test_requests_are_served_in_the_order_of_their_arrival(ten):
    project = ten
    project.settings["DBPOOL_MW_MAX_CONNS"] = 1
    with project.gevent() as server, ThreadPoolExecutor(20) as clients:
        with project.session() as cursor:
            cursor.execute("CREATE TABLE arrivals (at serial, number int)")
        with project.lock(2):
            first = clients.submit(server.get, "/holds/?key=2")
            project.wait_for_lock(2)
            requests = []
            for number in range(15):
                sql = f"INSERT INTO arrivals (number) VALUES ({number})"
                path = "/run/?sql=" + sql.replace(" ", "%20")
                requests.append(clients.submit(server.get, path))
                wait_until(
                    lambda: project.totals()["waiting"] == number + 1,  # noqa: B023
                    "the next one waits",
                )
        assert {request.result(30).status for request in [first, *requests]} == {200}
        with project.session() as cursor:
            cursor.execute("SELECT number FROM arrivals ORDER BY at")
            assert [number for (number,) in cursor.fetchall()] == list(range(15))


def test_requests_that_wait_too_long_get_503_while_the_holders_go_on(ten):
    ten.settings |= {"DBPOOL_MW_MAX_CONNS": 2, "DBPOOL_MW_TIMEOUT": 0.5}
    with ten.gevent() as server, ThreadPoolExecutor(60) as clients, ten.lock(3):
        holding = [clients.submit(server.get, "/holds/?key=3") for _ in range(2)]
        ten.wait_for_lock(3, 2)
        answers = list(clients.map(server.get, ["/facts/"] * 50))
        assert Counter(answer.status for answer in answers) == {503: 50}
        assert ten.totals()["timeouts"] == 50
        assert not any(request.done() for request in holding)


def test_a_drain_is_answered_while_all_connections_are_busy(ten):
    with ten.gevent() as server, ThreadPoolExecutor(20) as clients:
        with ten.lock(4):
            requests = [clients.submit(server.get, "/holds/?key=4") for _ in range(20)]
            ten.wait_for_lock(4, 10)
            done = ten.manage("dbpool_drain", "--timeout", "0.5")
            assert done.returncode == 1
            assert "10 stale connections still open" in done.stderr
            assert "/holds/" in done.stdout
        assert {request.result(30).status for request in requests} == {200}
        assert ten.manage("dbpool_drain").returncode == 0
        assert ten.totals()["size"] == 0
        assert ten.manage("dbpool_drain", "--resume").returncode == 0
        with traffic(server, clients=20):
            pass
        ten.check_no_place_is_lost()


def test_maintenance_reaps_and_refills(ten):
    ten.settings |= {"DBPOOL_MW_MIN_CONNS": 3, "DBPOOL_MW_MAX_IDLE": 0.5}
    with ten.gevent() as server, ThreadPoolExecutor(10) as clients:
        with ten.lock(5):
            requests = [clients.submit(server.get, "/holds/?key=5") for _ in range(8)]
            ten.wait_for_lock(5, 8)
        assert {request.result(30).status for request in requests} == {200}
        wait_until(
            lambda: ten.totals()["size"] == 3, "the spare connections are closed"
        )
        ten.terminate()
        wait_until(
            lambda: ten.totals()["opened"] == 11, "dead connections are replaced"
        )


@pytest.mark.parametrize("how", ["kill", "timeout", "ends"])
def test_a_greenlet_that_ends_in_any_way_loses_no_place(ten, how):
    ten.settings |= {"DBPOOL_MW_MAX_CONNS": 2}
    with ten.gevent() as server:
        for number in range(1, 6):
            assert server.get(f"/greenlet/?how={how}")["ended"] is True
            wait_until(
                lambda: (
                    ten.totals()["reclaimed"] == number and not ten.in_use()  # noqa: B023
                ),
                "the connection was reclaimed",
            )
        ten.check_no_place_is_lost()
        discarded = ten.totals()["discarded"]
        # psycopg2 closes the connection of a greenlet that ends in a query.
        in_query = "busy" if IS_PSYCOPG else "closed"
        assert discarded == ({} if how == "ends" else {in_query: 5})


def test_queries_of_requests_that_time_out_end_at_the_server_too(ten):
    limited = "tests.process.project.middleware.times_out"
    ten.settings["MIDDLEWARE"] = [limited, *settings.MIDDLEWARE]
    seen = []
    with ten.gevent() as server, ThreadPoolExecutor(60) as clients:
        with ten.lock(6):
            # The limits end requests in a query, in the queue and while connecting.
            limits = [0.05 + number % 8 / 20 for number in range(400)]
            requests = [
                clients.submit(server.get, f"/holds/?key=6&limit={limit}")
                for limit in limits
            ]
            while not all(request.done() for request in requests):
                seen.append(len(ten.backends()))
            assert {request.result().status for request in requests} == {504}
            wait_until(lambda: ten.backends() == [], "the server ended all queries")
        # The server takes a moment to notice that a connection was closed.
        assert max(seen) < 20
        assert ten.totals()["opened"] > 1
        answers = clients.map(server.get, ["/facts/"] * 200)
        assert Counter(answer.status for answer in answers) == {200: 200}
        assert ten.settled()["reclaimed"] == 0
        ten.check_no_place_is_lost()


def test_a_database_that_never_answers_blocks_no_other_request(ten):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        ten.options["default"] = {
            "HOST": "127.0.0.1",
            "PORT": port,
            "OPTIONS": {"connect_timeout": 1},
        }
        ten.settings["DBPOOL_MW_TIMEOUT"] = 2
        with ten.gevent() as server, ThreadPoolExecutor(30) as clients:
            requests = [clients.submit(server.get, "/facts/") for _ in range(30)]
            wait_until(lambda: ten.totals()["connecting"] == 10, "ten are connecting")
            assert server.get("/exempt/").body == b"well"
            answers = [request.result(10) for request in requests]
            assert Counter(answer.status for answer in answers) == {503: 30}
            assert ten.totals()["size"] == 0


def test_clients_that_disconnect_lose_no_place(ten):
    with ten.gevent() as server, ThreadPoolExecutor(50) as clients:
        list(clients.map(server.break_off, ["/stream/?rows=300"] * 50))
        ten.rest()
        ten.check_no_place_is_lost()
        assert server.get("/facts/").status == 200


@only_psycopg2
def test_without_psycogreen_requests_block_but_are_answered_right(ten):
    plain = 'worker_class = "gevent"\n'
    with ten.gevent(configuration=plain) as server:
        with traffic(server, clients=20):
            pass
        stats = ten.settled()
        assert stats["timeouts"] == stats["reclaimed"] == 0
        ten.check_no_place_is_lost()


def test_the_engine_pools_greenlets_without_the_middleware(ten):
    ten.settings["MIDDLEWARE"] = []
    ten.options["default"] = {
        "ENGINE": "dbpool_mw.backends.postgresql",
        "OPTIONS": {"MAX_CONNS": 4},
    }
    with ten.gevent() as server:
        with traffic(server, clients=30):
            assert len(ten.backends()) <= 4
        assert ten.settled()["max"] == 4
        ten.check_no_place_is_lost()


def test_requests_fail_when_python_was_patched_too_late(ten):
    with ten.gevent("--preload") as server:
        assert server.get("/nothing/").status == 500
        assert "patched for greenlets after Django" in server.text()
        # The error page connects without a pool, and fails as well.
        assert "opened a connection" not in server.text()


def test_preload_works_when_python_was_patched_first(ten):
    first = "from gevent import monkey\nmonkey.patch_all()\n"
    with ten.gevent("--preload", configuration=first + GEVENT) as server:
        with traffic(server, clients=20):
            pass
        ten.check_no_place_is_lost()


def test_a_stopped_server_leaves_no_connection_and_no_socket(ten):
    with ten.gevent() as server:
        with traffic(server, clients=20):
            pass
        assert server.stop() == 0
        assert ten.backends() == []
        assert list(ten.control.iterdir()) == []
