"""`GET /metrics`: what the daemon counts, in Prometheus' text format.

Everything is read when it is asked for; nothing is pushed. What there is stands in samples.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from waterflowd.api.gate import Ports, Viewer
from waterflowd.api.metric_samples import SAMPLES, Sample

router = APIRouter(tags=["system"])


class _Collector(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """The samples, by metric."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._samples:
            kind = SAMPLES[sample.name]
            family = families.get(sample.name)
            if family is None:
                made = CounterMetricFamily if kind.is_counter else GaugeMetricFamily
                labels = [kind.label] if kind.label else []
                family = families[sample.name] = made(sample.name, kind.text, labels=labels)
            family.add_metric([sample.label] if kind.label else [], sample.value)
        yield from families.values()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: Ports, _: Viewer) -> Response:
    """Counters and gauges for Prometheus, with the process's own memory, processor time and file descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(services.metrics.samples()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
