"""A page without queries, one with, and one that fails."""

from django.http import HttpResponse
from django.urls import path

from tests.django.users.shelf.models import Book


def plain(request):
    return HttpResponse("plain")


def count(request):
    return HttpResponse(str(Book.objects.count()))


def add(request):
    Book.objects.create(title="added")
    return HttpResponse(str(Book.objects.count()))


def fail(request):
    Book.objects.create(title="failed")
    raise ValueError("on purpose")


def both(request):
    return HttpResponse(
        f"{Book.objects.count()} {Book.objects.using('replica').count()}"
    )


urlpatterns = [
    path("plain/", plain),
    path("count/", count),
    path("books/", count),
    path("add/", add),
    path("fail/", fail),
    path("both/", both),
]
