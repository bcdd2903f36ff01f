"""The web pages in Debian's Chromium, before a real daemon: sizes, paint, large runs, time from event to pixel, memory, tabs.

Browser and daemon share the machine, and there is no GPU; so times are upper limits. Each is the median and the 95th
percentile of several visits. Limits on bytes, requests, elements and streams are tests (`tests/web`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.figures import Latencies, Row
from tests.web import site as sites
from tests.web.site import Site

VISITS = 12
PAGE_CHANGES = 100
TABS = 20
FRAMES = 180
EVENTS = 30
#: 500 jobs with a step each, and the two jobs that became them.
_JOBS = "".join(
    f"  j{number}:\n    runs-on: web\n    strategy: {{matrix: {{n: [{', '.join(map(str, range(249)))}]}}}}\n"
    "    steps: [{name: Check, if: false, run: 'true'}]\n"
    for number in range(2)
)
_THOUSAND = f"name: thousand\njobs:\n{_JOBS}"
_QUICK = "name: NAME\njobs: {a: {runs-on: web, if: false, steps: [{run: 'true'}]}}\n"
#: Marks when something that matches a selector is in the document.
_WATCH = """
window.shownAt = (selector) => new Promise((tell) => {
  const look = () => document.querySelector(selector) && (tell(performance.now()), true);
  if (look()) return;
  new MutationObserver((_, self) => look() && self.disconnect()).observe(document, { childList: true, subtree: true });
});
"""
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


def web_pages(folder: Path) -> list[Row]:
    """Measures the pages; a row that says so where there is no browser."""
    if reason := sites.chromium_is_missing():
        return [Row("web pages", "not measured", "", None, reason)]
    site = Site(folder)
    try:
        site.make_repository()
        site.start_daemon()
        site.add_agent("web-1", "web")
        with sync_playwright() as playwright:
            browser = sites.launch(playwright)
            # The policy of the pages accepts no signed-in browser by itself.
            state = _signed_in(site, browser)
            rows = _first_page(site, browser, state)
            rows += _large_run(site, browser, state)
            rows += _event_to_pixel(site, browser, state)
            rows += _memory(site, browser, state)
            rows += _tabs(site, browser, state)
            browser.close()
        return rows
    finally:
        site.close()


def _signed_in(site: Site, browser: Browser) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.link_of_somebody_new())
    expect(page.get_by_role("heading", name="Overview")).to_be_visible(timeout=sites.PATIENCE_MS)
    state = context.storage_state()
    context.close()
    return state


@contextmanager
def _page(browser: Browser, state: Any) -> Iterator[Page]:
    """A page of a browser that has signed in, and has nothing in its cache."""
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 800})
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.set_default_timeout(sites.PATIENCE_MS)
    try:
        yield page
    finally:
        context.close()


class _Transfers:
    """What a page has received: bytes by address, as they were on the wire."""

    def __init__(self, page: Page) -> None:
        self.sizes: dict[str, int] = {}
        self.tools = page.context.new_cdp_session(page)
        self._names: dict[str, str] = {}
        self.tools.on("Network.responseReceived", self._begin)
        self.tools.on("Network.loadingFinished", self._end)
        self.tools.send("Network.enable")
        self.tools.send("Performance.enable")

    def _begin(self, event: Any) -> None:
        self._names[event["requestId"]] = event["response"]["url"]

    def _end(self, event: Any) -> None:
        self.sizes[self._names.get(event["requestId"], "")] = int(event["encodedDataLength"])


def _first_page(site: Site, browser: Browser, state: Any) -> list[Row]:
    paint, ready, script = Latencies(), Latencies(), Latencies()
    sizes: dict[str, int] = {}
    for _ in range(VISITS):
        with _page(browser, state) as page:
            transfers = _Transfers(page)
            page.goto(site.address)
            ready.add(page.evaluate("shownAt('main h1')") / 1000)
            painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
            paint.add(painted / 1000)
            script.add(_metric(transfers.tools, "ScriptDuration"))
            sizes = transfers.sizes
    files = {url: size for url, size in sizes.items() if "/v1/" not in url}
    size = sum(files.values())
    return [
        Row("first page: bytes", f"{size / 1000:.1f} KB", "60 KB", size <= 60_000, "compressed, with headers"),
        Row("first page: files", str(len(files)), "5", len(files) <= 5, "without requests to the API"),
        _row("first page: script", script, 100),
        _row("first page: first contentful paint", paint, 300),
        _row("first page: usable", ready, 500, "signed in, heading and keys are there"),
    ]


def _large_run(site: Site, browser: Browser, state: Any) -> list[Row]:
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
        with _page(browser, state) as page:
            page.goto(f"{site.address}/runs/{run}")
            painted.add(page.evaluate("shownAt('.run-tree .row.k-more')") / 1000)
            if visit < 3:
                page.locator(".run-tree .row.k-more").first.click()
                tools = page.context.new_cdp_session(page)
                tools.send("Performance.enable")
                before = _metric(tools, "ScriptDuration")
                for gap in page.evaluate(_FRAMES, FRAMES):
                    frames.add(gap / 1000)
                script = max(script, (_metric(tools, "ScriptDuration") - before) * 1000 / FRAMES)
    return [
        Row("run of 1,000 parts: answer", f"{size / 1000:.0f} KB", "250 KB", size <= 250_000, "outline"),
        _row("run of 1,000 parts: daemon", asked, 100, "outline, kept after the first time"),
        _row("run of 1,000 parts: painted", painted, 1_000, "from an empty cache"),
        _row("run of 1,000 parts: frame", frames, 20, "zoom and selection in each of 540 frames", quantile=0.95),
        Row("run of 1,000 parts: script of a frame", f"{script:.1f} ms", "4 ms", script <= 4, "mean"),
    ]


def _event_to_pixel(site: Site, browser: Browser, state: Any) -> list[Row]:
    seen = Latencies()
    with _page(browser, state) as page:
        page.goto(f"{site.address}/runs")
        expect(page.locator(".connection")).to_contain_text("live")
        for number in range(EVENTS):
            name = f"pixel{number}"
            page.evaluate(
                "(name) => { window.seenAt = new Promise((tell) => new MutationObserver((_, self) => {"
                " if (!document.querySelector('.run-list').textContent.includes(name)) return;"
                " self.disconnect(); requestAnimationFrame(() => tell(Date.now())); })"
                ".observe(document.querySelector('.run-list'), { childList: true, subtree: true, characterData: true })); }",
                name,
            )
            run = site.start(_QUICK.replace("NAME", name))
            shown_at = page.evaluate("window.seenAt")
            created = site.events(run)[0]["at"].replace("Z", "+00:00")
            seen.add(shown_at / 1000 - datetime.fromisoformat(created).timestamp())
    return [
        _row("event to pixel, p50", seen, 60, "a new run in the list, after its commit", quantile=0.5),
        _row("event to pixel, p95", seen, 100, quantile=0.95),
    ]


def _memory(site: Site, browser: Browser, state: Any) -> list[Row]:
    with _page(browser, state) as page:
        tools = page.context.new_cdp_session(page)
        page.goto(f"{site.address}/runs")
        expect(page.get_by_role("row").nth(1)).to_be_visible()

        def change(times: int) -> int:
            for _ in range(times):
                for heading in ("Overview", "Runs"):
                    page.get_by_role("link", name=heading, exact=True).click()
                    expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()
            tools.send("HeapProfiler.collectGarbage")
            return int(tools.send("Runtime.getHeapUsage")["usedSize"])

        # The first hundred fill what the browser and the pages keep for the next ones.
        before = change(PAGE_CHANGES)
        after = change(PAGE_CHANGES // 2)
    growth = (after - before) / 1e6
    note = f"{before / 1e6:.1f} MB before"
    return [
        Row("heap after 100 page changes", f"{after / 1e6:.1f} MB", "150 MB", after <= 150e6, note),
        Row(
            "growth over 100 page changes", f"{growth:+.2f} MB", "none", growth <= 0.5, "half a megabyte counts as none"
        ),
    ]


def _tabs(site: Site, browser: Browser, state: Any) -> list[Row]:
    opening = Latencies()
    with _page(browser, state) as first:
        pages = [first]
        first.goto(site.address)
        for _ in range(TABS):
            pages[-1].evaluate(
                "() => { Object.defineProperty(document, 'hidden', { configurable: true, value: true });"
                " document.dispatchEvent(new Event('visibilitychange')); }"
            )
            page = first.context.new_page()
            page.set_default_timeout(sites.PATIENCE_MS)
            pages.append(page)
            page.goto(f"{site.address}/runs")
            opening.add(page.evaluate("shownAt('.run-list .row')") / 1000)
        last = opening.each[-1]
    note = f"the slowest of them: {opening.quantile_ms(1.0):.0f} ms"
    return [Row("the 21st tab opens", f"{last * 1000:.0f} ms", "500 ms", last <= 0.5, note)]


def _row(name: str, measured: Latencies, goal_ms: float, note: str = "", *, quantile: float | None = None) -> Row:
    """p50 and p95; the goal is for one of them, without a name for the median."""
    value = measured.quantile_ms(quantile or 0.5)
    p50, p95 = measured.quantile_ms(0.5), measured.quantile_ms(0.95)
    return Row(name, f"p50 {p50:.0f} ms, p95 {p95:.0f} ms", f"{goal_ms:.0f} ms", value <= goal_ms, note)


def _metric(tools: Any, name: str) -> float:
    metrics = {metric["name"]: metric["value"] for metric in tools.send("Performance.getMetrics")["metrics"]}
    return float(metrics[name])
