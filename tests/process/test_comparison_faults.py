"""The comparison's parts that break things see what breaks, and what doesn't."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox.compare import sessions
from sandbox.compare.apart import call
from sandbox.compare.failures import PAGE, wait_until_over
from sandbox.compare.fairness import jain
from sandbox.compare.run import Run
from sandbox.compare.sessions import SETTINGS
from sandbox.compare.subjects import SUBJECTS, installed
from sandbox.postgres import PostgresServer
from sandbox.traffic import Traffic

ROOT = Path(__file__).resolve().parent.parent.parent

TITLES = {each.key: each.title for each in SUBJECTS}
DBPOOL, KEPT = "dbpool-psycopg2", "persistent-psycopg2"


def compare(tmp_path, part, *subjects):
    """Run a part of the comparison; return its tables' rows by subject and column."""
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sandbox.compare", "--quick", f"--only={part}"),
            *(f"--subjects={','.join(subjects)}", f"--json={file}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    _, *tables = json.loads(file.read_text())["tables"]
    rows = []
    for table in tables:
        figures = {
            title: [cell["median"] if isinstance(cell, dict) else cell for cell in row]
            for title, row in table["rows"].items()
        }
        rows.append({key: figures[TITLES[key]] for key in subjects})
    return rows


def test_a_pool_serves_every_thread_and_keeps_to_its_size(tmp_path):
    for threads, rows in zip(
        (50, 200), compare(tmp_path, "fairness", DBPOOL, KEPT), strict=True
    ):
        for key in (DBPOOL, KEPT):
            share, p50, _, longest, index, starved, failed, _ = rows[key]
            assert share > 0
            assert 0 <= p50 <= longest
            assert (starved, failed) == (0, 0)
            assert 0.5 < index <= 1
        assert rows[DBPOOL][-1] == 10
        assert rows[KEPT][-1] == threads


def test_connections_without_a_check_fail_once_each_when_all_are_killed(tmp_path):
    (rows,) = compare(tmp_path, "failures", DBPOOL, KEPT)
    for key in (DBPOOL, KEPT):
        # A killed worker, and a server that is down, fail whatever is asked of them.
        assert rows[key][3] > 0
    killed, last_after, longest = rows[KEPT][:3]
    assert killed > 0
    assert 0 <= last_after < 1
    assert 0 < longest < 15


def test_a_fault_is_not_over_while_a_client_waits_for_its_answer():
    hang, hangs, hung = threading.Event(), threading.Event(), threading.Event()
    first = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if hang.is_set() and first.acquire(blocking=False):
                hangs.set()
                hung.wait(10)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"}")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        traffic = Traffic(*server.server_address, (PAGE,), threads=2, pause=0.01)
        traffic.start()
        try:
            assert wait_until_over(traffic, time.monotonic(), 0.3)
            hang.set()
            assert hangs.wait(10)
            began = time.monotonic()
            threading.Timer(1.0, hung.set).start()
            assert wait_until_over(traffic, began, 0.3)
            assert hung.is_set()
        finally:
            hung.set()
            report = traffic.stop()
            server.shutdown()
    assert report.failures == []
    assert max(ended - began for began, ended in report.asked) >= 1


def test_what_a_request_leaves_in_its_session_is_seen(tmp_path):
    (rows,) = compare(tmp_path, "sessions", DBPOOL, KEPT)
    assert sum(rows[DBPOOL]) == sum(rows[KEPT])
    assert rows[DBPOOL][0] < rows[KEPT][0]
    assert rows[KEPT][0] > 10


def test_a_row_that_hangs_is_the_last_of_its_process():
    (subject,) = (each for each in SUBJECTS if each.key == KEPT)
    with PostgresServer(SETTINGS) as server:
        server.create_database(subject.database)
        dsn = server.dsn(subject.database)
        ends, left = call(
            subject,
            dsn,
            "tests.process.hanging.rows",
            *(dsn, 3),
            connections=1,
            timeout=60,
            DBPOOL_MW_TEST_LIBRARY=subject.library,
        )
    assert ends[0] in ("leaked", "clean")
    assert (ends[1:], left) == (["hung"], 1)


def test_after_a_row_that_ends_its_process_come_the_other_rows(monkeypatch):
    corpus = ["clean", "hung", "leaked", "broken", "clean", "clean", "hung"]

    def ends(subject, every, first):
        done = corpus[first:]
        fatal = [at for at, end in enumerate(done) if end in ("hung", "broken")]
        done = done[: fatal[0] + 1]
        return done, len(corpus) - first - len(done)

    monkeypatch.setattr(sessions, "_ends", ends)
    run = Run(SUBJECTS, server=None, directory=None)
    cells = dict(zip(sessions.ENDS, sessions._leaks(run, SUBJECTS[0]), strict=True))
    counts = {name: cell.median for name, cell in cells.items()}
    assert counts == {name: corpus.count(name) for name in sessions.ENDS}
    assert str(cells["hung"]) == "2 of 7"


def test_dbpool_mw_loses_no_place_and_no_fork_disturbs_it(tmp_path):
    (rows,) = compare(tmp_path, "places", DBPOOL)
    assert rows[DBPOOL] == [0] * 6


def test_places_lost_and_connections_disturbed_are_seen(tmp_path):
    (native,) = (each for each in SUBJECTS if each.key == "native")
    if why := installed(native):
        pytest.skip(why)
    (rows,) = compare(tmp_path, "places", "native")
    killed, _, _, _, between, within = rows["native"]
    assert killed > 0
    assert between > 0
    assert within > 0


def test_a_connection_that_a_thread_keeps_is_disturbed_by_its_forks(tmp_path):
    (rows,) = compare(tmp_path, "places", KEPT)
    assert rows[KEPT][:3] == [0, 0, 0]
    assert min(rows[KEPT][3:]) > 0


@pytest.mark.parametrize(
    ("counts", "index"), [([7, 7, 7, 7], 1), ([9, 0, 0], 1 / 3), ([2, 1], 0.9)]
)
def test_jains_index_is_one_for_equals_and_one_nth_for_one_that_has_all(counts, index):
    assert jain(counts) == pytest.approx(index)
