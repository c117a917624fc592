"""The URLs of the sandbox's pages."""

from __future__ import annotations

from django.conf import settings
from django.urls import include, path

from sandbox.shop import views

handler500 = "sandbox.shop.views.sorry"

urlpatterns = [
    path("", views.home, name="home"),
    path("plain/", views.plain, name="plain"),
    path("slow/", views.slow, name="slow"),
    path("fail/", views.fail, name="fail"),
    path("stream/", views.stream, name="stream"),
    path("async/", views.listing, name="async"),
    path("health/", views.health, name="health"),
]
if "dbpool_mw" in settings.INSTALLED_APPS:
    urlpatterns.append(path("dbpool/", include("dbpool_mw.urls")))
