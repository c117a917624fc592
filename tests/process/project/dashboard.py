"""The page of the pools in the test project: URLs, static files, a strict policy."""

import secrets

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.http import HttpResponse
from django.urls import include, path, re_path

from dbpool_mw.decorators import no_pool
from tests.process.project.urls import urlpatterns as pages

#: Nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'"
)


class Policy:
    """Send a policy with each response, as a project does before Django 6."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


class Nonces:
    """Send a policy with a nonce, as a project with Django 6 or django-csp does."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request.csp_nonce = nonce = secrets.token_urlsafe(16)
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; "
            f"style-src 'nonce-{nonce}'; connect-src 'self'; img-src 'self'; "
            "form-action 'self'; base-uri 'none'; "
            "require-trusted-types-for 'script'; trusted-types dbpool_mw"
        )
        return response


def log_in(request, name):
    """Begin a session for a user of the tests."""
    from django.contrib.auth import get_user_model, login

    user = get_user_model().objects.get(username=name)
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse("well")


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
