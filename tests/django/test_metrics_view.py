"""The page of metrics: who may see it, and what it says without a database."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path, reverse
from prometheus_client.parser import text_string_to_metric_families

from dbpool_mw import decorators
from dbpool_mw.control.server import ControlServer
from dbpool_mw.views.access import is_permitted
from tests.control.fakes import FakeWorker, pool
from tests.documents import ROOT

TOKEN = "correct-horse-battery"
BEARER = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}

urlpatterns = [path("pool/", include("dbpool_mw.urls"))]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__, MIDDLEWARE=[], DBPOOL_MW_METRICS_TOKEN=TOKEN
    ):
        yield


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    """Have one worker, which reports what the test says."""
    with tempfile.TemporaryDirectory(prefix="dbp", dir="/tmp") as name:
        fake = FakeWorker(pool("default", in_use=3))
        server = ControlServer(Path(name), fake)
        assert server.start()
        with override_settings(DBPOOL_MW_CONTROL_DIR=name):
            yield fake
        server.stop()


def get(**headers: str) -> HttpResponse:
    response: Any = Client().get("/pool/metrics", **headers)
    return response


def allows(user: object = None, **headers: str) -> bool:
    request = RequestFactory().get("/pool/metrics", **headers)
    if user is not None:
        request.user = user  # type: ignore[assignment]
    return is_permitted(request)


def test_the_page_has_the_figures_of_a_worker(worker: FakeWorker) -> None:
    response = get(**BEARER)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    text = response.content.decode()
    assert f'dbpool_mw_worker_up{{pid="{os.getpid()}"}} 1' in text
    (used,) = [line for line in text.split("\n") if 'state="used"' in line]
    assert used.endswith(" 3")
    assert worker.verbs == ["stats"]


def test_prometheus_reads_what_others_wrote(worker: FakeWorker) -> None:
    worker.pools = [pool('a"b\\c\nd', address="\x1b[2J\udcff", in_use=3)]
    text = get(**BEARER).content.decode()
    (count,) = [
        family
        for family in text_string_to_metric_families(text)
        if family.name == "db_client_connection_count"
    ]
    used = {sample.value: set(sample.labels.values()) for sample in count.samples}[3]
    assert used >= {'a"b\\c\nd', r"\x1b[2J\udcff", str(os.getpid())}


def test_the_page_has_a_name() -> None:
    assert reverse("dbpool_mw:metrics") == "/pool/metrics"


def test_a_request_for_the_page_checks_no_connection_out() -> None:
    assert decorators.needs_no_pool(RequestFactory().get("/pool/metrics"))


def test_a_request_that_may_not_see_it_is_told_what_to_set(worker: FakeWorker) -> None:
    response = get()
    assert response.status_code == 403
    text = response.content.decode()
    assert "DBPOOL_MW_METRICS_TOKEN" in text
    assert "DBPOOL_MW_METRICS_LOOPBACK" in text
    assert TOKEN not in text
    assert worker.requests == []


@pytest.mark.parametrize(
    "header",
    [
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer{TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ",
        "Bearer None",
        "Bearer é",
        "",
    ],
)
def test_another_token_is_refused(header: str) -> None:
    assert not allows(HTTP_AUTHORIZATION=header)


def test_the_scheme_of_the_token_has_no_case() -> None:
    assert allows(HTTP_AUTHORIZATION=f"bearer  {TOKEN} ")


@pytest.mark.parametrize("header", ["Bearer ", "Bearer None", "Bearer"])
def test_without_the_setting_no_token_is_right(header: str) -> None:
    with override_settings(DBPOOL_MW_METRICS_TOKEN=None):
        assert not allows(HTTP_AUTHORIZATION=header)


def test_by_default_loopback_is_refused() -> None:
    assert not allows(REMOTE_ADDR="127.0.0.1")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.3.4.5", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
@override_settings(DBPOOL_MW_METRICS_LOOPBACK=True)
def test_loopback_is_told_by_the_address(address: str, allowed: bool) -> None:
    assert allows(REMOTE_ADDR=address) is allowed


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "Via",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Original-Forwarded-For",  # ingress-nginx
        "X-Real-IP",  # nginx, Traefik
        "X-Client-IP",  # Azure App Service
        "Client-IP",
        "True-Client-IP",  # Akamai
        "CF-Connecting-IP",  # Cloudflare, whose tunnel ends on the host
        "DO-Connecting-IP",  # DigitalOcean
        "Fastly-Client-IP",
        "Fly-Client-IP",
        "X-Appengine-User-IP",
        "X-Azure-ClientIP",
        "X-Azure-SocketIP",
        "X-Cluster-Client-IP",
        "WL-Proxy-Client-IP",
        "X-Envoy-External-Address",
        "CloudFront-Viewer-Address",
    ],
)
@override_settings(DBPOOL_MW_METRICS_LOOPBACK=True)
def test_what_a_proxy_passed_on_is_not_from_loopback(header: str) -> None:
    name = f"HTTP_{header.upper().replace('-', '_')}"
    headers = {"REMOTE_ADDR": "127.0.0.1", name: "127.0.0.1"}
    assert not allows(**headers)
    assert allows(**headers, **BEARER)


@override_settings(DBPOOL_MW_METRICS_LOOPBACK=True)
def test_what_prometheus_sends_from_loopback_is_no_proxys() -> None:
    assert allows(
        REMOTE_ADDR="127.0.0.1",
        HTTP_HOST="127.0.0.1:8000",
        HTTP_ACCEPT="application/openmetrics-text;version=1.0.0,*/*;q=0.1",
        HTTP_ACCEPT_ENCODING="gzip",
        HTTP_USER_AGENT="Prometheus/3.7.0",
        HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS="10",
    )


def test_staff_may_see_it_and_other_users_may_not() -> None:
    assert allows(SimpleNamespace(is_active=True, is_staff=True))
    assert not allows(SimpleNamespace(is_active=True, is_staff=False))
    assert not allows(SimpleNamespace(is_active=False, is_staff=True))
    assert not allows(object())


def test_who_has_the_token_is_not_asked_whether_they_are_staff() -> None:
    class Asked:
        @property
        def is_active(self) -> bool:
            raise AssertionError("the user is in the database")

    assert allows(Asked(), **BEARER)


def test_only_get_and_head_are_allowed(worker: FakeWorker) -> None:
    client = Client(enforce_csrf_checks=True)
    with override_settings(
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    ):
        for method in (client.post, client.put, client.delete):
            assert method("/pool/metrics", **BEARER).status_code == 405
        assert client.head("/pool/metrics", **BEARER).status_code == 200
    assert worker.verbs == ["stats"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"DBPOOL_MW_CONTROL_DIR": False}, "DBPOOL_MW_CONTROL_DIR is False"),
        ({"DBPOOL_MW_CONTROL_DIR": "/nowhere/at/all"}, "in /nowhere/at/all"),
        ({"DBPOOL_MW_CONTROL_DIR": "/tmp"}, "can't be used: /tmp "),
        ({"DBPOOL_MW_ENABLED": False}, "DBPOOL_MW_ENABLED is False"),
    ],
)
def test_without_workers_the_page_says_why_and_logs_nothing(
    settings: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(**settings), caplog.at_level(logging.DEBUG):
        response = get(**BEARER)
    assert response.status_code == 503
    assert reason in response.content.decode()
    assert caplog.records == []


def test_a_secret_in_the_settings_is_not_shown_to_who_may_not_see_the_page() -> None:
    with override_settings(DBPOOL_MW_CONTROL_DIR=False):
        assert get().status_code == 403


def test_what_the_project_does_not_name_is_not_imported() -> None:
    code = (
        "import sys, django; django.setup();"
        "import dbpool_mw.middleware, dbpool_mw.urls, dbpool_mw.binding.binding;"
        "print({'prometheus_client', 'opentelemetry'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == "set()\n", done.stderr
