"""URLs for programs: ``path("dbpool/", include("dbpool_mw.urls"))``."""

from __future__ import annotations

from django.urls import path

from dbpool_mw.views.health import livez, readyz
from dbpool_mw.views.metrics import metrics

app_name = "dbpool_mw"
urlpatterns = [
    path("metrics", metrics, name="metrics"),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
]
