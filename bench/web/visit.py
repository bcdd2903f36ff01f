"""A signed-in page of the bench, what it has received, and what its browser measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect

from bench.figures import Latencies, Row
from tests.web import site as sites
from tests.web.site import Site

VISITS = 12
#: Marks when something that matches a selector is in the document.
_WATCH = """
window.shownAt = (selector) => new Promise((tell) => {
  const look = () => document.querySelector(selector) && (tell(performance.now()), true);
  if (look()) return;
  new MutationObserver((_, self) => look() && self.disconnect()).observe(document, { childList: true, subtree: true });
});
"""


def signed_in(site: Site, browser: Browser) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.link_of_somebody_new())
    expect(page.get_by_role("heading", name="Overview")).to_be_visible(timeout=sites.PATIENCE_MS)
    state = context.storage_state()
    context.close()
    return state


@contextmanager
def open_page(browser: Browser, state: Any) -> Iterator[Page]:
    """A page of a browser that has signed in, and has nothing in its cache."""
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 800})
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.set_default_timeout(sites.PATIENCE_MS)
    try:
        yield page
    finally:
        context.close()


class Transfers:
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


def quantile_row(
    name: str, measured: Latencies, goal_ms: float, note: str = "", *, quantile: float | None = None
) -> Row:
    """p50 and p95; the goal is for one of them, without a name for the median."""
    value = measured.quantile_ms(quantile or 0.5)
    p50, p95 = measured.quantile_ms(0.5), measured.quantile_ms(0.95)
    return Row(name, f"p50 {p50:.0f} ms, p95 {p95:.0f} ms", f"{goal_ms:.0f} ms", value <= goal_ms, note)


def metric(tools: Any, name: str) -> float:
    metrics = {metric["name"]: metric["value"] for metric in tools.send("Performance.getMetrics")["metrics"]}
    return float(metrics[name])
