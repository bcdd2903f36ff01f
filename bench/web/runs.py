"""A run of 1,000 parts: tree, timeline, graph and history."""

from __future__ import annotations

import re
import time
from typing import Any

from playwright.sync_api import Browser, expect

from bench.figures import Latencies, Row
from bench.web.visit import VISITS, metric, open_page, quantile_row
from tests.web.site import Site

FRAMES = 180
#: 500 jobs with a step each, and the two jobs that became them.
_JOBS = "".join(
    f"  j{number}:\n    runs-on: web\n    strategy: {{matrix: {{n: [{', '.join(map(str, range(249)))}]}}}}\n"
    "    steps: [{name: Check, if: false, run: 'true'}]\n"
    for number in range(2)
)
_THOUSAND = f"name: thousand\njobs:\n{_JOBS}"
#: 200 jobs of 50 steps, which are skipped: an event for each of them, and some for their jobs.
_LONG_STEPS = "".join("      - {name: Check, if: false, run: 'true'}\n" for _ in range(50))
_LONG_HISTORY = (
    f"name: history\njobs:\n  j:\n    runs-on: web\n    strategy: {{matrix: {{n: [{', '.join(map(str, range(200)))}]}}}}\n"
    f"    steps:\n{_LONG_STEPS}"
)
_DRAGGED = 300
#: Drags the slider from its end to its start; returns the times between frames, in ms.
_DRAG = """async (slider, steps) => {
  const [min, max] = [Number(slider.min), Number(slider.max)];
  const gaps = [];
  let before = await new Promise(requestAnimationFrame);
  for (let step = 1; step <= steps; step++) {
    slider.value = String(Math.round(max - ((max - min) * step) / steps));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""
_FRAMES = """async (count) => {
  const gaps = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < count; frame++) {
    dispatchEvent(new KeyboardEvent("keydown", { key: "+-jk"[Math.floor(frame / 5) % 4] }));
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""


def large_run(site: Site, browser: Browser, state: Any) -> list[Row]:
    run = site.start(_THOUSAND)
    site.wait_for(run)
    asked, painted, frames = Latencies(), Latencies(), Latencies()
    size = 0
    for _ in range(VISITS):
        began = time.perf_counter()
        size = len(site.api("GET", f"/v1/runs/{run}/outline", params={"limit": 1_000}).content)
        asked.add(time.perf_counter() - began)
    script = 0.0
    for visit in range(VISITS):
        with open_page(browser, state) as page:
            page.goto(f"{site.address}/runs/{run}")
            painted.add(page.evaluate("shownAt('.run-tree .row.k-more')") / 1000)
            if visit < 3:
                page.locator(".run-tree .row.k-more").first.click()
                tools = page.context.new_cdp_session(page)
                tools.send("Performance.enable")
                before = metric(tools, "ScriptDuration")
                for gap in page.evaluate(_FRAMES, FRAMES):
                    frames.add(gap / 1000)
                script = max(script, (metric(tools, "ScriptDuration") - before) * 1000 / FRAMES)
    return [
        Row("run of 1,000 parts: answer", f"{size / 1000:.0f} KB", "250 KB", size <= 250_000, "outline"),
        quantile_row("run of 1,000 parts: daemon", asked, 100, "outline, kept after the first time"),
        quantile_row("run of 1,000 parts: painted", painted, 1_000, "from an empty cache"),
        quantile_row(
            "run of 1,000 parts: frame", frames, 20, "zoom and selection in each of 540 frames", quantile=0.95
        ),
        Row("run of 1,000 parts: script of a frame", f"{script:.1f} ms", "4 ms", script <= 4, "mean"),
    ]


def graph(site: Site, browser: Browser, state: Any) -> list[Row]:
    """The same run as a graph, and that of the most jobs that a file may have."""
    jobs = "".join(
        f"  j{number}: {{runs-on: web, if: false, needs: [j{(number - 1) // 3}], steps: [{{run: 'true'}}]}}\n"
        for number in range(1, 256)
    )
    files = {
        "graph of 1,000 parts": _THOUSAND,
        "graph of 256 jobs": f"name: jobs\njobs:\n  j0: {{runs-on: web, if: false, steps: [{{run: 'true'}}]}}\n{jobs}",
    }
    rows = []
    for name, text in files.items():
        run = site.start(text)
        site.wait_for(run)
        painted, script = Latencies(), Latencies()
        for _ in range(VISITS):
            with open_page(browser, state) as page:
                page.goto(f"{site.address}/runs/{run}")
                page.evaluate("shownAt('.run-tree .row')")
                tools = page.context.new_cdp_session(page)
                tools.send("Performance.enable")
                before = metric(tools, "ScriptDuration")
                began = time.perf_counter()
                page.get_by_role("tab", name="Graph").or_(page.get_by_role("link", name="Graph", exact=True)).click()
                expect(page.locator(".graph-box canvas")).to_have_attribute("data-boxes", re.compile(r"^\d+$"))
                painted.add(time.perf_counter() - began)
                script.add(metric(tools, "ScriptDuration") - before)
        rows += [
            quantile_row(f"{name}: painted", painted, 1_000, "from the click on"),
            quantile_row(f"{name}: script", script, 200, "layout and drawing"),
        ]
    return rows


def slider(site: Site, browser: Browser, state: Any) -> list[Row]:
    """A history of 10,000 events is dragged from its end to its start."""
    run = site.start(_LONG_HISTORY)
    site.wait_for(run)
    with open_page(browser, state) as page:
        page.goto(f"{site.address}/runs/{run}")
        moved = page.get_by_role("slider", name="Event history")
        expect(moved).to_be_enabled()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")
        began = metric(tools, "TaskDuration")
        frames = Latencies(each=[gap / 1000 for gap in moved.evaluate(_DRAG, _DRAGGED)])
        step_ms = (metric(tools, "TaskDuration") - began) * 1000 / _DRAGGED
        count = int(moved.get_attribute("max") or 0)
    name = f"slider over {count:,} events"
    return [
        Row(
            f"{name}: step", f"{step_ms:.1f} ms", "16 ms", step_ms <= 16, f"script, style and paint; mean of {_DRAGGED}"
        ),
        quantile_row(f"{name}: frame", frames, 20, "while it moves"),
        Row(f"{name}: requests while it moves", str(len(asked)), "0", not asked),
    ]
