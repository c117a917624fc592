"""The shop's pages: each is one way in which a request uses its connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import render

from dbpool_mw.decorators import no_pool
from sandbox.shop.models import Category, Product, Review

LONGEST_SLEEP = 30.0


class OutOfStockError(Exception):
    """The exception that ``/fail/`` raises after a query."""


def home(request: HttpRequest) -> HttpResponse:
    """Show the simple page: four selects and a template."""
    context = {
        "categories": Category.objects.all(),
        "products": Product.objects.select_related("category")[:10],
        "reviews": Review.objects.select_related("product")[:5],
        "total": Product.objects.count(),
    }
    return render(request, "shop/home.html", context)


def plain(request: HttpRequest) -> HttpResponse:
    """Answer without a query."""
    return HttpResponse("A page that asks the database nothing.\n", "text/plain")


def slow(request: HttpRequest) -> HttpResponse:
    """Run a query that sleeps for ``?seconds=``, 0.2 unless given."""
    try:
        seconds = float(request.GET.get("seconds", "0.2"))
    except ValueError:
        return HttpResponseBadRequest("seconds must be a number.\n", "text/plain")
    seconds = min(max(seconds, 0.0), LONGEST_SLEEP)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
    return HttpResponse(f"The database slept for {seconds} s.\n", "text/plain")


def fail(request: HttpRequest) -> HttpResponse:
    """Query, then raise: the request ends in the 500 page."""
    total = Product.objects.count()
    raise OutOfStockError(f"none of the {total} products is left")


def sorry(request: HttpRequest) -> HttpResponse:
    """Show the 500 page, which makes a query too."""
    names = ", ".join(Category.objects.values_list("name", flat=True))
    text = f"Sorry, that went wrong. Try one of our shelves: {names}.\n"
    return HttpResponse(text, "text/plain", status=500)


def _line(product: Product) -> str:
    return f"{product.slug};{product.price}\n"


def _last_line(rows: int) -> str:
    return f"end of the list, {rows} products\n"


def _rows() -> Iterator[str]:
    rows = 0
    for product in Product.objects.iterator(chunk_size=50):
        rows += 1
        yield _line(product)
    yield _last_line(rows)


async def _rows_async() -> AsyncIterator[str]:
    rows = 0
    async for product in Product.objects.aiterator(chunk_size=50):
        rows += 1
        yield _line(product)
    yield _last_line(rows)


def stream(request: HttpRequest) -> HttpResponseBase:
    """Send the products while they are read: queries run after the view returned."""
    rows = _rows_async() if isinstance(request, ASGIRequest) else _rows()
    return StreamingHttpResponse(rows, content_type="text/plain")


async def listing(request: HttpRequest) -> HttpResponse:
    """Answer from an async view with the async ORM."""
    products = [product.name async for product in Product.objects.all()[:10]]
    return JsonResponse({"total": await Product.objects.acount(), "newest": products})


@no_pool
def health(request: HttpRequest) -> HttpResponse:
    """Answer without a checkout: the page needs no database."""
    return HttpResponse("ok\n", "text/plain")
