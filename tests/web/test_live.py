"""What a page asks the daemon for: one stream of what it shows, and of a large run only what is in view."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, Response, expect

from tests.patience import wait_until
from tests.web.site import PATIENCE_MS, Site, Visit
from tests.web.workflows import TICKING, UNTIL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: The most elements that a page may have, however large the run is.
ELEMENTS_MAX = 2_500
#: Of the outline of a run with 1,000 nodes.
OUTLINE_BYTES_MAX = 250_000


class Streams:
    """The live streams of a page: those that are open, and all that were opened."""

    def __init__(self, page: Page) -> None:
        self.open: list[Request] = []
        self.opened: list[dict[str, list[str]]] = []
        page.on("request", self._on_request)
        page.on("requestfinished", self._on_end)
        page.on("requestfailed", self._on_end)

    def _on_request(self, request: Request) -> None:
        if "/v1/live" in request.url:
            self.open.append(request)
            self.opened.append(parse_qs(urlsplit(request.url).query))

    def _on_end(self, request: Request) -> None:
        if request in self.open:
            self.open.remove(request)


def _hide(page: Page, *, is_hidden: bool) -> None:
    """Tells the page that its tab is in the background, or in front again."""
    page.evaluate(
        "(isHidden) => { Object.defineProperty(document, 'hidden', { configurable: true, value: isHidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def test_a_tab_has_one_stream_with_the_topics_of_its_page(site: Site, visit: Visit) -> None:
    """Another page has other topics; the stream continues where it was, and the earlier one is closed."""
    page = visit.page
    # Lists are read once the stream is open, so this page's stream has opened before.
    expect(page.get_by_role("region", name="Servers")).to_be_visible()
    streams = Streams(page)
    with page.expect_request(re.compile("/v1/live.*topics=runs")):
        page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    (topics,) = (query["topics"] for query in streams.opened)
    assert topics == ["runs"]
    assert all(int(query["after"][0]) > 0 for query in streams.opened)
    with page.expect_event("requestfailed", lambda request: "topics=runs" in request.url):
        page.locator(".run-name").first.click()
    expect(page.get_by_role("treegrid")).to_be_visible()
    assert [request.url for request in streams.open if "topics=run%3A" not in request.url] == []
    assert len(streams.open) <= 1


def test_a_hidden_tab_closes_its_stream_and_misses_nothing(site: Site, visit: Visit) -> None:
    """30 seconds after the tab is hidden; when it is shown again, the page has what happened meanwhile."""
    page = visit.page
    page.clock.install()
    page.reload()
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    with page.expect_event("requestfailed", lambda request: "/v1/live" in request.url, timeout=PATIENCE_MS):
        _hide(page, is_hidden=True)
        page.clock.run_for(31_000)
    run = site.start("name: meanwhile\njobs: {a: {runs-on: web, steps: [{run: echo hidden}]}}\n")
    site.wait_for(run)
    expect(page.get_by_role("row").filter(has_text="meanwhile")).to_have_count(0)
    with page.expect_request(lambda request: "/v1/live" in request.url and "after=" in request.url):
        _hide(page, is_hidden=False)
    page.clock.resume()
    expect(page.get_by_role("row").filter(has_text="meanwhile")).to_contain_text("success")


def test_a_log_whose_tab_comes_back_is_sent_only_what_it_has_not(site: Site, visit: Visit, tmp_path: Path) -> None:
    """It asks from its first missing line on, and continues to the end without a gap."""
    stop = tmp_path / "stop"
    run = site.start(TICKING.replace("FILE", str(stop)))
    page = visit.page
    page.clock.install()
    try:
        visit.go(f"/runs/{run}/log/work/tick/1")
        expect(page.locator('.log-line[data-line="1"]')).to_be_attached()
        with page.expect_event("requestfailed", lambda request: "/v1/live" in request.url, timeout=PATIENCE_MS):
            _hide(page, is_hidden=True)
            page.clock.run_for(31_000)
        shown = int(page.locator(".log-line").last.get_attribute("data-line") or 0)
        asked = {"job": "work", "step": "tick", "attempt": 1, "tail": 1}
        wait_until(
            lambda: site.api("GET", f"/v1/runs/{run}/output", params=asked).json()["lines"] > shown + 50, "more lines"
        )
        again: list[str] = []
        page.on("request", lambda request: again.append(request.url) if "/output?" in request.url else None)
        with page.expect_request(lambda request: "/v1/live" in request.url and "output" in request.url) as live:
            _hide(page, is_hidden=False)
        page.clock.resume()
        (topic,) = parse_qs(urlsplit(live.value.url).query)["topics"]
        assert int(topic.partition("@")[2].split(",")[0]) >= shown
        page.wait_for_function(
            "(line) => [...document.querySelectorAll('.log-line')].some((one) => Number(one.dataset.line) > line)",
            arg=shown + 50,
        )
        assert [url for url in again if "tail=" not in url and "line=1&" in f"{url}&"] == []
    finally:
        stop.touch()
    expect(page.get_by_text("end of ticking")).to_be_visible()


def test_twenty_tabs_share_the_few_connections_of_a_browser(site: Site, visit: Visit) -> None:
    """A browser has six connections to a host. Tabs that were looked at before give theirs back, so the next opens at once."""
    context = visit.page.context
    tabs = [visit.page]
    streams = [Streams(visit.page)]
    for number in range(20):
        _hide(tabs[-1], is_hidden=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        tabs.append(page)
        streams.append(Streams(page))
        page.goto(site.address + ("/runs", "/", f"/runs/{site.runs['failing']}")[number % 3])
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".waiting")).to_have_count(0)
    expect(tabs[-1].locator(".connection")).to_contain_text("live")
    assert sum(len(one.open) for one in streams) <= 5


def test_a_run_is_followed_by_its_changes_alone(site: Site, visit: Visit, tmp_path: object) -> None:
    """While a run continues, its outline is read once; its end arrives in the stream."""
    until = f"{tmp_path}/go"
    run = site.start(
        UNTIL.replace("NAME", "followed").replace("FILE", until).replace("on: {push: {branches: [main]}}\n", "")
    )
    read: list[str] = []
    visit.page.on("request", lambda request: read.append(request.url) if "/outline" in request.url else None)
    page = visit.go(f"/runs/{run}")
    expect(page.get_by_role("row").filter(has_text="Wait for the test")).to_contain_text(re.compile(r"\d"))
    with open(until, "w"):
        pass
    expect(page.get_by_role("heading", name=re.compile(r"followed #\d+ success"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("success Wait for the test"))).to_be_visible()
    assert len(read) == 1


def test_others_than_those_that_failed_are_one_row_that_opens(site: Site, visit: Visit) -> None:
    """Of 40 instances the one that failed is shown; the key that opens a part shows the others."""
    values = ", ".join("3" if number == 17 else "0" for number in range(40))
    run = site.start(
        "name: forty\njobs:\n  build:\n    runs-on: web\n"
        f"    strategy: {{fail-fast: false, matrix: {{n: [{values}]}}}}\n"
        "    steps: [{name: Check, run: 'exit ${{ matrix.n }}'}]\n"
    )
    site.wait_for(run)
    page = visit.go(f"/runs/{run}?place=build")
    tree = page.get_by_role("treegrid")
    others = page.get_by_role("row").filter(has_text="39 others")
    expect(others).to_have_attribute("aria-expanded", "false")
    rows = int(tree.get_attribute("aria-rowcount") or 0)
    others.click()
    expect(others).to_have_attribute("aria-expanded", "true")
    expect(tree).to_have_attribute("aria-rowcount", str(rows + 39))
    page.keyboard.press("ArrowLeft")
    expect(tree).to_have_attribute("aria-rowcount", str(rows))
    page.keyboard.press("ArrowRight")
    expect(tree).to_have_attribute("aria-rowcount", str(rows + 39))


def test_a_run_of_a_thousand_jobs_opens(site: Site, visit: Visit) -> None:
    """Its jobs are read first, the steps of one when it is opened; the document holds what is in view."""
    values = ", ".join(str(number) for number in range(250))
    jobs = "".join(
        f"  j{number}:\n    runs-on: web\n    strategy: {{matrix: {{n: [{values}]}}}}\n"
        "    steps: [{name: Check, if: false, run: 'true'}]\n"
        for number in range(4)
    )
    run = site.start(f"name: thousand\njobs:\n{jobs}")
    site.wait_for(run)
    sizes: list[int] = []
    read: list[str] = []

    def note(answer: Response) -> None:
        if "/outline" in answer.url:
            read.append(answer.url)
            sizes.append(len(answer.body()))

    visit.page.on("response", note)
    page = visit.go(f"/runs/{run}")
    tree = page.get_by_role("treegrid")
    expect(tree).to_have_attribute("aria-rowcount", "9")
    others = page.get_by_role("row").filter(has_text="all 250")
    # From the last one on: what a row opens pushes those below it out of the document.
    for opened in range(4):
        others.nth(3 - opened).click()
        expect(tree).to_have_attribute("aria-rowcount", str(9 + 250 * (opened + 1)))
    page.keyboard.press("End")
    expect(page.get_by_role("row", selected=True)).to_contain_text("249")
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS_MAX
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("row").filter(has_text="Check")).to_be_visible()
    assert "job=j3%5B249%5D" in read[-1]
    visit.go(f"/runs/{run}?place=j2[7]/1")
    expect(page.get_by_role("row", selected=True)).to_contain_text("Check")
    assert max(sizes) <= OUTLINE_BYTES_MAX, sizes
