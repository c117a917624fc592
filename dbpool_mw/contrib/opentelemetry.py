"""OpenTelemetry's metrics for the pools of this process, and a span for each wait.

Call ``instrument()`` once, as in an ``AppConfig.ready()``; it needs
``django-dbpool-mw[otel]``. Nothing is recorded at a checkout or a checkin. An SDK asks
for the figures when it exports; durations are kept until then, because the API has no
asynchronous histogram, and recording one takes longer than a checkout.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import Status, StatusCode, Tracer, TracerProvider

from dbpool_mw.binding import registry
from dbpool_mw.core.errors import PoolError
from dbpool_mw.core.pool import ConnectionPool

#: How many durations are kept for the next export. More are counted, and not exported.
MOST = 50_000

#: A wait has a span from so many seconds on.
LEAST_WAIT = 0.001

_SCOPE = "dbpool_mw"
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
_PREFIX = "db.client.connection."

#: What the convention advises for the duration of an operation; it advises nothing for
#: those of a pool.
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

Attributes = Mapping[str, str]


class _Durations(NamedTuple):
    """Seconds of one pool that haven't been exported yet."""

    attributes: Attributes
    holds: Sequence[float] = ()
    after_wait: Sequence[tuple[float, float]] = ()
    connects: Sequence[float] = ()

    @property
    def number(self) -> int:
        return len(self.holds) + len(self.after_wait) + len(self.connects)


class _Exporter:
    """What is exported of this process: the callbacks of its instruments."""

    def __init__(self) -> None:
        self.is_on = False
        self.histograms: dict[str, Histogram] = {}
        self.tracer: Tracer | None = None
        self.begin()

    def begin(self) -> None:
        """Begin with no durations."""
        self._pid = os.getpid()
        self._draining = threading.Lock()
        self._kept: deque[_Durations] = deque()
        # How many durations were kept, and taken out again. Each is written by one
        # thread at a time: the one with the pools' lock, and the one that drains.
        self._put = self._taken = 0
        self._dropped = 0

    def _begin_anew_after_a_fork(self) -> None:
        """Forget what the parent measured: the parent exports it."""
        if self._pid != os.getpid():
            for histogram in self.histograms.values():
                _forget_records(histogram)
            self.begin()

    def make_instruments(self, provider: MeterProvider | None) -> None:
        """Make the instruments, or find those that the provider has already."""
        meter = metrics.get_meter(_SCOPE, meter_provider=provider, schema_url=_SCHEMA)
        for name, unit, text, callback in (
            ("count", "{connection}", "Open connections by state.", self._count),
            (
                "idle.max",
                "{connection}",
                "Idle connections that a pool may have.",
                self._of("max"),
            ),
            (
                "idle.min",
                "{connection}",
                "Connections that a pool keeps open.",
                self._of("min"),
            ),
            (
                "max",
                "{connection}",
                "Connections that a pool may open.",
                self._of("max"),
            ),
            (
                "pending_requests",
                "{request}",
                "Checkouts waiting for a connection.",
                self._of("waiting"),
            ),
        ):
            meter.create_observable_up_down_counter(
                _PREFIX + name, [callback], unit, text
            )
        meter.create_observable_counter(
            _PREFIX + "timeouts",
            [self._of("timeouts")],
            "{timeout}",
            "Checkouts that waited in vain.",
        )
        for name, text in (
            ("create_time", "Time to open a connection."),
            ("wait_time", "Time from asking for a connection to having it."),
            ("use_time", "Time from checkout to checkin."),
        ):
            self.histograms[name] = meter.create_histogram(
                _PREFIX + name,
                "s",
                text,
                explicit_bucket_boundaries_advisory=_BUCKETS,
            )
        meter.create_observable_counter(
            "dbpool_mw.durations.dropped",
            [self._drain],
            "{duration}",
            "Durations that are missing in the histograms, because too many came "
            "between two exports.",
        )

    # --- Called by the SDK, in a thread that exports ---------------------------------

    def _of(self, key: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
        """Return a callback that observes a figure of each pool."""

        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for pool, attributes in self._reports():
                yield Observation(pool[key], attributes)

        return observe

    def _count(self, options: CallbackOptions) -> Iterator[Observation]:
        for pool, attributes in self._reports():
            for state, key in (("idle", "idle"), ("used", "in_use")):
                yield Observation(pool[key], {**attributes, _PREFIX + "state": state})

    def _reports(self) -> Iterable[tuple[Mapping[str, Any], Attributes]]:
        reports = registry.stats() if self.is_on else []
        return [(pool, _attributes(pool["alias"], pool["address"])) for pool in reports]

    def _drain(self, options: CallbackOptions) -> Iterator[Observation]:
        """Record what was kept: an SDK collects the histograms after its callbacks."""
        self._begin_anew_after_a_fork()
        if not self.is_on:
            return
        registry.stats()  # has the pools count what has ended
        with self._draining:
            # No more than there are now: pools may keep more faster than these go.
            for _ in range(len(self._kept)):
                durations = self._kept.popleft()
                self._taken += durations.number
                self._record(durations)
        yield Observation(self._dropped)

    def _record(self, durations: _Durations) -> None:
        attributes = durations.attributes
        wait, use = self.histograms["wait_time"], self.histograms["use_time"]
        for seconds in durations.holds:
            wait.record(0.0, attributes)
            use.record(seconds, attributes)
        for waited, held in durations.after_wait:
            wait.record(waited, attributes)
            use.record(held, attributes)
        for seconds in durations.connects:
            self.histograms["create_time"].record(seconds, attributes)

    # --- Called by pools -------------------------------------------------------------

    def keep(self, durations: _Durations) -> None:
        """Keep durations for the next export; called with the pools' lock held."""
        self._begin_anew_after_a_fork()
        if self._put - self._taken + durations.number > MOST:
            self._dropped += durations.number
            return
        self._put += durations.number
        self._kept.append(durations)


class _Listener:
    """Is told what one pool measures."""

    def __init__(self, exporter: _Exporter, pool: ConnectionPool) -> None:
        self._exporter = exporter
        self._attributes = _attributes(pool.name, pool.address)

    def ended(
        self, holds: Sequence[float], after_wait: Sequence[tuple[float, float]]
    ) -> None:
        self._exporter.keep(_Durations(self._attributes, holds, after_wait))

    def opened(self, seconds: float) -> None:
        self._exporter.keep(_Durations(self._attributes, connects=(seconds,)))

    def waited(self, seconds: float, error: Exception | None) -> None:
        """Make a span of a wait, inside of the span that is current in this thread."""
        tracer = self._exporter.tracer
        if tracer is None or (error is None and seconds < LEAST_WAIT):
            return
        # What processes spans may be the project's, and may raise.
        with contextlib.suppress(Exception):
            now = time.time_ns()
            span = tracer.start_span(
                "pool.acquire",
                attributes={"db.system.name": "postgresql", **self._attributes},
                start_time=now - round(seconds * 1e9),
            )
            if error is not None:
                # The details of an error name other requests.
                text = error.summary if isinstance(error, PoolError) else None
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, text))
            span.end(now)


