"""Run the system checks, and optionally requests, on the settings of a test.

A program that needs DJANGO_SETTINGS_MODULE and prints JSON. The arguments are aliases,
like those of ``manage.py check --database``. If the first argument is ``serve``, each
pooled alias also serves one request more at once than its pool may have connections.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import django
from django.core.checks import run_checks
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connections
from django.http import JsonResponse
from django.test import RequestFactory
from django.urls import path

from dbpool_mw import conf
from dbpool_mw.binding import registry
from tests.process.servers import wait_until

held = threading.Event()


def view(request: Any, alias: str) -> JsonResponse:
    """Query, and hold the connection until the last request waits for one."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('timezone')")
        _, zone = cursor.fetchone()
    assert held.wait(20)
    pid = connections[alias].connection.info.backend_pid
    return JsonResponse({"pid": pid, "zone": zone})


urlpatterns = [path("<alias>/", view)]


def get(alias: str) -> Any:
    """Serve one request, from request_started to request_finished."""
    handler = WSGIHandler()
    request = RequestFactory().get(f"/{alias}/")
    request_started.send(sender=type(handler), environ=request.environ)
    response = handler.get_response(request)
    response._handler_class = type(handler)  # type: ignore[attr-defined]
    response.close()
    assert response.status_code == 200, response.content
    return json.loads(response.content)


def pool_of(alias: str) -> Any:
    """Return the pool of an alias, None until it is made."""
    return next((pool for pool in registry.pools() if pool.name == alias), None)


def is_full(alias: str, number: int) -> bool:
    """Return whether ``number`` requests hold a connection and one waits."""
    pool = pool_of(alias)
    stats = pool.stats() if pool is not None else {"in_use": 0, "waiting": 0}
    return (stats["in_use"], stats["waiting"]) == (number, 1)


def serve(alias: str) -> dict[str, Any]:
    """Serve one request more than the pool has connections, all at once."""
    held.clear()
    number = conf.config_for(alias).max_conns
    with ThreadPoolExecutor(number + 1) as threads:
        answers = [threads.submit(get, alias) for _ in range(number + 1)]
        try:
            wait_until(
                lambda: is_full(alias, number),
                f"{number} requests hold a connection and one waits",
            )
        finally:
            held.set()
        served = [answer.result() for answer in answers]
    pool = pool_of(alias)
    wait_until(lambda: pool.stats()["in_use"] == 0, "all connections were returned")
    return {
        "config": asdict(pool.config),
        "served": len(served),
        "connections": len({answer["pid"] for answer in served}),
        "zones": sorted({answer["zone"] for answer in served}),
    }


def main(serves: bool, databases: list[str]) -> None:
    """Print the messages of the checks, and what was served."""
    django.setup()
    messages = run_checks(databases=databases or None)
    print(
        json.dumps(
            {
                "messages": [[m.id, m.msg, m.hint] for m in messages],
                "pools": {a: serve(a) for a in conf.pooled_aliases()} if serves else {},
            }
        )
    )


if __name__ == "__main__":
    main("serve" in sys.argv[1:2], [a for a in sys.argv[1:] if a != "serve"])
