"""The list of runs: filters that are an address, saved views, rows that wait, and several runs at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.patience import wait_until
from tests.web import site as sites
from tests.web.site import Site, Visit
from tests.web.workflows import GATE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = "name: NAME\njobs: {a: {runs-on: web, if: false, steps: [{run: 'true'}]}}\n"

#: Has one job that has failed, and one that continues until a file appears.
HALF = """name: half
jobs:
  breaks: {runs-on: web, steps: [{id: check, run: exit 3}]}
  continues: {runs-on: web, steps: [{run: "until [ -e FILE ]; do sleep 0.1; done"}]}
"""


def _skipped(site: Site, name: str, count: int) -> list[str]:
    runs = [site.start(QUICK.replace("NAME", name)) for _ in range(count)]
    site.wait_for(runs[-1])
    return runs


def test_a_filter_of_four_parts_is_reloaded_shared_and_gone_back_to(site: Site, visit: Visit, browser: Browser) -> None:
    """The same rows after a reload and in another browser; after a look at a run, the same rows at the same place."""
    runs = _skipped(site, "scrolled", 130)
    page = visit.go("/runs?status=success,skipped&name=scrolled&trigger=api&since=7d")
    expect(page.get_by_text("130 runs")).to_be_visible()
    page.get_by_role("button", name=re.compile(r"Load older \(30 more\)")).click()
    grid = page.get_by_role("grid", name="Runs")
    expect(page.get_by_text("No older runs.")).to_be_visible()
    grid.evaluate("(grid) => { grid.scrollTop = grid.scrollHeight; }")
    row = page.get_by_role("row").filter(has=page.locator(f"a[href='/runs/{runs[0]}']"))
    expect(row).to_be_visible()
    place = grid.evaluate("(grid) => grid.scrollTop")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name=re.compile("scrolled #"))).to_be_visible()
    page.go_back()
    expect(row).to_be_visible()
    assert grid.evaluate("(grid) => grid.scrollTop") == place
    address = page.url.removeprefix(site.address)
    page.reload()
    expect(page.get_by_text("130 runs")).to_be_visible()
    with sites.visit(site, browser) as colleague:
        colleague.sign_in()
        colleague.go(address)
        expect(colleague.page.get_by_text("130 runs")).to_be_visible()
        first = colleague.page.get_by_role("row").nth(1)
        expect(first.locator(f"a[href='/runs/{runs[-1]}']")).to_be_visible()


def test_an_empty_list_says_which_filter_removes_most(site: Site, visit: Visit) -> None:
    """Each filter has a button with the number of runs without it; the one that removes most is first."""
    page = visit.go("/runs?status=failure&name=nothing")
    drops = page.locator(".drops li")
    expect(drops.first).to_contain_text(re.compile(r"Without name:nothing.*\d+ run"))
    expect(drops.nth(1)).to_contain_text("0 runs")
    drops.first.get_by_role("button").click()
    expect(page.get_by_role("row").filter(has_text="deploy").first).to_be_visible()
    page.go_back()
    expect(drops).to_have_count(2)


def test_a_view_is_saved_in_this_browser(site: Site, visit: Visit) -> None:
    """A name for the filters in use; it leads there again after a reload, until it is removed."""
    page = visit.go("/runs?status=failure")
    page.get_by_role("button", name="Save view").click()
    page.get_by_label("Name of the view").fill("what failed")
    page.get_by_role("dialog").get_by_role("button", name="Save view").click()
    visit.go("/runs")
    page.get_by_role("link", name="what failed").click()
    expect(page).to_have_url(re.compile(r"\?status=failure$"))
    page.get_by_role("button", name="Remove the view what failed").click()
    expect(page.get_by_role("link", name="what failed")).to_have_count(0)


def test_new_rows_wait_above_what_somebody_reads(site: Site, visit: Visit) -> None:
    """At the top a new run appears at once; with the selection on a row it waits behind a button."""
    page = visit.go("/runs")
    _skipped(site, "at once", 1)
    expect(page.get_by_role("row").nth(1)).to_contain_text("at once")
    page.keyboard.press("j")
    page.keyboard.press("j")
    _skipped(site, "later", 2)
    expect(page.get_by_role("button", name="2 new ↑")).to_be_visible()
    expect(page.get_by_role("row").nth(1)).to_contain_text("at once")
    page.get_by_role("button", name="2 new ↑").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("later")


def test_several_runs_are_cancelled_with_one_summary(site: Site, visit: Visit) -> None:
    """`x` selects; the summary lists what would be cancelled and what is left out; afterwards the rows say it."""
    runs = [site.start(GATE.replace("name: release", "name: several")) for _ in range(2)]
    _skipped(site, "several", 1)
    page = visit.go("/runs?name=several")
    expect(page.get_by_role("row").filter(has_text="several")).to_have_count(3)
    for _ in range(3):
        page.keyboard.press("j")
        page.keyboard.press("x")
    bar = page.get_by_role("region", name="Selected runs")
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog", name="Cancel: 2 runs")
    expect(dialog).to_contain_text("1 other of the selected runs is left out")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_contain_text("Done for 2 of 2.")
    dialog.get_by_role("button", name="Close").last.click()
    for run in runs:
        assert site.wait_for(run)["conclusion"] == "cancelled"
    expect(page.get_by_role("row").filter(has_text="cancelled")).to_have_count(2)
    expect(bar).to_have_count(0)


def test_a_row_says_how_far_the_run_is_and_what_failed(site: Site, visit: Visit, tmp_path: Path) -> None:
    """Of an open run, how many jobs are completed; of any, the part that failed first, its server and why; by server too."""
    stop = tmp_path / "stop"
    run = site.start(HALF.replace("FILE", str(stop)))
    try:
        wait_until(lambda: site.run(run)["progress"]["failed"] == 1, "the job to fail")
        page = visit.go("/runs?name=half")
        row = page.get_by_role("row").filter(has_text="half #")
        expect(row.get_by_role("progressbar", name="1 of 2 jobs completed, 1 failed")).to_be_visible()
        expect(row).to_contain_text(re.compile(r"breaks/check on web-\d: .*exit code 3"))
        visit.go("/")
        at_work = page.get_by_role("region", name="At work").get_by_role("listitem").filter(has_text="half")
        expect(at_work.get_by_role("progressbar", name="1 of 2 jobs completed, 1 failed")).to_be_visible()
    finally:
        stop.touch()
    site.wait_for(run)
    server = site.run(run)["jobs"][0]["agent"]
    page = visit.go(f"/runs?name=half&server={server}&group=web")
    expect(page.get_by_text("1 run", exact=True)).to_be_visible()
    expect(row).to_contain_text(re.compile(r"breaks/check on web-\d: .*exit code 3"))
    expect(row.get_by_role("progressbar")).to_have_count(0)
    visit.go("/runs?name=half&server=web-9")
    expect(page.get_by_role("button", name="Without server:web-9")).to_be_visible()
