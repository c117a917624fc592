"""Run the sandbox from start to end: ``python -m sandbox.run``, by ``make sandbox``.

Starts PostgreSQL (or uses the server that ``SANDBOX_DSN`` names), loads the shop, runs
gunicorn, sends traffic, compares ``dbpool_stats`` with the connections that PostgreSQL
lists, and drains the workers under that traffic. The exit code is 0 when every check
passed, 1 otherwise. With ``SERVE=1`` the sandbox stays up until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sandbox.database import Observer, Session, own_database
from sandbox.server import (
    ROOT,
    THREADS,
    WORKERS,
    GunicornServer,
    ServerError,
    environment,
    manage,
    set_up,
    stop_in_order,
)
from sandbox.traffic import SHOP, Page, Report, Traffic

APPLICATION_NAME = "dbpool_mw sandbox"
MAX_CONNS = 10
NO_WORKER = 3

#: Half of the senders keep their TCP connection.
SENDERS = 8
#: Seconds between a sender's requests: the two commands need some time of the machine.
PAUSE = 0.01


class Checks:
    """The checks of the run, printed as they pass or fail, and again at the end."""

    def __init__(self) -> None:
        self.results: list[tuple[bool, str]] = []

    def expect(self, passed: bool, sentence: str, otherwise: str = "") -> bool:
        """Record one check; ``otherwise`` says what was found instead."""
        if not passed and otherwise:
            sentence = f"{sentence} But: {otherwise}"
        self.results.append((passed, sentence))
        say(f"[{'ok' if passed else 'FAILED'}] {sentence}")
        return passed

    @property
    def failed(self) -> int:
        """Return how many checks failed."""
        return sum(not passed for passed, _ in self.results)

    def summary(self) -> None:
        """Print the list of all checks."""
        heading("Summary")
        for passed, sentence in self.results:
            say(f"  {'ok    ' if passed else 'FAILED'}  {sentence}")
        say(
            f"{self.failed} of {len(self.results)} checks FAILED."
            if self.failed
            else f"All {len(self.results)} checks passed."
        )


def say(text: str = "") -> None:
    """Print, and flush, so that a pipe gets the line at once."""
    print(text, flush=True)


def heading(text: str) -> None:
    """Open a section of the output."""
    say(f"\n== {text} ==")


class Run:
    """One run of the sandbox; ``parts`` calls its methods in order."""

    def __init__(self, stack: ExitStack, checks: Checks) -> None:
        self.stack = stack
        self.checks = checks

    def prepare(self) -> None:
        """Start PostgreSQL, load the shop and start gunicorn."""
        directory = self.stack.enter_context(
            tempfile.TemporaryDirectory(prefix="dbpool_mw-run-")
        )
        heading("PostgreSQL")
        self.dsn = self.stack.enter_context(own_database())
        self.observer = Observer(self.dsn, APPLICATION_NAME)
        self.stack.callback(self.observer.close)
        say(f"PostgreSQL {self.observer.version()}, {self.dsn}")

        heading("The shop")
        self.env = environment(self.dsn)
        say(set_up(self.env))
        self._avoid_another_sandbox(directory)

        heading(f"gunicorn, {WORKERS} workers with {THREADS} threads each")
        log = Path(directory) / "gunicorn.log"
        self.server = self.stack.enter_context(GunicornServer(self.env, log))
        self.workers = self.server.worker_pids()
        say(f"{self.server.url}, workers {', '.join(map(str, self.workers))}")

    def _avoid_another_sandbox(self, directory: str) -> None:
        # Don't drain the workers of another sandbox of this checkout.
        if manage(self.env, "dbpool_stats").returncode == 0:
            say("Another sandbox is running: this one uses another control directory.")
            self.env = environment(self.dsn, control_dir=f"{directory}/control")

    def command(self, *words: str, code: int = 0) -> str:
        """Run a management command, show its output and check its exit code."""
        say(f"$ manage.py {' '.join(words)}")
        began = time.monotonic()
        try:
            done = manage(self.env, *words)
        except subprocess.TimeoutExpired as error:
            raise ServerError(
                f"manage.py {words[0]} did not return: {error}"
            ) from error
        output = (done.stdout + done.stderr).rstrip()
        say(output)
        self.checks.expect(
            done.returncode == code,
            f"{' '.join(words)} returned {code} in {time.monotonic() - began:.1f} s.",
            f"it returned {done.returncode}.",
        )
        return done.stdout

    def stats(self) -> list[dict[str, Any]]:
        """Return every worker's answer to ``dbpool_stats``."""
        done = manage(self.env, "dbpool_stats", "--format", "json")
        if done.returncode:
            raise ServerError(f"dbpool_stats failed:\n{done.stdout}{done.stderr}")
        workers: list[dict[str, Any]] = json.loads(done.stdout)["workers"]
        return workers

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools of all workers that answered."""
        return [pool for worker in self.stats() for pool in worker.get("pools", ())]

    def send_traffic(self) -> Traffic:
        """Start the traffic, and return it after the first 400 requests."""
        heading("Traffic")
        traffic = Traffic(
            self.server.host,
            self.server.port,
            threads=SENDERS,
            keep_alive=SENDERS // 2,
            pause=PAUSE,
        )
        self.stack.callback(traffic.stop)
        traffic.start()
        self._more(traffic, 400)
        say(f"{SENDERS} senders; {traffic.done} requests so far, and they go on.")
        return traffic

    def _more(self, traffic: Traffic, requests: int) -> None:
        if not traffic.wait_for_more(requests, timeout=20.0):
            raise ServerError(
                f"{requests} requests were not answered in 20 s; gunicorn's log ends:\n"
                f"{self.server.last_words()}"
            )

    def look(self) -> None:
        """Show dbpool_stats while the traffic runs."""
        heading("What the workers say")
        self.command("dbpool_stats")
        self.command("dbpool_stats", "--holders")
        workers = self.stats()
        pids = {worker.get("pid") for worker in workers if worker.get("pools")}
        self.checks.expect(
            pids == set(self.workers),
            f"Both workers answered: {', '.join(map(str, self.workers))}.",
            f"those that answered were {pids or 'none'}.",
        )
        pools = [pool for worker in workers for pool in worker.get("pools", ())]
        opened = sum(pool["opened"] for pool in pools)
        checkouts = sum(pool["checkouts"] for pool in pools)
        most = WORKERS * THREADS
        self.checks.expect(
            0 < opened <= most < checkouts,
            f"{checkouts} checkouts were served by {opened} connections.",
            f"at most {most} are needed, one for each thread.",
        )

    def look_from_the_server(self, traffic: Traffic) -> list[Session]:
        """Show the connections that PostgreSQL lists while the traffic runs."""
        heading("What the server sees")
        before = self.observer.sessions()
        self._more(traffic, 200)
        sessions = self.observer.sessions()
        show(sessions)
        self.checks.expect(
            0 < len(sessions) <= WORKERS * MAX_CONNS,
            f"The server sees {len(sessions)} connections, within "
            f"{WORKERS} workers x MAX_CONNS {MAX_CONNS}.",
        )
        self.checks.expect(
            identities(before) <= identities(sessions),
            "After 200 more requests the connections are the same.",
            "some were closed in between.",
        )
        return sessions

    def drain(self, traffic: Traffic, pooled: list[Session]) -> None:
        """Drain under traffic, and show that the old connections are gone."""
        heading("A drain under traffic")
        pooled = [*pooled, *self.observer.sessions()]
        done = traffic.done
        self.command("dbpool_drain")
        left = identities(pooled) & identities(self.observer.sessions())
        self.checks.expect(
            not left,
            f"None of the {len(identities(pooled))} pooled connections is left.",
            f"the server still has {len(left)} of them.",
        )
        self._more(traffic, 300)
        say(f"{traffic.done - done} requests since the drain began, and they go on:")
        self.command("dbpool_stats")
        self.checks.expect(
            all(pool["state"] == "draining" for pool in self.pools()),
            "Requests after the drain run on connections for one request each.",
        )

    def end_traffic(self, traffic: Traffic) -> None:
        """Stop the traffic; check every answer, and that no connection is left."""
        heading("The end of the traffic")
        report = traffic.stop()
        self.check_report(report, SHOP)
        left = self.observer.wait_until_none(timeout=5.0)
        show(left)
        self.checks.expect(
            not left,
            "With the traffic over, the server sees no connection of the application.",
            f"it sees {len(left)}.",
        )
        size = sum(pool["size"] for pool in self.pools())
        self.checks.expect(
            size == 0, "Every worker's pool is empty.", f"they hold {size}."
        )

    def check_report(self, report: Report, pages: tuple[Page, ...]) -> None:
        """Print the traffic's report and check it."""
        say("\n".join(report.lines()))
        self.checks.expect(
            not report.failures,
            f"None of {report.answered} requests failed; each status was as expected.",
            f"{len(report.failures)} failed. gunicorn's log ends:\n"
            f"{self.server.last_words()}",
        )
        missing = {page.path for page in pages} - {path for path, _ in report.statuses}
        self.checks.expect(
            not missing,
            "Every kind of page was requested.",
            f"{', '.join(sorted(missing))} never was.",
        )

    def pool_again(self) -> None:
        """End the drain: the workers pool again; drain once more, with no traffic."""
        heading("Pooling again")
        self.command("dbpool_drain", "--resume")
        report = warm(self.server)
        self.check_report(report, WARMING)
        kept = self.observer.sessions()
        self.checks.expect(
            0 < len(kept) <= WORKERS * THREADS,
            f"After --resume the workers keep {len(kept)} connections again.",
        )
        self.command("dbpool_drain")
        left = self.observer.wait_until_none(timeout=2.0)
        self.checks.expect(
            not left,
            "After a drain without traffic the server sees no connection.",
            f"it sees {len(left)}.",
        )

    def stop(self) -> None:
        """Stop gunicorn by SIGTERM; no worker may be left."""
        heading("The end")
        started = self.server.worker_pids()
        self.checks.expect(
            started == self.workers,
            "No worker died during the run.",
            f"gunicorn started {len(started)} instead of {WORKERS}.",
        )
        code = self.server.stop()
        self.checks.expect(code == 0, "gunicorn ended cleanly.", f"its code is {code}.")
        self.command("dbpool_stats", code=NO_WORKER)


