"""The pages of the comparison, and the sandbox's for those that fail and stream."""

from __future__ import annotations

from django.urls import path

from sandbox.compare.project import views
from sandbox.shop import views as shop

handler500 = "sandbox.shop.views.sorry"

urlpatterns = [
    path("selects/", views.selects),
    path("plain/", shop.plain),
    path("outside/", views.outside),
    path("slow/", shop.slow),
    path("fail/", shop.fail),
    path("stream/", shop.stream),
    path("health/", views.health),
]
