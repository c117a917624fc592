"""A real PostGIS under Django's ENGINE and under that of this package."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections, models
from django.http import HttpResponse
from django.test import override_settings

from dbpool_mw import conf
from dbpool_mw.binding import registry
from tests.conftest import Databases, aliases_at, fresh_database
from tests.postgres.conftest import Requests, ask, forget_wrappers, stats

DJANGOS = "django.contrib.gis.db.backends.postgis"
OURS = "dbpool_mw.backends.postgis"


@cache
def place():
    """Give the model; its import needs the libraries that `postgis` looks for."""
    from django.contrib.gis.db.models import GeometryField, PointField

    class Place(models.Model):
        spot = PointField(srid=4326)
        shape = GeometryField(srid=3857, null=True)
        # Django tells psycopg2 on each new connection how to read it.
        notes = models.JSONField(default=dict)

        class Meta:
            app_label = "places"

    return Place


@pytest.fixture(params=[DJANGOS, OURS])
def engine(request, monkeypatch):
    """Put the ENGINE under "default", with a pool of two."""
    default = settings.DATABASES["default"]
    options = {"MAX_CONNS": 2} if request.param == OURS else {}
    monkeypatch.setitem(default, "ENGINE", request.param)
    monkeypatch.setitem(default, "OPTIONS", options)
    forget_wrappers()
    pools = {"replica": None, **({} if options else {"default": {"MAX_CONNS": 2}})}
    with override_settings(DBPOOL_MW_POOLS=pools):
        yield request.param
    forget_wrappers()
    registry.close()
    conf.reset_cache()


@pytest.fixture
def empty(postgis, engine):
    """Point Django at a database without the extension."""
    with (
        fresh_database(postgis) as name,
        aliases_at(Databases(postgis, name, name)),
    ):
        yield
        forget_wrappers()


@pytest.fixture(scope="module")
def database_of_places(postgis):
    """Give one database to many tests: creating the extension takes a second."""
    with fresh_database(postgis) as name:
        yield name


@pytest.fixture
def places(postgis, engine, database_of_places):
    """Point Django at a database that has the extension and an empty table."""
    with aliases_at(Databases(postgis, database_of_places, database_of_places)):
        connection.prepare_database()
        with connection.schema_editor() as editor:
            editor.create_model(place())
        connection.close()
        yield place()
        with connection.schema_editor() as editor:
            editor.delete_model(place())
        forget_wrappers()


@pytest.fixture
def requests():
    sender = Requests()
    with override_settings(ROOT_URLCONF=sender.urls):
        yield sender


def write_and_read(places, number):
    """Write a row, read it back, and compare its geometries in PostGIS."""
    from django.contrib.gis.geos import MultiPoint, Point, Polygon
    from django.contrib.gis.measure import D

    spot = Point(number, 45, srid=4326)
    shape = Polygon.from_bbox((0, 0, 10 * number, 10))
    shape.srid = 3857
    written = places.objects.create(spot=spot, shape=shape, notes={"of": [number]})
    read = places.objects.get(pk=written.pk)
    assert (read.spot, read.spot.srid) == (spot, 4326)
    assert (read.shape, read.shape.srid) == (shape, 3857)
    assert read.notes == {"of": [number]}
    inside = Point(10 * number - 1, 5, srid=3857)
    found = places.objects.filter(pk=written.pk)
    assert found.filter(shape__contains=inside).exists()
    assert not found.filter(shape__contains=Point(-1, 5, srid=3857)).exists()
    near = Point(number, 45.001, srid=4326)
    assert found.filter(spot__distance_lt=(near, D(m=200))).exists()
    assert not found.filter(spot__distance_lt=(near, D(m=100))).exists()
    found.update(shape=MultiPoint(inside, srid=3857))
    assert places.objects.get(pk=written.pk).shape.geom_type == "MultiPoint"


class Visitor:
    """A thread that serves requests; a request ends when ``leave`` is set."""

    def __init__(self, requests, work):
        self.requests = requests
        self.work = work
        self.thread = ThreadPoolExecutor(1)
        self.leave = threading.Event()

    def enter(self):
        arrived, self.leave, self.backend = threading.Event(), threading.Event(), None

        def view(request):
            try:
                self.work()
                self.backend = connection.connection.info.backend_pid
                self.wrapper = connections["default"]
            finally:
                arrived.set()
            assert self.leave.wait(20)
            return HttpResponse("well")

        self.answer = self.thread.submit(self.requests, view)
        assert arrived.wait(20)

    def finish(self):
        self.leave.set()
        assert self.answer.result(20).content == b"well"


def test_geometries_pass_on_every_connection_under_every_wrapper(places, requests):
    numbers = iter(range(1, 100))
    visitors = [
        Visitor(requests, lambda: write_and_read(places, next(numbers)))
        for _ in range(2)
    ]
    seen = set()
    try:
        for _ in range(4):
            for visitor in visitors:
                visitor.enter()
            seen |= {(visitor.wrapper, visitor.backend) for visitor in visitors}
            # The connection returned last is checked out first.
            for visitor in visitors:
                visitor.finish()
    finally:
        for visitor in visitors:
            visitor.leave.set()
            visitor.thread.shutdown()
    assert len({wrapper for wrapper, _ in seen}) == 2
    assert len(seen) == 4
    assert stats()["opened"] == 2
    assert stats()["max"] == 2
    assert stats()["resets"] == 0


def test_geometries_pass_after_a_reset_too(places, requests):
    def changes(request):
        ask("SET search_path = pg_catalog")
        return HttpResponse("well")

    def uses(request):
        write_and_read(places, 1)
        return HttpResponse("well")

    for view in (uses, changes, uses):
        assert requests(view).content == b"well"
    assert stats()["resets"] == 1
    assert stats()["opened"] == 1


def extensions():
    return ask("SELECT array_agg(extname::text) FROM pg_extension")


def test_migrate_makes_the_extension(empty):
    assert "postgis" not in extensions()
    call_command("migrate", verbosity=0)
    assert "postgis" in extensions()


def test_a_test_database_gets_the_extension_and_can_be_dropped(places, requests):
    configured = settings.DATABASES["default"]["NAME"]
    test = connection.creation.create_test_db(verbosity=0)
    try:
        with connection.schema_editor() as editor:
            editor.create_model(places)

        def view(request):
            write_and_read(places, 1)
            return HttpResponse(ask("SELECT current_database()"))

        assert requests(view).content.decode() == test != configured
    finally:
        connection.creation.destroy_test_db(configured, verbosity=0)
    with connection._nodb_cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [test])
        assert cursor.fetchone() is None


@pytest.mark.parametrize("engine", [OURS], indirect=True)
def test_the_engine_of_this_package_needs_no_request(places):
    def work():
        write_and_read(places, 1)
        held = stats()["in_use"]
        connection.close()
        return held, stats()["in_use"]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(work).result(30) == (1, 0)
