"""The pools of this process for a registry of ``prometheus_client``.

Import it where the registry is set up; it needs ``django-dbpool-mw[prometheus]``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from dbpool_mw.binding import registry
from dbpool_mw.control import protocol
from dbpool_mw.control.client import Answer
from dbpool_mw.control.prometheus import prometheus


class PoolCollector(Collector):
    """Collect what ``/metrics`` and ``dbpool_stats`` say of this process.

    ``prometheus_client.REGISTRY.register(PoolCollector())`` opens nothing and queries
    nothing, nor does a scrape. Under ``PROMETHEUS_MULTIPROC_DIR`` prometheus_client
    shows no collector: include ``dbpool_mw.urls`` there, which has every process.
    """

    def describe(self) -> Iterable[Metric]:
        """Return the metrics' names alone: registering doesn't collect."""
        return text_string_to_metric_families(prometheus([]))

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this process at this moment."""
        pid = os.getpid()
        reply = registry.answer(protocol.request("stats"))
        own = Answer(pid, Path(f"{pid}-00000000.sock"), reply=reply)
        return text_string_to_metric_families(prometheus([own]))
