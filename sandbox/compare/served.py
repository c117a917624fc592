"""A subject under gunicorn, behind it PgBouncer where the subject has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox.compare.subjects import CONNECTIONS, WORKERS, Subject, path
from sandbox.pgbouncer import pgbouncer
from sandbox.postgres import PostgresServer, Server
from sandbox.server import THREADS, GunicornServer, environment, set_up

#: The database that every subject's own is a copy of.
TEMPLATE = "compare"


@dataclass(frozen=True)
class Served:
    """A subject that serves pages.

    ``dsn`` is the subject's database at PostgreSQL itself, for who looks from outside;
    ``front`` is the address that the subject connects to.
    """

    subject: Subject
    gunicorn: GunicornServer
    dsn: str
    front: str
    log: Path

    @property
    def url(self) -> str:
        """Return the root of the subject's pages, without a slash at the end."""
        return self.gunicorn.url

    @property
    def pids(self) -> list[int]:
        """Return the process id of every worker ever started."""
        return self.gunicorn.worker_pids()


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL with the template of the subjects' databases.

    Its time zone is Django's, as Django's documentation asks for: otherwise each new
    connection sends SET TIME ZONE.
    """
    with PostgresServer({"max_connections": 400, "timezone": "UTC"}) as server:
        server.create_database(TEMPLATE)
        env = environment(server.dsn(TEMPLATE), "none")
        set_up(env)
        yield server


def own_database(subject: Subject, server: Server) -> str:
    """Make the subject's own copy of the template; return its URL.

    pg_stat_activity then tells whose a connection is, whatever it came through.
    """
    server.drop_database(subject.database)
    server.create_database(subject.database, template=TEMPLATE)
    return server.dsn(subject.database)


@contextmanager
def connected(
    subject: Subject,
    server: Server,
    threads: int = THREADS,
    connections: int | None = None,
) -> Iterator[str]:
    """Yield the address that a subject connects to; PgBouncer's, where it uses one.

    In session mode a client that stays occupies a connection, so that there PgBouncer
    may open one for each of the workers' threads. ``connections`` is another number.
    """
    if subject.via is None:
        yield server.dsn(subject.database)
        return
    stay = subject.via == "session" and subject.keeps
    size = connections or WORKERS * (threads if stay else CONNECTIONS)
    with pgbouncer(
        server, subject.via, size, auth_type="scram-sha-256", max_client_conn=400
    ) as front:
        yield front.dsn(subject.database)


def environment_of(
    subject: Subject, front: str, connections: int = CONNECTIONS
) -> dict[str, str]:
    """Return the environment of a process of the subject's.

    ``connections`` is how many a pool may open in that process.
    """
    env = environment(front, "none", library=subject.library)
    folders = [env["PYTHONPATH"], path(subject)]
    return env | {
        "DJANGO_SETTINGS_MODULE": subject.settings,
        "COMPARE_SUBJECT": subject.key,
        "COMPARE_CONNECTIONS": str(connections),
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }


@contextmanager
def serve(
    subject: Subject,
    server: Server,
    directory: Path,
    *,
    front: str | None = None,
    threads: int = THREADS,
) -> Iterator[Served]:
    """Serve a subject for the block, on a new database of its own.

    2 workers, of ``threads`` threads each or on gevent. ``front`` is where it connects
    to instead of PostgreSQL or its PgBouncer. Raises sandbox.server.ServerError, or
    RuntimeError.
    """
    with ExitStack() as stack:
        dsn = own_database(subject, server)
        front = front or stack.enter_context(connected(subject, server, threads))
        log = directory / f"{subject.key}.log"
        control = {"SANDBOX_CONTROL_DIR": str(directory / "control")}
        gunicorn = GunicornServer(
            environment_of(subject, front) | control,
            log,
            workers=WORKERS,
            threads=threads,
            worker_class=subject.worker,
        )
        stack.enter_context(gunicorn)
        yield Served(subject, gunicorn, dsn, front, log)
