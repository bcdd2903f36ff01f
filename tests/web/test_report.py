"""The report of a run in a browser: sorted, filtered, saved, as of an event, and safe whatever servers say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.site import Site, Visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

INSPECT = """name: inspect
jobs:
  inspect:
    runs-on: {group: web, target: each}
    report:
      title: Servers
      columns:
        Name: ${{ agent.name }}
        Free: ${{ steps.disk.outputs.free }}
        Markup: ${{ steps.disk.outputs.markup }}
    steps:
      - id: disk
        run: |
          if [ "${{ agent.name }}" = web-1 ]; then free="10 GB"; else free="9 GB"; fi
          echo "free=$free" >> "$WATERFLOW_OUTPUT"
          echo "markup=<img src=x onerror=alert(1)>" >> "$WATERFLOW_OUTPUT"
      - if: agent.name == 'web-2'
        run: exit 4
"""


@pytest.fixture(scope="module")
def run(site: Site) -> str:
    """A run with a report of two servers, of which one failed."""
    started = site.start(INSPECT)
    site.wait_for(started)
    return started


def _names(page: Page) -> list[str]:
    return page.get_by_role("rowheader").all_inner_texts()


def test_a_report_is_a_table_of_what_each_server_said(site: Site, visit: Visit, run: str) -> None:
    """Its tab is one of the run's; a failed server has its values and the reason; markup is text."""
    page = visit.go(f"/runs/{run}")
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("grid", name="Servers")).to_be_visible()
    expect(page.get_by_role("columnheader")).to_have_text(["Server", "Result", "Name", "Free", "Markup", "Note"])
    failed = page.get_by_role("row").filter(has_text="web-2")
    expect(failed).to_contain_text("failed")
    expect(failed).to_contain_text("9 GB")
    expect(failed).to_contain_text("exit code 4")
    expect(failed).to_contain_text("<img src=x onerror=alert(1)>")
    assert visit.faults == []
    failed.get_by_role("link").click()
    expect(page.get_by_role("complementary", name="Details").locator(".place")).to_have_text("inspect[web-2]")


def test_a_click_on_a_heading_sorts_and_the_address_keeps_it(site: Site, visit: Visit, run: str) -> None:
    """9 GB is less than 10 GB; a second click reverses, and a reload shows the same."""
    page = visit.go(f"/runs/{run}?view=report")
    expect(page.get_by_role("rowheader")).to_have_text(["web-1", "web-2"])
    page.get_by_role("button", name="Free").click()
    expect(page.get_by_role("rowheader")).to_have_text(["web-2", "web-1"])
    page.get_by_role("button", name="Free").click()
    expect(page.get_by_role("rowheader")).to_have_text(["web-1", "web-2"])
    page.get_by_role("button", name="Server").click()
    page.get_by_role("button", name="Server").click()
    expect(page.get_by_role("rowheader")).to_have_text(["web-2", "web-1"])
    page.reload()
    expect(page.get_by_role("rowheader")).to_have_text(["web-2", "web-1"])
    expect(page.get_by_role("columnheader", name="Server")).to_have_attribute("aria-sort", "descending")


def test_rows_are_filtered_by_text_and_by_failure(site: Site, visit: Visit, run: str) -> None:
    """The button says how many there are."""
    page = visit.go(f"/runs/{run}?view=report")
    page.get_by_label("Find in the table").fill("10 gb")
    expect(page.get_by_role("rowheader")).to_have_text(["web-1"])
    page.get_by_label("Find in the table").fill("")
    page.get_by_role("button", name="Not succeeded 1").click()
    expect(page.get_by_role("rowheader")).to_have_text(["web-2"])


def test_a_report_is_saved_as_a_file(site: Site, visit: Visit, run: str, tmp_path: Path) -> None:
    """The link is the API's own, with the session of the page."""
    page = visit.go(f"/runs/{run}?view=report")
    with page.expect_download() as found:
        page.get_by_role("link", name="CSV").click()
    target = tmp_path / "report.csv"
    found.value.save_as(target)
    with target.open(newline="") as file:
        assert [row[:4] for row in csv.reader(file)] == [
            ["Server", "Result", "Name", "Free"],
            ["web-1", "success", "web-1", "10 GB"],
            ["web-2", "failure", "web-2", "9 GB"],
        ]


def test_the_past_has_the_report_of_that_time(site: Site, visit: Visit, run: str) -> None:
    """Before the first job had ended there were no values."""
    events = site.events(run)
    first = next(event["seq"] for event in events if event["type"] == "job-completed")
    page = visit.go(f"/runs/{run}?view=report&at={first - 1}")
    expect(page.get_by_role("rowheader")).to_have_count(2)
    expect(page.get_by_text("10 GB")).to_have_count(0)
    page.get_by_role("button", name="Back to now").click()
    expect(page.get_by_text("10 GB")).to_be_visible()
    assert _names(page) == ["web-1", "web-2"]


def test_a_run_without_a_report_has_no_such_tab(site: Site, visit: Visit) -> None:
    """Its other views are as always."""
    page = visit.go(f"/runs/{site.runs['failing']}")
    expect(page.get_by_role("link", name="Events")).to_be_visible()
    expect(page.get_by_role("link", name="Report", exact=True)).to_have_count(0)
