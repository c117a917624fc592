"""What is compared: a way to connect, with its versions and its documented settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Literal, NamedTuple

import django

from sandbox.pgbouncer import PROGRAM

SETTINGS = "sandbox.compare.project.settings"

#: Worker processes, and connections that a pool may open in each of them.
WORKERS = 2
CONNECTIONS = 4

#: Where the Makefile installs django-postgrespool2 with the SQLAlchemy that it needs.
APART = Path(sys.prefix) / "postgrespool2"


class Subject(NamedTuple):
    """One way to connect; ``packages`` are the distributions that it is made of."""

    key: str
    title: str
    library: Literal["psycopg", "psycopg2"]
    packages: tuple[str, ...]
    best: str
    worker: Literal["gthread", "gevent"] = "gthread"
    via: Literal["session", "transaction"] | None = None
    settings: str = SETTINGS
    #: Whether a request in the steady state is meant to find its connection open.
    keeps: bool = True

    @property
    def database(self) -> str:
        """Return the name of the subject's own database."""
        return f"compare_{self.key.replace('-', '_')}"


_BOUNCER = "default_pool_size is the number that all pools have together"
_DBPOOL = (
    "The middleware and MAX_CONNS. CONTROL_DIR and METRICS_LOOPBACK are set too, and "
    "matter to no page; the rest is the default."
)

SUBJECTS = (
    Subject(
        "django",
        "Django's default",
        "psycopg",
        ("Django", "psycopg"),
        "CONN_MAX_AGE = 0: a connection for each request.",
        keeps=False,
    ),
    Subject(
        "persistent",
        "CONN_MAX_AGE = None",
        "psycopg",
        ("Django", "psycopg"),
        "A connection for each thread, kept for ever; no health checks, the default.",
    ),
    Subject(
        "persistent-checked",
        "CONN_MAX_AGE = None, health checks",
        "psycopg",
        ("Django", "psycopg"),
        "CONN_MAX_AGE = None and CONN_HEALTH_CHECKS: a query before the first one of "
        "each request.",
    ),
    Subject(
        "persistent-psycopg2",
        "CONN_MAX_AGE = None (psycopg2)",
        "psycopg2",
        ("Django", "psycopg2"),
        "CONN_MAX_AGE = None; no health checks, the default.",
    ),
    Subject(
        "native",
        "Django's own pool",
        "psycopg",
        ("Django", "psycopg", "psycopg-pool"),
        'OPTIONS["pool"] with min_size = max_size, its default; no health checks, the '
        "default.",
    ),
    Subject(
        "native-checked",
        "Django's own pool, health checks",
        "psycopg",
        ("Django", "psycopg", "psycopg-pool"),
        "As above, and CONN_HEALTH_CHECKS: a query at each checkout.",
    ),
    Subject(
        "connection-pool",
        "django-db-connection-pool",
        "psycopg",
        ("django-db-connection-pool", "SQLAlchemy", "psycopg"),
        "POOL_SIZE without MAX_OVERFLOW, so that a returned connection stays open; "
        "PRE_PING is on, the default.",
    ),
    Subject(
        "postgrespool2",
        "django-postgrespool2",
        "psycopg2",
        ("django-postgrespool2", "SQLAlchemy", "psycopg2"),
        "pool_size without max_overflow, so that a returned connection stays open; "
        "recycle as in its README; pre_ping, SQLAlchemy's check at each checkout, is "
        "on here, as in django-db-connection-pool, and off by default. It needs "
        "SQLAlchemy before 2.0.",
    ),
    Subject(
        "real-pool",
        "django-pg-real-pool",
        "psycopg",
        ("django-pg-real-pool", "psycopg", "psycopg-pool"),
        "Its native engine, which it recommends, with min_size = max_size.",
    ),
    Subject(
        "geventpool",
        "django-db-geventpool (gevent)",
        "psycopg",
        ("django-db-geventpool", "gevent", "psycopg"),
        "Its engine for psycopg 3, CONN_MAX_AGE = 0, and REUSE_CONNS equal to "
        "MAX_CONNS, the default.",
        worker="gevent",
    ),
    Subject(
        "pgbouncer-session",
        "PgBouncer, session mode",
        "psycopg",
        ("Django", "psycopg"),
        f"CONN_MAX_AGE = 0; {_BOUNCER}.",
        via="session",
        keeps=False,
    ),
    Subject(
        "pgbouncer-session-persistent",
        "PgBouncer, session mode, CONN_MAX_AGE = None",
        "psycopg",
        ("Django", "psycopg"),
        "CONN_MAX_AGE = None; default_pool_size is the number of threads, as each "
        "keeps its connection.",
        via="session",
    ),
    Subject(
        "pgbouncer-transaction",
        "PgBouncer, transaction mode",
        "psycopg",
        ("Django", "psycopg"),
        "CONN_MAX_AGE = 0 and DISABLE_SERVER_SIDE_CURSORS, as Django's documentation "
        f"asks for; {_BOUNCER}.",
        via="transaction",
        keeps=False,
    ),
    Subject(
        "pgbouncer-transaction-persistent",
        "PgBouncer, transaction mode, CONN_MAX_AGE = None",
        "psycopg",
        ("Django", "psycopg"),
        f"CONN_MAX_AGE = None and DISABLE_SERVER_SIDE_CURSORS; {_BOUNCER}.",
        via="transaction",
    ),
    Subject(
        "dbpool-psycopg2",
        "dbpool_mw (psycopg2)",
        "psycopg2",
        ("django-dbpool-mw", "psycopg2"),
        _DBPOOL,
    ),
    Subject(
        "dbpool-psycopg",
        "dbpool_mw",
        "psycopg",
        ("django-dbpool-mw", "psycopg"),
        _DBPOOL,
    ),
    Subject(
        "dbpool-lazy",
        "dbpool_mw, EAGER = ()",
        "psycopg",
        ("django-dbpool-mw", "psycopg"),
        "As above; a request checks a connection out at its first query.",
    ),
    Subject(
        "dbpool-gevent",
        "dbpool_mw (gevent)",
        "psycopg",
        ("django-dbpool-mw", "gevent", "psycopg"),
        _DBPOOL,
        worker="gevent",
    ),
)

