"""The first page, lists that follow, memory, and many tabs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from playwright.sync_api import Browser, expect

from bench.figures import Latencies, Row
from bench.web.visit import VISITS, Transfers, metric, open_page, quantile_row
from tests.web import site as sites
from tests.web.site import Site

PAGE_CHANGES = 100
TABS = 20
EVENTS = 30
_QUICK = "name: NAME\njobs: {a: {runs-on: web, if: false, steps: [{run: 'true'}]}}\n"


def first_page(site: Site, browser: Browser, state: Any) -> list[Row]:
    paint, ready, script = Latencies(), Latencies(), Latencies()
    sizes: dict[str, int] = {}
    for _ in range(VISITS):
        with open_page(browser, state) as page:
            transfers = Transfers(page)
            page.goto(site.address)
            ready.add(page.evaluate("shownAt('main h1')") / 1000)
            painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
            paint.add(painted / 1000)
            script.add(metric(transfers.tools, "ScriptDuration"))
            sizes = transfers.sizes
    files = {url: size for url, size in sizes.items() if "/v1/" not in url}
    size = sum(files.values())
    return [
        Row("first page: bytes", f"{size / 1000:.1f} KB", "60 KB", size <= 60_000, "compressed, with headers"),
        Row("first page: files", str(len(files)), "5", len(files) <= 5, "without requests to the API"),
        quantile_row("first page: script", script, 100),
        quantile_row("first page: first contentful paint", paint, 300),
        quantile_row("first page: usable", ready, 500, "signed in, heading and keys are there"),
    ]


def event_to_pixel(site: Site, browser: Browser, state: Any) -> list[Row]:
    seen = Latencies()
    with open_page(browser, state) as page:
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
        quantile_row("event to pixel, p50", seen, 60, "a new run in the list, after its commit", quantile=0.5),
        quantile_row("event to pixel, p95", seen, 100, quantile=0.95),
    ]


def memory(site: Site, browser: Browser, state: Any) -> list[Row]:
    with open_page(browser, state) as page:
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


def tabs(site: Site, browser: Browser, state: Any) -> list[Row]:
    opening = Latencies()
    with open_page(browser, state) as first:
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
