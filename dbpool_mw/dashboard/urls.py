"""The routes of the page on its own, which ``dbpool_mw.urls`` includes."""

from __future__ import annotations

from dbpool_mw.dashboard.views import Pages

urlpatterns = Pages("dashboard").urls("dashboard")