#: Other names of distributions: the binary wheels bring the same modules.
_INSTEAD = {"psycopg2": "psycopg2-binary"}


def installed(subject: Subject) -> str | None:
    """Return why a subject can't run here, as text for a table; None if it can."""
    for name in subject.packages:
        if _distribution(subject, name) is None:
            return f"not installed: {name}"
    if subject.via and PROGRAM is None:
        return "not installed: pgbouncer"
    if "psycopg-pool" in subject.packages and django.VERSION < (5, 1):
        return "needs Django 5.1"
    return None


def versions(subject: Subject) -> str:
    """Return a subject's packages with their versions."""
    found = [_distribution(subject, name) for name in subject.packages]
    return ", ".join(f"{each.name} {each.version}" for each in found if each)


def path(subject: Subject) -> str | None:
    """Return a folder for the front of the subject's ``sys.path``, if it needs one."""
    return str(APART) if subject.key == "postgrespool2" else None


def _distribution(subject: Subject, name: str) -> Distribution | None:
    for each in (name, _INSTEAD.get(name, name)):
        if found := next(_found(subject, each), None):
            return found
    return None


def _found(subject: Subject, name: str) -> Iterator[Distribution]:
    front = path(subject)
    if front is not None:
        yield from distributions(name=name, path=[front])
    yield from distributions(name=name)


def bouncer_version() -> str:
    """Return PgBouncer's version."""
    if PROGRAM is None:
        return "not installed"
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True)
    return said.stdout.split("\n")[0].removeprefix("PgBouncer ")
