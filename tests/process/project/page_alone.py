"""The URLs of a project that shows the page of the pools without Django's admin."""

from django.urls import include, path

from tests.process.project.plain import urlpatterns as pages
from tests.process.project.users import log_in

urlpatterns = [
    *pages,
    path("log-in/<str:name>/", log_in),
    path("dbpool/", include("dbpool_mw.urls")),
]
