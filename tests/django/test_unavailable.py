"""The response to a refused request, and what is logged, without a server."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import sys

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.http import HttpResponse, HttpResponseRedirect
from django.template import Template
from django.template.response import SimpleTemplateResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.urls import path
from django.utils.log import AdminEmailHandler

from dbpool_mw.binding import errors, unavailable
from dbpool_mw.core.rate import RateLimit
from tests.core.fakes import HOSTILE, Clock

REASON = "pool 'default': no connection within 5.0 s"
HOLDERS = "1 in use; held by GET /secret/ in thread 7"
ERROR = errors.PoolTimeout("default", REASON, HOLDERS)

needs_groups = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="exception groups came with Python 3.11"
)


def raises(request):
    raise ERROR


def fails(request):
    raise ValueError("on purpose")


async def raises_async(request):
    raise ERROR


def group(*errors):
    """Make an exception group, which Python 3.10 has not."""
    return builtins.ExceptionGroup("unhandled errors", errors)


def raises_group(request):
    raise group(group(ERROR), errors.ConnectFailed("replica", "can't connect"))


def raises_mixed_group(request):
    raise group(ERROR, group(ERROR, ValueError("on purpose")))


def raises_from(request):
    raise ValueError("on purpose") from ERROR


async def raises_in_tasks(request):
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(raises_async(request))


urlpatterns = [
    path("raises/", raises),
    path("async/", raises_async),
    path("group/", raises_group),
    path("mixed/", raises_mixed_group),
    path("from/", raises_from),
    path("tasks/", raises_in_tasks),
    path("fails/", fails),
]


def busy(request, exception):
    return HttpResponse("mine", status=418)


def busy_until_friday(request, exception):
    headers = {"Retry-After": "172800", "Cache-Control": "max-age=60"}
    return HttpResponse("mine", status=503, headers=headers)


def moves(request, exception):
    return HttpResponseRedirect("https://status.example/")


def rendered_later(request, exception):
    return SimpleTemplateResponse("later.html", status=503)


def broken(request, exception):
    raise ValueError("the view is broken")


def broken_template(request, exception):
    return SimpleTemplateResponse("no_such_template.html")


def no_response(request, exception):
    return "busy"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Give the clock of the two rate limits, which begin anew."""
    clock = Clock()
    monkeypatch.setattr(unavailable, "_warnings", RateLimit(1, clock))
    monkeypatch.setattr(unavailable, "_tracebacks", RateLimit(60, clock))
    with override_settings(ROOT_URLCONF=__name__, DBPOOL_MW_EAGER=()):
        yield clock


@pytest.fixture(params=["wsgi", "asgi"])
def get(request):
    """Give a way to send a request through Django's handler, sync and async."""

    def get(path="/raises/", **headers):
        meta = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        if request.param == "wsgi":
            response = WSGIHandler().get_response(RequestFactory().get(path, **meta))
            response.close()
            return response
        return asyncio.run(get_async(AsyncRequestFactory().get(path, headers=headers)))

    async def get_async(sent):
        # As ASGIHandler does it: a thread of the request's own, which closes it.
        async with ThreadSensitiveContext():
            response = await ASGIHandler().get_response_async(sent)
            await sync_to_async(response.close)()
        return response

    return get


@pytest.fixture
def mails(monkeypatch):
    """Give the subjects of the mails that Django's default LOGGING sends to ADMINS."""
    sent = []
    monkeypatch.setattr(
        AdminEmailHandler,
        "send_mail",
        lambda self, subject, *_, **__: sent.append(subject),
    )
    return sent


def logged(caplog, name="dbpool_mw.pool"):
    return [record for record in caplog.records if record.name == name]


def templates(tmp_path, **settings):
    """Return settings with a template folder, in which the test may write."""
    backend = "django.template.backends.django.DjangoTemplates"
    return override_settings(
        TEMPLATES=[{"BACKEND": backend, "DIRS": [str(tmp_path)]}], **settings
    )


# --- What the client gets -------------------------------------------------------------


@pytest.mark.parametrize("path", ["/raises/", "/async/"])
def test_a_view_without_a_connection_is_answered_with_a_plain_page(get, path):
    response = get(path)
    assert response.status_code == 503
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert response["Retry-After"] == "5"
    assert response["Cache-Control"] == "no-store"
    text = response.content.decode()
    assert "Service Unavailable" in text
    assert "pool" not in text
    assert "default" not in text


