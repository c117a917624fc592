"""Reports of workers without a database, and a handler that records requests."""

from __future__ import annotations

import os
import selectors
import threading
from typing import Any

from dbpool_mw.core import metrics


def histogram(*seconds: float) -> dict[str, Any]:
    counted = metrics.Histogram()
    for value in seconds:
        counted.record(value)
    return counted.as_dict()


def pool(alias: object = "default", **changes: Any) -> dict[str, Any]:
    return {
        "alias": alias,
        "address": "shop/app@db1:5432",
        "database": "shop",
        "state": "running",
        **dict.fromkeys(metrics.SUMMED, 0),
        "max": 10,
        **dict.fromkeys(metrics.GREATEST, 0.0),
        **{key: {} for key in metrics.LABELLED},
        **{key: histogram() for key in metrics.HISTOGRAMS},
        "recent": {window: metrics.empty_window() for window in metrics.WINDOWS},
        **changes,
    }


def holder(alias: object = "default", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{os.getpid()}-1-3e8",
        "alias": alias,
        "address": "shop/app@db1:5432",
        "backend_pid": 4242,
        "thread": "ThreadPoolExecutor-0_1",
        "method": "GET",
        "path": "/slow/",
        "route": "slow/",
        "seconds": 1.25,
        "stale": False,
        "leaked": False,
        "stack": [],
        "state": "in use",
        "in_transaction": False,
        "statement": None,
        **changes,
    }


def waiter(alias: object = "default", **changes: Any) -> dict[str, Any]:
    return {
        "alias": alias,
        "address": "shop/app@db1:5432",
        "seconds": 0.75,
        "thread": "ThreadPoolExecutor-0_2",
        "method": "GET",
        "path": "/waits/",
        "route": None,
        **changes,
    }


def pool_settings(alias: object = "default", **changes: Any) -> dict[str, Any]:
    return {
        "alias": alias,
        "address": "shop/app@db1:5432",
        "MAX_CONNS": 10,
        "MAX_HOLD": None,
        "RESET": "auto",
        "ROUTES": 50,
        **changes,
    }


def route(alias: object = "default", **changes: Any) -> dict[str, Any]:
    return {
        "alias": alias,
        "name": "orders/<int:pk>/",
        "holds": {**histogram(0.25, 0.5), "p95": 0.5},
        "waits": {**histogram(0.0, 0.01), "p95": 0.01},
        **changes,
    }


def reply(*pools: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "ok": True,
        "pid": os.getpid(),
        "command": "gunicorn: worker [shop]",
        "uptime": 12.5,
        "maintenance_age": 0.5,
        "pools": list(pools),
        **changes,
    }


class HastySelector(selectors.DefaultSelector):
    """Report every socket as ready, as select(2) may do wrongly."""

    looks = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        type(self).looks += 1
        return [(key, key.events) for key in list(self.get_map().values())]


class FakeWorker:
    """Answer every request with the pools given, and record the requests.

    The first pool's "stale" becomes the next number of `stale` with each request; the
    last number is repeated.
    """

    def __init__(self, *pools: dict[str, Any]) -> None:
        self.pools = list(pools) or [pool()]
        self.holders: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.stale: list[int] = []
        self.requests: list[dict[str, Any]] = []
        self.asked = threading.Event()

    @property
    def verbs(self) -> list[str]:
        return [request["verb"] for request in self.requests]

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        self.asked.set()
        if self.stale:
            now = self.stale.pop(0) if len(self.stale) > 1 else self.stale[0]
            self.pools[0]["stale"] = now
        state = {"drain": "draining", "pause": "paused"}.get(request["verb"], "running")
        if request["verb"] != "stats":
            for each in self.pools:
                each["state"] = state
        extra = {"holders": self.holders} if request["holders"] else {}
        if request["verb"] == "cancel":
            extra |= {"cancelled": request["holds"], "unknown": []}
        if request["history"]:
            extra["history"] = self.history
        return reply(*self.pools, **extra)
