"""Views that use their connection in every way that a view may."""

import asyncio
import io
import os
import signal
import threading
import time
from pathlib import Path

from asgiref.sync import sync_to_async
from django.core.handlers.base import BaseHandler
from django.db import (
    close_old_connections,
    connection,
    connections,
    models,
    transaction,
)
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.test import AsyncClient, Client, RequestFactory
from django.utils.module_loading import import_string

from dbpool_mw import pooled, released
from dbpool_mw.decorators import no_pool
from tests.process.project import clocks
from tests.process.project.middleware import backend_pid

__all__ = [
    "async_orm",
    "async_rows",
    "async_slow_stream",
    "async_stream",
    "async_tasks",
    "async_waits",
    "at_import",
    "atomic_fails",
    "broken",
    "clock",
    "close_fails",
    "closes",
    "closes_in_atomic",
    "closes_old",
    "exempt",
    "exits",
    "facts",
    "fails",
    "fails_async",
    "fails_twice",
    "file",
    "forks",
    "greenlet",
    "holds",
    "holds_then_replica",
    "leaves_session",
    "lock_held",
    "missing",
    "nests",
    "nests_async",
    "no_database",
    "nothing",
    "raises",
    "raises_in_async_stream",
    "raises_in_stream",
    "run",
    "slow_call",
    "slow_file",
    "slow_stream",
    "stream",
    "thread_ends",
    "threads",
    "two",
]


class Database(models.Model):
    """A row that every server has, so that the ORM has something to read."""

    name = models.CharField(primary_key=True, db_column="datname", max_length=63)

    class Meta:
        app_label = "tests"
        managed = False
        db_table = "pg_database"


def answer(**facts):
    return JsonResponse({"pid": os.getpid(), **facts})


def nothing(request):
    return answer(connected=connection.connection is not None)


def facts(request):
    return answer(
        backend=backend_pid(),
        autocommit=connection.get_autocommit(),
        in_atomic=connection.in_atomic_block,
        zone=show("TimeZone"),
        timeout=show("statement_timeout"),
    )


def threads(request):
    return answer(threads=[thread.name for thread in threading.enumerate()])