@needs_groups
@pytest.mark.parametrize("path", ["/group/", "/tasks/"])
def test_a_group_of_nothing_but_pool_errors_is_answered_by_its_first(
    get, path, caplog, mails
):
    response = get(path)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    (warning,) = logged(caplog)
    assert f"503 for GET {path}: {REASON}; {HOLDERS}" in warning.getMessage()
    assert logged(caplog, "django.request") == mails == []


@pytest.mark.parametrize(
    "path", [pytest.param("/mixed/", marks=needs_groups), "/from/"]
)
def test_an_error_of_the_project_beside_or_after_a_pools_stays_a_500(get, path, caplog):
    assert get(path).status_code == 500
    assert logged(caplog) == []


@override_settings(DBPOOL_MW_POOLS={"default": {"TIMEOUT": 12.5}})
def test_retry_after_is_the_timeout_of_the_alias_that_had_no_connection(get):
    assert get()["Retry-After"] == "13"


def test_an_error_of_another_process_names_an_alias_that_has_no_pool_here():
    elsewhere = errors.PoolTimeout("elsewhere", "pool 'elsewhere': no connection")
    response = unavailable.respond(RequestFactory().get("/"), elsewhere)
    assert response["Retry-After"] == "5"


def test_json_says_the_same_without_the_pool_and_the_reason(get):
    response = get(accept="application/json, text/plain, */*")
    assert response["Content-Type"] == "application/json"
    answer = json.loads(response.content)
    assert (answer["error"], answer["retry_after"]) == ("unavailable", 5)
    assert "pool" not in answer["detail"]


@override_settings(DEBUG=True)
def test_under_debug_the_response_has_the_reason_and_the_holders(get, tmp_path):
    (tmp_path / "503.html").write_text("mine")
    with templates(tmp_path, DEBUG=True):
        page = get().content.decode()
        answer = json.loads(get(accept="application/json").content)
    assert "pool &#x27;default&#x27;: no connection within 5.0 s" in page
    assert HOLDERS in page
    assert f"{REASON}; {HOLDERS}" in answer["detail"]


def test_the_template_of_the_project_is_rendered_without_the_request(get, tmp_path):
    (tmp_path / "base.html").write_text("<p>{% block body %}{% endblock %}</p>")
    (tmp_path / "503.html").write_text(
        "{% extends 'base.html' %}{% block body %}{{ retry_after }} {{ request }}"
        "{% endblock %}"
    )
    with templates(tmp_path):
        response = get(accept="text/html")
        assert get(accept="application/json")["Content-Type"] == "application/json"
    assert response.content == b"<p>5 </p>"
    assert response.status_code == 503
    assert (response["Retry-After"], response["Cache-Control"]) == ("5", "no-store")


def test_the_template_is_compiled_once_for_all_refusals(get, tmp_path, monkeypatch):
    compiled = []
    compile_nodelist = Template.compile_nodelist

    def counting(self):
        compiled.append(self.name)
        return compile_nodelist(self)

    monkeypatch.setattr(Template, "compile_nodelist", counting)
    (tmp_path / "503.html").write_text("busy")
    with templates(tmp_path):
        assert [get().content for _ in range(3)] == [b"busy"] * 3
    assert compiled == ["503.html"]


@pytest.mark.parametrize("source", ["{% nonsense %}", "{% include 'none.html' %}"])
def test_a_broken_template_is_logged_and_the_plain_page_is_sent(
    get, tmp_path, caplog, clock, source
):
    (tmp_path / "503.html").write_text(source)
    with templates(tmp_path):
        assert b"Service Unavailable" in get().content
        clock.advance(59)
        assert get().status_code == 503
        clock.advance(1)
        get()
    failures = [record for record in logged(caplog) if record.exc_info]
    assert len(failures) == 2
    assert "503.html failed" in failures[0].getMessage()


# --- Raised by middleware -------------------------------------------------------------


def raises_before(get_response):
    def middleware(request):
        raise ERROR

    return middleware


@pytest.mark.parametrize("outside", [False, True])
def test_an_error_that_middleware_raises_is_djangos_500(get, caplog, outside):
    order = [
        "dbpool_mw.middleware.ConnectionPoolMiddleware",
        f"{__name__}.raises_before",
    ]
    with override_settings(MIDDLEWARE=order[::-1] if outside else order):
        # It has no template, and so the page is a plain one.
        assert get().status_code == 500
    assert [r.levelname for r in logged(caplog, "django.request")] == ["ERROR"]


