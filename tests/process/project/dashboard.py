"""The URLs of a project with the page of the pools, and its static files."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.http import HttpResponse
from django.urls import include, path, re_path

from dbpool_mw.decorators import no_pool
from tests.process.project.plain import urlpatterns as pages
from tests.process.project.users import log_in


@no_pool
def favicon(request):
    return HttpResponse(status=204)


urlpatterns = [
    *pages,
    path("favicon.ico", favicon),
    path("log-in/<str:name>/", log_in),
    path("admin/", admin.site.urls),
    path("dbpool/", include("dbpool_mw.urls")),
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
]
