"""With a tracer or a profiler active, requests are pooled as they are without one.

Each package runs in a process of its own: see tests.process.traced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from django.conf import settings

from tests.conftest import Databases
from tests.library import IS_PSYCOPG, LIBRARY
from tests.process.projects import Project

TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
]


class Tracer(NamedTuple):
    """What a project adds to use a tracer."""

    module: str
    apps: tuple[str, ...] = ()
    middleware: str | None = None
    settings: Mapping[str, Any] = MappingProxyType({})
    environ: Mapping[str, str] = MappingProxyType({})
    #: Whether it makes a root span for each request.
    traces: bool = True


TRACERS = {
    "opentelemetry": Tracer(f"opentelemetry.instrumentation.{LIBRARY}"),
    "ddtrace": Tracer(
        "ddtrace",
        environ={
            "DD_DBM_PROPAGATION_MODE": "full",
            "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_CRASHTRACKING_ENABLED": "false",
        },
    ),
    "elasticapm": Tracer(
        "elasticapm",
        apps=("elasticapm.contrib.django",),
        middleware="elasticapm.contrib.django.middleware.TracingMiddleware",
        settings={
            "ELASTIC_APM": {
                "TRANSPORT_CLASS": "tests.process.project.elastic.KeptEvents",
                "CENTRAL_CONFIG": False,
                "CLOUD_PROVIDER": False,
                "METRICS_INTERVAL": "0s",
            }
        },
    ),
    "newrelic": Tracer(
        "newrelic",
        environ={
            "NEW_RELIC_APP_NAME": "shop",
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_DEVELOPER_MODE": "true",  # it connects to nothing
            **{
                f"NEW_RELIC_UTILIZATION_DETECT_{cloud}": "false"
                for cloud in ("AWS", "AZURE", "GCP", "PCF", "DOCKER", "KUBERNETES")
            },
        },
    ),
    "sentry": Tracer("sentry_sdk"),
    "debug_toolbar": Tracer(
        "debug_toolbar",
        apps=("django.contrib.staticfiles", "debug_toolbar"),
        middleware="debug_toolbar.middleware.DebugToolbarMiddleware",
        settings={
            "DEBUG": True,
            "INTERNAL_IPS": ["127.0.0.1"],
            "STATIC_URL": "/static/",
            "TEMPLATES": TEMPLATES,
        },
        traces=False,
    ),
    "silk": Tracer(
        "silk",
        apps=("silk",),
        middleware="silk.middleware.SilkyMiddleware",
        settings={"TEMPLATES": TEMPLATES},
        traces=False,
    ),
}


def is_missing(tracer: Tracer) -> bool:
    try:
        return find_spec(tracer.module) is None
    except ModuleNotFoundError:
        return True


def served(project: Project, name: str) -> dict[str, Any]:
    """Return the answers to the requests, the checks' messages and the spans."""
    tracer = TRACERS[name]
    project.settings |= {
        "ROOT_URLCONF": "tests.process.project.traced",
        "INSTALLED_APPS": [*settings.INSTALLED_APPS, *tracer.apps],
        "MIDDLEWARE": [*settings.MIDDLEWARE, *filter(None, [tracer.middleware])],
        **tracer.settings,
    }
    project.extra |= tracer.environ
    done = project.run("-m", "tests.process.traced", name)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, _databases: Databases
) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Run the tracers of the chosen tests, two at a time: most of it is imports."""
    chosen = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    with TemporaryDirectory(prefix="dbpool-", dir="/tmp") as directory:
        projects = {
            name: Project(_databases, Path(directory, name))
            for name in chosen
            if not is_missing(TRACERS[name])
        }
        with ThreadPoolExecutor(2) as threads:
            yield {
                name: threads.submit(served, project, name)
                for name, project in projects.items()
            }


@pytest.mark.parametrize("name", TRACERS)
def test_requests_are_pooled_and_the_pools_statements_make_no_spans(name, runs):
    if name not in runs:
        pytest.skip(f"no {TRACERS[name].module}: pip install --group test")
    found = runs[name].result()
    answers = found["answers"]
    by_page = {answer["page"]: answer for answer in answers}
    # One connection serves all, and nothing is lost.
    assert len({answer["backend"] for answer in answers}) == 1
    last = answers[-1]
    assert last["checkouts"] == len(answers)
    assert (last["opened"], last["in_use"], last["reclaimed"]) == (1, 0, 0)
    assert last["discarded"] == {}
    # A clean request costs no reset; a change may cost one, and reaches nobody.
    resets = 0
    for answer in answers:
        resets += answer["page"] in found["resets"]
        assert answer["resets"] == resets, answer
        if answer["page"] == "clean":
            assert answer["found"] == ["0", None, "", "read committed"]
    assert resets == len(found["resets"])
    # The transaction that Silk writes its rows in ends one that was left open; psycopg
    # refuses to begin it there.
    assert last["rollbacks"] == (name != "silk" or IS_PSYCOPG)
    refused = "cursor used after its connection was given back to the pool"
    assert by_page["uses"]["found"] == f"InterfaceError: {refused}"
    # The checks have nothing to say.
    assert [m for m in found["messages"] if "dbpool_mw" in m] == []
    # The tracer has seen the requests' statements, and none of the pool's own.
    names = [span for span, is_root in found["spans"] if not is_root]
    assert any("select" in span.lower() for span in names)
    pools_own = [s for s in names if s.upper().startswith(("CLOSE", "ROLLBACK"))]
    assert pools_own == []
    roots = [span for span, is_root in found["spans"] if is_root]
    assert len(roots) == (len(answers) if TRACERS[name].traces else 0), roots
