"""`GET /metrics`: what the daemon counts, in Prometheus' text format.

All values are read for each request; nothing is pushed. `admin/metric_samples.py` lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from waterflowd.admin.metric_samples import METRICS, Sample
from waterflowd.api.dependencies import Ports, Viewer

router = APIRouter(tags=["system"])


class _Collector(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """The samples, by metric."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._samples:
            spec = METRICS[sample.name]
            family = families.get(sample.name)
            if family is None:
                family_type = CounterMetricFamily if spec.is_counter else GaugeMetricFamily
                labels = [spec.label] if spec.label else []
                family = families[sample.name] = family_type(sample.name, spec.text, labels=labels)
            family.add_metric([sample.label] if spec.label else [], sample.value)
        yield from families.values()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: Ports, _: Viewer) -> Response:
    """Counters and gauges for Prometheus, including the memory, CPU time and file descriptors of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(services.metrics.samples()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
