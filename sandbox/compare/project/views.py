"""The pages that the subjects are asked for; none of them knows how it connects."""

from __future__ import annotations

import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.module_loading import import_string

from sandbox.shop.models import Category, Product, Review


def selects(request: HttpRequest) -> HttpResponse:
    """Answer with what three selects return."""
    products = list(Product.objects.values_list("name", flat=True)[:10])
    reviews = list(Review.objects.values_list("author", flat=True)[:5])
    total = Category.objects.count()
    return JsonResponse({"products": products, "reviews": reviews, "total": total})


def outside(request: HttpRequest) -> HttpResponse:
    """Select, wait ``?seconds=`` for another service, by a sleep, and select again."""
    before = Category.objects.count()
    with import_string(settings.AWAY)():
        time.sleep(float(request.GET["seconds"]))
    after = Product.objects.count()
    return HttpResponse(f"{before} shelves, {after} products\n", "text/plain")


def health(request: HttpRequest) -> HttpResponse:
    """Answer without a query: the server is up."""
    return HttpResponse("ok\n", "text/plain")