_exporter = _Exporter()
_lock = threading.Lock()


def instrument(
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Export the figures of this process's pools, and a span for each wait.

    Without a provider, the one that is set globally counts, also if it is set later. A
    second call does nothing. In a process that forks, call it before or after the fork:
    a child exports its own pools only.
    """
    with _lock:
        if _exporter.is_on:
            return
        _exporter.make_instruments(meter_provider)
        _exporter.tracer = trace.get_tracer(
            _SCOPE, tracer_provider=tracer_provider, schema_url=_SCHEMA
        )
        _exporter.begin()
        _exporter.is_on = True
        registry.listen(lambda pool: _Listener(_exporter, pool))


def uninstrument() -> None:
    """Export nothing any more. ``instrument()`` may be called again."""
    with _lock:
        _exporter.is_on = False
        registry.listen(None)


def _attributes(alias: str, address: str) -> Attributes:
    # The pools of one alias, which differ in user or host, have their addresses.
    return {_PREFIX + "pool.name": alias, "address": address}


def _forget_records(histogram: Any) -> None:
    """Have the SDK forget what was recorded: a forked child has its parent's records.

    The SDK has no public way for it. One that keeps its records elsewhere goes on with
    them, and the child exports its parent's too.
    """
    with contextlib.suppress(AttributeError):
        histogram = getattr(histogram, "_real_instrument", None) or histogram
        for storage in histogram._measurement_consumer._reader_storages.values():
            storage._instrument_view_instrument_matches.pop(histogram, None)