WARMING = (Page("/slow/?seconds=0.05", "slept for 0.05 s.\n"),)


def warm(server: GunicornServer) -> Report:
    """Request short sleeps at the same time, so that every worker opens its pool."""
    traffic = Traffic(server.host, server.port, WARMING, threads=WORKERS * THREADS)
    return traffic.run(1.0)


def identities(sessions: list[Session]) -> set[tuple[int, str]]:
    """Return pid and start time of each backend: a pid alone may be used again."""
    return {(session.pid, session.started) for session in sessions}


def show(sessions: list[Session]) -> None:
    """Print sessions as PostgreSQL lists them."""
    if not sessions:
        say("(no connection)")
        return
    say(f"{'pid':>8}  {'state':<20} {'age s':>7} {'since s':>7}  last statement")
    for row in sessions:
        say(
            f"{row.pid:8d}  {row.state:<20} {row.age:7.1f} {row.unchanged:7.2f}  "
            f"{row.query[:60]}"
        )


def serve(run: Run) -> None:
    """Print the commands to try, and stay up until Ctrl-C."""
    warm(run.server)
    words = [
        f"{key}={shlex.quote(run.env[key])}"
        for key in ("SANDBOX_DSN", "SANDBOX_CONTROL_DIR")
        if key in run.env
    ]
    python = shlex.quote(sys.executable)
    manage_py = shlex.quote(str(ROOT / "sandbox" / "manage.py"))
    heading("Up")
    say(f"The shop is at {run.server.url}/. Other pages:")
    say("  " + " ".join(f"{run.server.url}{page.path}" for page in SHOP[1:]))
    say("\nIn another shell:\n")
    say(f"export {' '.join(words)}")
    for command in (
        "dbpool_stats",
        "dbpool_stats --watch 1",
        "dbpool_stats --holders",
        "dbpool_stats --columns all",
        "dbpool_stats --format prometheus",
        "dbpool_drain",
        "dbpool_drain --resume",
        "dbpool_drain --pause",
        "dbpool_drain --recycle",
    ):
        say(f"{python} {manage_py} {command}")
    say(f"curl '{run.server.url}/slow/?seconds=5'")
    say(
        f"(cd {shlex.quote(str(ROOT))} && "
        f"{python} -m sandbox.traffic {run.server.url} --seconds 30)"
    )
    say("\nCtrl-C stops everything.")
    while run.server.poll() is None:
        time.sleep(0.2)
    raise ServerError(f"gunicorn ended by itself:\n{run.server.last_words()}")


def parts(run: Run) -> None:
    """Run all parts in order."""
    traffic = run.send_traffic()
    run.look()
    pooled = run.look_from_the_server(traffic)
    run.drain(traffic, pooled)
    run.end_traffic(traffic)
    run.pool_again()
    run.stop()


def main() -> int:
    """Run the sandbox and return its exit code."""
    serving = os.environ.get("SERVE", "") not in ("", "0")
    stop_in_order()
    began = time.monotonic()
    checks = Checks()
    try:
        with ExitStack() as stack:
            run = Run(stack, checks)
            run.prepare()
            if serving:
                serve(run)
            parts(run)
    except KeyboardInterrupt:
        say("\nStopped; everything that was started has been stopped.")
        return 0 if serving else 130
    except Exception as error:
        # Any error counts as a failed check, and the summary is printed.
        checks.expect(False, f"The run ended early. {type(error).__name__}: {error}")
    checks.summary()
    say(f"{time.monotonic() - began:.0f} s in all.")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
