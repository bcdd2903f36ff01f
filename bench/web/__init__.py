"""The web pages in Debian's Chromium, before a real daemon: sizes, paint, large runs and logs, memory.

The programs are those of the built wheels. Browser and daemon share the machine, and there is no GPU; so times are upper
limits. Each is the median and the 95th percentile of several visits. Limits on bytes, requests, elements and streams are tests
(`tests/web`).
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright

from bench.figures import Row
from bench.web import logs, pages, runs
from bench.web.visit import signed_in
from tests.web import site as sites
from tests.web import wheels
from tests.web.site import Site


def web_pages(folder: Path) -> list[Row]:
    """Measures the pages; a row that says so where there is no browser."""
    if reason := sites.chromium_is_missing():
        return [Row("web pages", "not measured", "", None, reason)]
    site = Site(folder, wheels.install(wheels.build(folder / "wheels"), folder / "installed"))
    try:
        site.make_repository()
        site.config.write_text(f"{site.config.read_text()}\n[quotas]\noutput-bytes-per-hour = 0\n")
        site.start_daemon()
        site.add_agent("web-1", "web")
        with sync_playwright() as playwright:
            browser = sites.launch(playwright)
            # The policy of the pages accepts no signed-in browser by itself.
            state = signed_in(site, browser)
            rows = [
                row
                for measured in (
                    pages.first_page,
                    runs.large_run,
                    runs.graph,
                    runs.slider,
                    logs.opened,
                    logs.followed,
                    pages.event_to_pixel,
                    pages.memory,
                    pages.tabs,
                )
                for row in measured(site, browser, state)
            ]
            browser.close()
        return rows
    finally:
        site.close()
