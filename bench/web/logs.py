"""Logs in the browser: of 100,000 lines, of 1 GiB, and one that gets 10,000 lines a second."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from bench.figures import Latencies, Row
from bench.web.visit import VISITS, metric, open_page, quantile_row
from tests.patience import PATIENCE_S, wait_until
from tests.web.site import Site
from tests.web.workflows import FAST

FOLLOWED_S = 60
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LINE = "2026-12-01T09:10:25.691 INFO  worker-%02d request %09d handled in 12 ms"
_PRINT = f"""name: printed
jobs:
  print:
    runs-on: web
    steps:
      - id: many
        output-max-bytes: 1GiB
        run: |
          awk 'BEGIN {{ for (i = 1; i <= LINES; i++) printf "{_LINE}\\n", i % 16, i }}'
"""
#: A line of it has 74 bytes.
_SIZES = {"log of 100,000 lines": (100_000, 300), "log of 1 GiB": ((1 << 30) // 74, 500)}
#: The times between frames while the page follows, in ms.
_WATCH_FRAMES = """async (ms) => {
  const gaps = [];
  const end = performance.now() + ms;
  let before = await new Promise(requestAnimationFrame);
  while (before < end) {
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""


def opened(site: Site, browser: Browser, state: Any) -> list[Row]:
    """Time until the linked line is in the page, and the elements of the page."""
    rows = []
    for name, (lines, goal_ms) in _SIZES.items():
        run = site.start(_PRINT.replace("LINES", str(lines)))
        site.wait_for(run)
        wait_until(partial(_is_complete, site, run), "all lines", 10 * PATIENCE_S)
        shown, elements = Latencies(), 0
        for visit in range(VISITS):
            number = (visit * lines) // VISITS + 7
            with open_page(browser, state) as page:
                page.goto(f"{site.address}/runs/{run}/log/print/many/1#L{number}")
                shown.add(page.evaluate(f"shownAt('.log-line.linked[data-line=\"{number}\"]')") / 1000)
                elements = max(elements, page.evaluate("document.querySelectorAll('*').length"))
        rows += [
            quantile_row(f"{name}: linked line", shown, goal_ms, "from an empty cache, with the page itself"),
            Row(f"{name}: elements", str(elements), "300", elements <= 300),
        ]
    return rows


def _is_complete(site: Site, run: str) -> bool:
    asked = {"job": "print", "step": "many", "attempt": 1, "tail": 1}
    return bool(site.api("GET", f"/v1/runs/{run}/output", params=asked).json()["is_complete"])


def followed(site: Site, browser: Browser, state: Any) -> list[Row]:
    """A minute of 10,000 lines a second: frames, heap, and the daemon's share of a core."""
    stop = site.folder / "stop"
    run = site.start(FAST.replace("FILE", str(stop)))
    try:
        with open_page(browser, state) as page:
            page.goto(f"{site.address}/runs/{run}/log/work/fast/1")
            page.evaluate("shownAt('.log-line[data-line]')")
            tools = page.context.new_cdp_session(page)
            tools.send("Performance.enable")
            heap = _heap(tools)
            processor, script, began = (
                _processor_s(site.daemon_pid),
                metric(tools, "ScriptDuration"),
                time.perf_counter(),
            )
            gaps = page.evaluate(_WATCH_FRAMES, FOLLOWED_S * 1000)
            took = time.perf_counter() - began
            share = (_processor_s(site.daemon_pid) - processor) / took
            script = (metric(tools, "ScriptDuration") - script) * 1000 / len(gaps)
            growth = (_heap(tools) - heap) / 1e6
            lines = int(page.evaluate("document.querySelector('.log-line:last-child').dataset.line"))
    finally:
        stop.touch()
    site.wait_for(run)
    name = "following 10,000 lines/s"
    return [
        quantile_row(
            f"{name}: frame", Latencies(each=[gap / 1000 for gap in gaps]), 20, f"{lines:,} lines", quantile=0.95
        ),
        Row(f"{name}: script of a frame", f"{script:.1f} ms", "", None, "mean"),
        Row(
            f"{name}: heap",
            f"{growth:+.1f} MB",
            "150 MB",
            growth <= 150,
            f"after {FOLLOWED_S} s; 200,000 lines are kept",
        ),
        Row(
            f"{name}: daemon",
            f"{share:.0%} of a core",
            "",
            None,
            "takes the lines from the agent, stores and sends them",
        ),
    ]


def _heap(tools: Any) -> int:
    tools.send("HeapProfiler.collectGarbage")
    return int(tools.send("Runtime.getHeapUsage")["usedSize"])


def _processor_s(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