def show(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return cursor.fetchone()[0]


def two(request):
    with connections["replica"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        replica = cursor.fetchone()[0]
    with connections["local"].cursor() as cursor:
        cursor.execute("SELECT 1")
    return answer(
        backend=backend_pid(),
        replica=replica,
        local=type(connections["local"].connection).__module__,
    )


def closes(request):
    before = backend_pid()
    connection.close()
    between = connection.connection is None
    return answer(before=before, between=between, backend=backend_pid())


def closes_old(request):
    before = backend_pid()
    close_old_connections()
    between = connection.connection is None
    return answer(before=before, between=between, backend=backend_pid())


def closes_in_atomic(request):
    try:
        with transaction.atomic():
            backend_pid()
            connection.close()
            backend_pid()
    except Exception as error:
        failed = type(error).__name__
    return answer(failed=failed, backend=backend_pid())


def fails(request):
    backend_pid()
    raise ValueError("on purpose")


async def fails_async(request):
    await sync_to_async(backend_pid)()
    raise ValueError("on purpose")


def fails_twice(request):
    try:
        fails(request)
    finally:
        connection.close()
        backend_pid()


def atomic_fails(request):
    """Write and raise: with ATOMIC_REQUESTS the row is rolled back."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes VALUES ('lost')")
    raise ValueError("on purpose")


def session():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('app.tenant', true)")
        return dict(zip(("backend", "tenant"), cursor.fetchone(), strict=True))


def broken(request):
    """The 500 page; it queries."""
    return JsonResponse({"page": 500, **session()}, status=500)


def not_found(request, exception):
    """The 404 page; it queries."""
    return JsonResponse({"page": 404, **session()}, status=404)


def exits(request):
    """Raise SystemExit after a query, so that no response follows."""
    backend_pid()
    raise SystemExit("on purpose")


class FailingClose(HttpResponse):
    """A response whose close() raises, so that Django sends no request_finished."""

    def close(self):
        raise ValueError("on purpose")


def close_fails(request):
    return FailingClose(str(backend_pid()))


def raises(request):
    """Raise ``?kind=``, in the view or in a thread that has its own connection."""
    kind = import_string(request.GET["kind"])

    def work():
        # Kept, because a block that nobody has any more has ended.
        block = pooled()
        block.__enter__()
        backend_pid()
        raise kind

    if request.GET.get("where") == "thread":
        connection.close()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return answer()
    backend_pid()
    raise kind


def thread_ends(request):
    """End a thread that has queried, and doesn't close its connection."""
    thread = threading.Thread(target=backend_pid)
    thread.start()
    thread.join()
    return answer()


def forks(request):
    """Fork a child at any moment, and query in the child."""
    before = backend_pid()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        # End a child that waits for a lock of a thread that the child doesn't have.
        signal.alarm(20)
        try:
            os.write(writer, str(backend_pid()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as output:
        child_backend = int(output.read())
    os.waitpid(child, 0)
    assert backend_pid() == before
    return answer(backend=before, child=child_backend)


def clock(request):
    """Tell by how many seconds the clock is ahead."""
    return answer(ahead=clocks.ahead())


def missing(request):
    backend_pid()
    raise Http404


class Handler(BaseHandler):
    """Serve a request in the middle of another, as Wagtail's previews do."""

    def __call__(self, path):
        self.load_middleware()
        return self.get_response(RequestFactory().get(path))


NESTED = {
    "handler": lambda path: Handler()(path).status_code,
    "client": lambda path: Client().get(path).status_code,
    "quiet": lambda path: Client(raise_request_exception=False).get(path).status_code,
}


def begin_session():
    """Change the session, and open a cursor on the server that has rows left."""
    with connection.cursor() as cursor:
        cursor.execute("SET app.tenant = '42'")
    rows = Database.objects.values_list("name", flat=True).iterator(chunk_size=1)
    next(rows)
    return {"rows": rows, **session()}


def end_session(begun):
    """Return what is not as it was when the session began."""
    left = 1 + len(list(begun.pop("rows")))
    now = {**session(), "rows": Database.objects.count()}
    return {
        name: now[name] for name in now if now[name] != {**begun, "rows": left}[name]
    }


def nests(request):
    """Serve the page ``?path=`` in the middle of this one, as ``?by=`` says."""
    begun = begin_session()
    try:
        status = NESTED[request.GET["by"]](request.GET["path"])
    except ValueError as error:
        status = str(error)
    if "key" in request.GET:
        holds(request)
    return answer(status=status, changed=end_session(begun))


async def nests_async(request):
    """Do so in a coroutine."""
    begun = await sync_to_async(begin_session)()
    client = AsyncClient(raise_request_exception=request.GET["by"] == "client")
    try:
        status = (await client.get(request.GET["path"])).status_code
    except ValueError as error:
        status = str(error)
    if "key" in request.GET:
        await sync_to_async(holds)(request)
    return answer(status=status, changed=await sync_to_async(end_session)(begun))


def at_import(request):
    """Tell the backend of the query that ran at the import of the application."""
    from tests.process.project import wsgi

    return answer(at_import=wsgi.AT_IMPORT, backend=backend_pid())


def holds(request):
    """Wait in a query until the advisory lock ``?key=`` is free."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int(request.GET["key"])])
    return answer(backend=backend_pid())


def holds_then_replica(request):
    """Query the other database when the advisory lock ``?key=`` is free."""
    holds(request)
    with connections["replica"].cursor() as cursor:
        cursor.execute("SELECT 1")
    return answer(backend=backend_pid())


def greenlet(request):
    """End a greenlet that has queried without a checkin, as ``?how=`` says."""
    import gevent

    started = gevent.event.Event()
    how = request.GET["how"]

    def work():
        block = pooled()  # kept: see raises()
        block.__enter__()
        backend_pid()
        started.set()
        if how == "timeout":
            with gevent.Timeout(0.05), connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(2)")
        elif how == "kill":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(2)")

    connection.close()
    spawned = gevent.spawn(work)
    started.wait(20)
    if how == "kill":
        gevent.sleep(0.05)
        spawned.kill()
    spawned.join(20)
    return answer(ended=spawned.dead)


def run(request):
    """Run the statement ``?sql=``."""
    with connection.cursor() as cursor:
        cursor.execute(request.GET["sql"])
        rows = cursor.fetchall() if cursor.description else []
    return answer(rows=rows, backend=backend_pid())


def leaves_session(request):
    """Change settings, make a temporary table and take a session lock."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 12345")
        cursor.execute("SET TimeZone = 'Asia/Tokyo'")
        cursor.execute("CREATE TEMP TABLE left_behind (a int)")
        cursor.execute("SELECT pg_advisory_lock(77)")
    return answer(backend=backend_pid())


def lock_held(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return answer(held=cursor.fetchone()[0])


def rows(number):
    for index in range(number):
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s, repeat('x', 10000)", [index])
            yield f"{cursor.fetchone()[0]} {'x' * 10000}\n"


def stream(request):
    return StreamingHttpResponse(rows(int(request.GET.get("rows", "20"))))


def raises_in_stream(request):
    def content():
        yield from rows(3)
        raise ValueError("on purpose")

    return StreamingHttpResponse(content())


async def raises_in_async_stream(request):
    async def content():
        await sync_to_async(backend_pid)()
        yield "0"
        raise ValueError("on purpose")

    return StreamingHttpResponse(content())


async def async_stream(request):
    async def content():
        for index in range(int(request.GET.get("rows", "20"))):
            await sync_to_async(backend_pid)()
            yield f"{index} {'x' * 10000}\n"

    return StreamingHttpResponse(content())


def file(request):
    """Query, and send a file, as the server sends files."""
    backend_pid()
    return FileResponse(open(__file__, "rb"))


def wait_for_file(request):
    """Wait until the file ``?until=`` is there."""
    while not Path(request.GET["until"]).exists():
        time.sleep(0.05)


def slow_stream(request):
    """Query, and then stream until the file ``?until=`` is there."""
    backend = backend_pid()

    def content():
        yield f"{backend}\n"
        wait_for_file(request)
        yield f"{backend_pid()}\n"

    return StreamingHttpResponse(content())


def slow_file(request):
    """Query, and then send a file that is there when ``?until=`` is."""

    class Slow(io.BytesIO):
        def read(self, *size):
            if self.tell():
                wait_for_file(request)
            return super().read(5)

    return FileResponse(Slow(f"{backend_pid()}\n".encode() * 2))


async def async_slow_stream(request):
    backend = await sync_to_async(backend_pid)()

    async def content():
        yield f"{backend}\n"
        while not Path(request.GET["until"]).exists():
            await asyncio.sleep(0.05)
        yield f"{await sync_to_async(backend_pid)()}\n"

    return StreamingHttpResponse(content())


def slow_call(request):
    """Query, wait for something else, and query again."""
    before = backend_pid()
    with released():
        wait_for_file(request)
    return answer(before=before, backend=backend_pid())


async def async_orm(request):
    """Use Django's asynchronous ORM and, in between, the synchronous one."""
    name = connection.settings_dict["NAME"]
    found = await Database.objects.aget(name=name)
    names = [row.name async for row in Database.objects.all()]
    count = await sync_to_async(Database.objects.count)()
    return answer(
        right=found.name == name and name in names and count >= len(names) > 0,
        backend=await sync_to_async(backend_pid)(),
    )


async def async_rows(request):
    """Stream from a server-side cursor, which is open until the last row."""

    async def content():
        rows = Database.objects.order_by("name").aiterator(chunk_size=1)
        async for row in rows:
            yield f"{row.name} {'x' * 100_000}\n"

    return StreamingHttpResponse(content())


async def async_tasks(request):
    """Query in the tasks of a group, which wraps what they raise."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(Database.objects.acount()) for _ in range(3)]
    return answer(right=all(task.result() > 0 for task in tasks))


async def async_waits(request):
    """Hold a connection for ever, without a query."""
    await sync_to_async(backend_pid)()
    await asyncio.Event().wait()


@no_pool
def no_database(request):
    return HttpResponse("well")


def exempt(request):
    return HttpResponse("well")
