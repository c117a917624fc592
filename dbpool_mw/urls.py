"""The pages of this package: ``path("dbpool/", include("dbpool_mw.urls"))``."""

from __future__ import annotations

from django.urls import path

from dbpool_mw.dashboard.urls import urlpatterns as dashboard
from dbpool_mw.views.health import livez, readyz
from dbpool_mw.views.metrics import metrics

app_name = "dbpool_mw"
urlpatterns = [
    *dashboard,
    path("metrics", metrics, name="metrics"),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
]
