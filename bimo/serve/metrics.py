"""Prometheus metrics of a server: jobs, queue, steps, seconds, memory."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bimo.serve.service import DrawingService

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800)


class _Now(Collector):
    """Collects the current state of a service."""

    def __init__(self, service: DrawingService) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        service = self.service
        ended = CounterMetricFamily("bimo_jobs", "Jobs that ended, by interface and how", labels=["client", "state"])
        for (client, state), count in service.outcomes.items():
            ended.add_metric([client, state], count)
        yield ended
        yield GaugeMetricFamily("bimo_jobs_open", "Jobs that wait or are drawn", value=len(service.open_jobs()))
        yield GaugeMetricFamily(
            "bimo_seconds_ahead", "About how long all that waits will take", value=service.executor.seconds_ahead()
        )
        busy = service.executor.busy
        yield CounterMetricFamily("bimo_denoiser_calls", "Calls of denoisers", value=busy["calls"])
        yield CounterMetricFamily("bimo_denoiser_pictures", "Pictures in those calls", value=busy["rows"])
        yield CounterMetricFamily("bimo_denoiser_seconds", "Seconds in those calls", value=busy["denoiser"])
        yield CounterMetricFamily("bimo_drawing_seconds", "Seconds of drawing, all told", value=busy["all"])
        weights = GaugeMetricFamily("bimo_weights_bytes", "Bytes of loaded weights", labels=["model", "loras"])
        for key, size in service.pool.loaded().items():
            weights.add_metric([key.model, " ".join(f"{name}:{weight}" for name, weight in key.loras)], size)
        yield weights


class Metrics:
    """The metrics of one server, in a registry of their own, so that several servers can run in one process."""

    def __init__(self, service: DrawingService) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Now(service))
        self.requests = Histogram(
            "bimo_http_seconds",
            "Seconds until a request is answered",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Records a request; ``route`` is the pattern of its path."""
        self.requests.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
