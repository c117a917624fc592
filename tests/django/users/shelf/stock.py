"""Work on books outside of requests, and views that use it."""

from concurrent.futures import ThreadPoolExecutor

from django.db import close_old_connections
from django.http import HttpResponse
from django.urls import path

from dbpool_mw import pooled
from tests.django.users.shelf.models import Book


@pooled
def count(_=None):
    return Book.objects.count()


@pooled
def restock(title):
    Book.objects.create(title=title)


def count_and_close(_=None):
    try:
        return Book.objects.count()
    finally:
        close_old_connections()


@pooled
async def acount():
    return await Book.objects.acount()


def count_in_threads(function, calls=12):
    with ThreadPoolExecutor(calls) as threads:
        return list(threads.map(function, range(calls)))


def spread(request):
    with pooled():
        Book.objects.create(title="added")
        return HttpResponse(str(count()))


urlpatterns = [path("spread/", spread)]
