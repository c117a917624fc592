"""The oracle's rows, each in a request of this process, and the next one's session.

The corpus is that of the tests, and so it needs what they need, such as pytest.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, TypeVar

from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper
from django.http import HttpRequest, HttpResponse

from sandbox.compare.requests import Requests
from sandbox.postgres import Server
from tests.postgres.oracle.corpus import ROWS
from tests.postgres.oracle.holder import act, administer, look
from tests.postgres.oracle.rows import SCENERY, Row
from tests.postgres.oracle.snapshot import Snapshot, ask, differences
from tests.vocabulary import Error, close_all, connect, execute

_OTHERS = (
    "FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender')"
    " AND pid <> pg_backend_pid()"
)

#: What Django's own connections aren't told.
_NOT_LIBPQS = ("pool", "MAX_CONNS", "REUSE_CONNS")

#: Every subject gets the same rows.
SEED = 1

_Result = TypeVar("_Result")

_requests = Requests()


def rows(dsn: str, every: int, first: int, patience: int) -> tuple[list[str], int]:
    """Return how the rows from number ``first`` on ended, and how many are left.

    Of ``every`` rows one is taken; ``dsn`` is PostgreSQL's own. The rest is left to
    another process after a row that breaks the subject, or that doesn't end in
    ``patience`` seconds.
    """
    corpus = _Corpus(dsn)
    names = chosen(every)[first:]
    ends: list[str] = []

    def give_up(*_: object) -> None:
        # The row may be in a call that never returns: this process ends here.
        print(json.dumps(([*ends, "hung"], len(names) - len(ends) - 1)), flush=True)
        os._exit(0)

    signal.signal(signal.SIGALRM, give_up)
    for name in names:
        signal.alarm(patience)
        ends.append(corpus.end_of(ROWS[name]))
        if ends[-1] == "broken":
            break
    signal.alarm(0)
    return ends, len(names) - len(ends)


def chosen(every: int) -> list[str]:
    """Return the rows' names, in the corpus's order and always the same."""
    taken = set(random.Random(SEED).sample(list(ROWS), len(ROWS) // every))
    return [name for name in ROWS if name in taken]


class _UnableError(Exception):
    """The subject refuses what a row does."""


class _BrokenError(Exception):
    """The request after a row's failed."""


class _Corpus:
    """The rows, with an administrator's connection past the subject."""

    def __init__(self, dsn: str) -> None:
        self._server = Server.from_dsn(dsn)
        self._raw = connect(dsn, autocommit=True)
        execute(self._raw, SCENERY.format(**vars(self._server)))
        self._fresh = self._fresh_session()
        self._usual: dict[str, object] = {}
        self._volatile: set[str] = set()
        nothing = Row("nothing", ())
        usual, again = (self._found(nothing)[0] for _ in range(2))
        self._volatile = {k for k, v in usual.items() if again.get(k, v) != v}
        self._usual = usual

    def end_of(self, row: Row) -> str:
        """Return what became of a row, by a name of sessions.ENDS."""
        version = self._raw.info.server_version // 10000
        if not row.since <= version <= row.until:
            return "unable"
        administer(self._raw, row.before)
        try:
            found, same = self._found(row)
        except _UnableError:
            return "unable"
        except _BrokenError:
            return "broken"
        finally:
            self._end_sessions()
            # What is to be removed isn't there if the row was undone.
            with suppress(Error):
                administer(self._raw, row.after)
        if found:
            return "leaked"
        return "clean" if same else "replaced"

    def _found(self, row: Row) -> tuple[dict[str, object], bool]:
        """Do a row in a request; return what the next request's session has of it.

        And whether that is the same session.
        """
        self._end_sessions()
        self._reconnect()
        kept: list[object] = []

        def do() -> tuple[Snapshot, object]:
            raw = _library_connection()
            first, pid = look(raw), _pid(raw)
            try:
                act(row, raw, kept)
            except RuntimeError as error:
                raise _UnableError from error
            return first, pid

        def find() -> tuple[Snapshot, object]:
            raw = _library_connection()
            return look(raw, kept), _pid(raw)

        try:
            first, pid = _in_a_request(do)
            try:
                found, found_pid = _in_a_request(find)
            except Exception as error:
                raise _BrokenError from error
            # A row with nothing to restore changes nothing for later sessions.
            alone = not (row.before or row.after)
            fresh = self._fresh if alone else self._fresh_session()
        finally:
            close_all(kept)
        left = {
            key: what
            for key, what in differences(found, fresh, first).items()
            if key not in self._volatile and self._usual.get(key) != what
        }
        return left, pid == found_pid

    def _fresh_session(self) -> Snapshot:
        """Return a snapshot of a connection that Django opens by itself."""
        settings = connection.settings_dict
        options = settings["OPTIONS"]
        own = {key: options[key] for key in options if key not in _NOT_LIBPQS}
        wrapper = DatabaseWrapper(
            {
                **settings,
                "HOST": self._server.host,
                "PORT": self._server.port,
                "OPTIONS": own,
            }
        )
        with closing(wrapper):
            wrapper.connect()
            return look(wrapper.connection)

    def _end_sessions(self) -> None:
        """End all other sessions; a pool may open new ones at once."""
        # PgBouncer would keep the client's connection.
        connection.close()
        others = ask(self._raw, f"SELECT pid, pg_terminate_backend(pid) {_OTHERS}")
        ended = ", ".join(str(pid) for pid, _ in others)
        left = f"SELECT 1 FROM pg_stat_activity WHERE pid IN ({ended})"
        while ended and ask(self._raw, left):
            time.sleep(0.002)

    def _reconnect(self) -> None:
        """Have the subject find out that its connection has gone."""
        for _ in range(10):
            with suppress(Exception):
                return _in_a_request(_query)
            time.sleep(0.01)
        raise RuntimeError("the subject doesn't connect again")


def _in_a_request(work: Callable[[], _Result]) -> _Result:
    """Return what ``work`` returns in a request, or raise what it raises there."""
    results: list[_Result] = []
    errors: list[Exception] = [RuntimeError("the view wasn't called")]

    def view(request: HttpRequest) -> HttpResponse:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)
            raise
        return HttpResponse()

    # The 500 page asks for a table that this database hasn't. What the request's end
    # raises is logged by a web server, and the client has its answer.
    with suppress(Exception):
        _requests(view)
    if results:
        return results[0]
    raise errors[-1]


def _query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _library_connection() -> Any:
    connection.ensure_connection()
    made = connection.connection
    # SQLAlchemy gives a proxy of it.
    return getattr(made, "driver_connection", made)


def _pid(raw: Any) -> object:
    """Return the server's process id; PgBouncer tells the client another one."""
    return ask(raw, "SELECT pg_backend_pid()")[0][0]
