"""Prometheus metrics of one process, and the one scrape that joins the roles'."""

from collections.abc import Iterable, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process. Asking twice for a name gives the same metric; never label by device."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._known: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Counter:
        metric = self._known.get(name) or Counter(name, documentation, tuple(labels), registry=self.registry)
        assert isinstance(metric, Counter)
        self._known[name] = metric
        return metric

    def gauge(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Gauge:
        metric = self._known.get(name) or Gauge(name, documentation, tuple(labels), registry=self.registry)
        assert isinstance(metric, Gauge)
        self._known[name] = metric
        return metric

    def histogram(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Histogram:
        """Buckets fit latencies in seconds."""
        metric = self._known.get(name) or Histogram(name, documentation, tuple(labels), registry=self.registry, buckets=LATENCY_BUCKETS_S)
        assert isinstance(metric, Histogram)
        self._known[name] = metric
        return metric

    def render(self) -> bytes:
        """This process's metrics in Prometheus text."""
        return prometheus_client.generate_latest(self.registry)


class _Families:
    """What `generate_latest` needs of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge(texts: Mapping[str, bytes]) -> bytes:
    """One exposition of several roles' texts; every sample gains the label `role`, every family appears once."""
    merged: dict[str, Metric] = {}
    for role, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            target = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                target.add_sample(sample.name, {"role": role, **sample.labels}, sample.value)
    return prometheus_client.generate_latest(_Families(merged.values()))
