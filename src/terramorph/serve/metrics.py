"""Metrics of a server for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from terramorph.serve.tiles import TileServer


class Metrics(Collector):  # type: ignore[misc]
    """Counts of answered requests, and the state of queues and caches at each scrape.

    Attributes:
        registry: Registry of this server only.
    """

    def __init__(self, tiles: TileServer) -> None:
        self._tiles, self.registry = tiles, CollectorRegistry()
        self._requests = Counter("terramorph_requests", "Requests", ["route", "status"], registry=self.registry)
        self._seconds = Histogram("terramorph_request_seconds", "Seconds a request", ["route"], registry=self.registry)
        self.registry.register(self)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of queues and caches; called by the registry."""
        tiles = self._tiles
        jobs = CounterMetricFamily("terramorph_jobs", "Jobs of the queues", labels=["queue", "outcome"])
        for name, queue in (("compute", tiles.computing), ("read", tiles.reading)):
            for outcome in ("computed", "joined", "dropped"):
                jobs.add_metric([name, outcome], getattr(queue, outcome))
        yield jobs
        predicted, seconds = tiles.windows.predicted, tiles.computing.seconds
        yield CounterMetricFamily("terramorph_windows", "Windows that the models predicted here", predicted)
        yield GaugeMetricFamily("terramorph_queue_seconds", "Seconds of queued work that the model has", seconds)
        yield GaugeMetricFamily("terramorph_cache_bytes", "Bytes of encoded tiles in memory", tiles.memory.bytes)
        asked = CounterMetricFamily("terramorph_cache", "Lookups in the cache of encoded tiles", labels=["outcome"])
        asked.add_metric(["hit"], tiles.memory.hits)
        asked.add_metric(["miss"], tiles.memory.misses)
        yield asked
        about = GaugeMetricFamily(
            "terramorph_layer_info", "Layers and their models", labels=["layer", "model", "digest"]
        )
        for layer in tiles.layers.values():
            about.add_metric([layer.name, str(layer.about.get("model")), str(layer.about.get("digest"))], 1)
        yield about
