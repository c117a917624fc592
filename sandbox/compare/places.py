"""Places of a pool that are lost for good, and connections that a fork disturbs."""

from __future__ import annotations

from sandbox.compare.apart import call
from sandbox.compare.report import Cell, Figure, Table
from sandbox.compare.run import Run
from sandbox.compare.served import connected, own_database
from sandbox.compare.subjects import Subject
from sandbox.server import ServerError

CONNECTIONS = 10

#: What a pool has to bear, by the names of functions in damage.py, and how often.
DAMAGES = {
    "killed_threads": 100,
    "error_pages": 500,
    "broken_streams": 50,
}
#: The same for forks whose children close their connections, or query.
FORKS = {
    "forks_that_close": 20,
    "forks_between_requests": 5,
    "forks_within_a_request": 5,
}

#: Seconds until a process that hangs is killed.
TIMEOUT = 60.0


def measure(run: Run) -> list[Table]:
    """Measure what each subject has lost after each damage."""
    share = 5 if run.quick else 1
    times = {name: n // share for name, n in DAMAGES.items()}
    forks = {name: max(2, n // share) for name, n in FORKS.items()}
    table = Table(
        "Places lost",
        f"A process whose pool may open {CONNECTIONS} connections, and has, goes "
        "through one of these: threads that an asynchronous SystemExit kills while "
        "they query, as the time limits of some task queues do, or greenlets that are "
        "killed, until none gets a connection; "
        "requests that raise, and whose 500 page queries; streamed responses that are "
        "closed after some rows, as a server does when the client has gone. "
        f"Each has a process of its own. After it {CONNECTIONS} requests ask for a "
        "connection each and hold it until all have one. Those that get none in 10 s "
        "are the places lost. Then children that are forked within a request that has "
        "queried call connections.close_all() and os._exit() while the parent makes 20 "
        "queries; and children that are forked between two requests, or within one, "
        "make 20 queries while the parent makes 20: counted are the forks after which "
        "one of the two got an error, a wrong answer, or none in a second. One round.",
        (
            f"{times['killed_threads']} threads killed",
            f"{times['error_pages']} pages with status 500",
            f"{times['broken_streams']} streams broken",
            f"Disturbed by {forks['forks_that_close']} forks whose child closes all",
            f"Disturbed by {forks['forks_between_requests']} forks between requests",
            f"Disturbed by {forks['forks_within_a_request']} forks within a request",
        ),
        notes=[
            "Django's own connections have no pool and no limit but the server's: a "
            "place can't be lost. PgBouncer's places are those of its own pool."
        ],
    )
    for subject in run.subjects:
        cells = run.attempt(subject, lambda each: _damage(run, each, times | forks))
        table.add(subject, cells)
    return [table]


def _damage(run: Run, subject: Subject, times: dict[str, int]) -> list[Cell]:
    cells: list[Cell] = []
    for name, number in times.items():
        own_database(subject, run.server)
        with connected(subject, run.server, connections=CONNECTIONS) as front:
            try:
                count = call(
                    subject,
                    front,
                    f"sandbox.compare.damage.{name}",
                    number,
                    CONNECTIONS,
                    connections=CONNECTIONS,
                    timeout=TIMEOUT,
                )
            except ServerError as error:
                run.tell(f"{subject.title}, {name}: {error}")
                cells.append(f"failed: {error}")
            else:
                cells.append(Figure([count]))
    return cells
