"""Serve requests while a tracer is active, and print what came of them as JSON.

The argument names the tracer. It is switched on as its documentation says, before
Django is loaded, and sends nothing: what it would send is kept. A program of its own,
because tracers patch the process that they are in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests.library import IS_PSYCOPG
from tests.process.servers import wait_until


class Span(NamedTuple):
    """What a tracer tells of a statement, or of a request: a root span."""

    name: str
    is_root: bool


#: Returns the spans that were made until now.
Spans = Callable[[], Iterable[Span]]


def opentelemetry() -> Spans:
    from opentelemetry import trace
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    if IS_PSYCOPG:
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

        PsycopgInstrumentor().instrument(enable_commenter=True)
    else:
        from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor

        Psycopg2Instrumentor().instrument(enable_commenter=True)
    DjangoInstrumentor().instrument(is_sql_commentor_enabled=True)
    return lambda: [
        Span(span.name, span.parent is None) for span in kept.get_finished_spans()
    ]


def ddtrace() -> Spans:
    import ddtrace.auto  # noqa: F401
    from ddtrace import tracer
    from ddtrace.trace import TraceFilter

    kept: list[Span] = []

    class Keep(TraceFilter):
        def process_trace(self, trace: list[Any]) -> None:
            kept.extend(Span(s.resource, s.parent_id is None) for s in trace)

    tracer.configure(trace_processors=[Keep()])
    return lambda: kept


def elasticapm() -> Spans:
    def spans() -> list[Span]:
        from tests.process.project.elastic import KeptEvents

        return [
            Span(event["name"], kind == "transaction")
            for kind, event in KeptEvents.events
            if kind in ("transaction", "span")
        ]

    return spans


def newrelic() -> Spans:
    import newrelic.agent

    newrelic.agent.initialize()
    application = newrelic.agent.register_application(timeout=10)

    def spans() -> list[Span]:
        from newrelic.core.agent import agent_instance

        # It keeps sums of the statements, by kind, and of the requests.
        found = []
        metrics = agent_instance().application(application.name)._stats_engine
        for (name, scope), figures in metrics.stats_table.items():
            is_root = name in ("WebTransaction", "OtherTransaction/all")
            if is_root or (name.startswith("Datastore/operation/") and scope):
                found += [Span(name, is_root)] * figures.call_count
        return found

    return spans


def sentry() -> Spans:
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.transport import Transport

    kept: list[Span] = []

    def keep(event: Any, hint: Any) -> None:
        kept.append(Span(event["transaction"], True))
        kept.extend(Span(span["description"], False) for span in event["spans"])

    class Nowhere(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        transport=Nowhere,
        traces_sample_rate=1.0,
        before_send_transaction=keep,
        integrations=[DjangoIntegration(middleware_spans=True, signals_spans=True)],
    )
    return lambda: kept


def debug_toolbar() -> Spans:
    toolbars: list[Any] = []

    def spans() -> list[Span]:
        panels = [toolbar.get_panel_by_id("SQLPanel") for toolbar in toolbars]
        return [
            Span(query["sql"], False)
            for panel in panels
            for query in panel.get_stats()["queries"]
        ]

    def keep(toolbar: Any, **signal: Any) -> None:
        toolbars.append(toolbar)

    def start() -> None:
        from debug_toolbar.toolbar import DebugToolbar

        DebugToolbar._created.connect(keep, weak=False)

    later.append(start)
    return spans


def silk() -> Spans:
    def start() -> None:
        from django.core.management import call_command

        call_command("migrate", "silk", verbosity=0)

    def spans() -> list[Span]:
        from silk.models import SQLQuery

        return [Span(query.query, False) for query in SQLQuery.objects.all()]

    later.append(start)
    return spans


#: What a tracer has to do when Django is loaded.
later: list[Callable[[], None]] = []

TRACERS = {
    function.__name__: function
    for function in (
        opentelemetry,
        ddtrace,
        elasticapm,
        newrelic,
        sentry,
        debug_toolbar,
        silk,
    )
}


def main(tracer: str) -> None:
    """Print the facts."""
    spans = TRACERS[tracer]()

    from django.core.checks import run_checks
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django.test import RequestFactory

    application = get_wsgi_application()
    for start in later:
        start()

    from dbpool_mw import pooled
    from dbpool_mw.binding import registry
    from tests.process.project.traced import CHANGES, RESETS

    def get(page: str) -> dict[str, Any]:
        environ = RequestFactory().get(f"/{page}/").environ
        response = application(environ, lambda status, headers, error=None: None)
        body = b"".join(response)
        response.close()
        (figures,) = registry.stats()
        return {"page": page, **figures, **json.loads(body)}

    pages = ["clean"] * 3
    for change in CHANGES:
        pages += [change, "clean"]
    pages += ["begins", "clean", "keeps", "uses"]
    answers = [get(page) for page in pages]
    found = {
        "answers": answers,
        "resets": RESETS,
        "messages": [str(message) for message in run_checks()],
        "spans": list(spans()),
    }
    with pooled():
        connection.ensure_connection()
        raw = connection.connection
    registry.close()
    wait_until(lambda: raw.closed, "the pool closes what the tracer has wrapped", 5)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
