"""Events: the cost of one event for the engine in a run of 10,000 steps, compared with a run of 10 steps."""

from __future__ import annotations

import gc
import statistics
import time

from bench.figures import Row
from tests.unit.engine.test_cost import SHAPES, Feeder

LARGE, SMALL = 10_000, 10
#: Results measured in a small run, after a third of it has finished, so that both sizes have the same kinds of events.
RESULTS = 3
REPEATED = 60


def _us_per_event(shape: str, size: int, count: int) -> float:
    """Processor time in µs per event, for results that arrive halfway through a run."""
    feeder = Feeder(SHAPES[shape](size))
    for _ in range(min(size // 3, 300)):
        feeder.finish_one()
    before = feeder.events
    began = time.thread_time()
    for _ in range(count):
        feeder.finish_one()
    return (time.thread_time() - began) * 1e6 / (feeder.events - before)


def events() -> list[Row]:
    """The worst ratio of several shapes of runs. Small runs are repeated, because each has few events."""
    # Objects that earlier benchmarks left in this process must not slow down garbage collection here.
    gc.collect()
    gc.freeze()
    ratios: dict[str, tuple[float, float]] = {}
    for shape in SHAPES:
        _us_per_event(shape, SMALL, RESULTS)
        small = statistics.median(_us_per_event(shape, SMALL, RESULTS) for _ in range(REPEATED))
        large = _us_per_event(shape, LARGE, RESULTS * REPEATED)
        ratios[shape] = small, large
    shape, (small, large) = max(ratios.items(), key=lambda item: item[1][1] / item[1][0])
    name = f"an event of a run of {LARGE:,} steps against {SMALL}"
    comment = f"{large:.0f} µs and {small:.0f} µs, {shape}, the worst of {len(ratios)}"
    return [Row(name, f"{large / small:.2f}", "1.5", large / small <= 1.5, comment)]