# --- A view of the project's own ------------------------------------------------------


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.busy")
def test_the_projects_view_keeps_its_status_and_gets_the_headers(get):
    response = get()
    assert (response.status_code, response.content) == (418, b"mine")
    assert (response["Retry-After"], response["Cache-Control"]) == ("5", "no-store")


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.busy_until_friday")
def test_headers_that_the_projects_view_sets_are_kept(get):
    response = get()
    assert response["Retry-After"] == "172800"
    assert response["Cache-Control"] == "max-age=60"


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.moves")
def test_the_projects_view_may_redirect(get):
    assert get().status_code == 302


@pytest.mark.parametrize("lazy", [False, True])
@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW=f"{__name__}.rendered_later")
def test_a_template_response_of_the_projects_view_is_rendered(get, tmp_path, lazy):
    (tmp_path / "later.html").write_text("later")
    # Not lazy: nothing listens at the address in the settings.
    with templates(tmp_path, DBPOOL_MW_EAGER=() if lazy else ("default",)):
        assert get().content == b"later"


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("view", [broken, broken_template, no_response])
def test_a_view_that_fails_is_logged_and_the_packages_response_is_sent(
    get, caplog, view, lazy
):
    name = f"{__name__}.{view.__name__}"
    with override_settings(
        DBPOOL_MW_UNAVAILABLE_VIEW=name, DBPOOL_MW_EAGER=() if lazy else ("default",)
    ):
        response = get()
    assert response.status_code == 503
    assert b"Service Unavailable" in response.content
    assert "Retry-After" in response.headers
    (failure,) = [record for record in logged(caplog) if record.exc_info]
    assert f"DBPOOL_MW_UNAVAILABLE_VIEW = '{name}' failed" in failure.getMessage()


@override_settings(DBPOOL_MW_UNAVAILABLE_VIEW="no.such.view")
def test_a_view_that_cannot_be_imported_is_logged_and_a_503_is_sent(caplog):
    """A server doesn't start with it; a setting may change later."""
    response = unavailable.respond(RequestFactory().get("/"), ERROR)
    assert response.status_code == 503
    assert [record.levelname for record in logged(caplog)] == ["WARNING", "ERROR"]


# --- What is logged -------------------------------------------------------------------


@pytest.mark.parametrize("view", [None, f"{__name__}.busy_until_friday"])
@pytest.mark.parametrize("lazy", [False, True])
def test_django_logs_no_error_and_mails_nobody(get, caplog, mails, view, lazy):
    signals = []

    def receiver(**signal):
        signals.append(signal)

    got_request_exception.connect(receiver)
    try:
        with override_settings(
            DBPOOL_MW_UNAVAILABLE_VIEW=view,
            DBPOOL_MW_EAGER=() if lazy else ("default",),
            ADMINS=["admin@example.com"],
        ):
            assert get().status_code == 503
            assert (logged(caplog, "django.request"), mails, signals) == ([], [], [])
            # The view that fails shows that Django would have done so.
            with override_settings(DBPOOL_MW_EAGER=()):
                assert get("/fails/").status_code == 500
    finally:
        got_request_exception.disconnect(receiver)
    assert len(logged(caplog, "django.request")) == len(mails) == len(signals) == 1


def test_one_warning_a_second_stands_for_all_refusals(get, caplog, clock):
    for _ in range(28):
        get()
    clock.advance(1.25)
    get()
    first, second = [record.getMessage() for record in logged(caplog)]
    assert "GET /raises/" in first
    assert REASON in first
    assert HOLDERS in first
    assert "more" not in first
    assert second == first + " (and 27 more in the last 1.2 s)"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_the_warning_is_one_printable_line_whatever_was_asked(
    text, accept, debug, caplog
):
    request = RequestFactory().get("/", headers={"Accept": accept})
    request.method = request.path = text
    error = errors.PoolTimeout("default", f"pool 'default': {text}", f"held by {text}")
    with override_settings(DEBUG=debug):
        response = unavailable.respond(request, error)
    (message,) = caplog.messages
    assert message.startswith("503 for ")
    assert message.isprintable()
    assert len(message) < 10_000
    assert response.status_code == 503
    assert ("held by" in response.content.decode()) <= debug
    assert len(response.content) < 10_000


def test_the_warning_names_the_request_and_the_holders(caplog):
    request = RequestFactory().get("/a%0Ab/")
    unavailable.respond(request, errors.PoolTimeout("default", "no connection", "held"))
    assert caplog.messages == ["503 for GET /a\\nb/: no connection; held"]


def test_a_log_handler_that_raises_does_not_take_the_503_away(get):
    class Failing(logging.Handler):
        def emit(self, record):
            raise OSError("the disk is full")

    handler = Failing()
    logger = logging.getLogger("dbpool_mw.pool")
    logger.addHandler(handler)
    try:
        assert get().status_code == 503
    finally:
        logger.removeHandler(handler)
