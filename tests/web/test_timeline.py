"""The views of a run: critical path, folded idle time, zoom, values and events; all of it in the address."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.web.site import Site, Visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: Waits for a decision between two steps, so most of its time nothing runs.
IDLE = """name: idle
on: {workflow_dispatch: {inputs: {version: {type: string, default: "1.4"}}}}
jobs:
  build:
    runs-on: web
    steps: [{name: Build, run: echo built}, {id: gate, name: Decide, uses: approval, with: {timeout: 7d, default: reject}}]
  ship:
    needs: build
    runs-on: web
    steps: [{name: Ship, run: echo shipped}]
"""

#: Keeps which marks of the axis overlap when the page has been drawn for a narrow window. Later the page is drawn anyway,
#: because times grow.
_WATCH_MARKS = """() => {
  const overlapping = () => {
    const boxes = [...document.querySelectorAll(".ticks i")].map((mark) => {
      const range = document.createRange();
      range.selectNodeContents(mark);
      return { text: mark.innerText, box: range.getBoundingClientRect() };
    });
    if (boxes.length === 0) return ["there are no marks"];
    return boxes.filter(({ box }, index) => index > 0 && boxes[index - 1].box.right > box.left).map(({ text }) => text);
  };
  window.marksOverlap = new Promise((resolve) => {
    matchMedia("(max-width: 600px)").addEventListener("change", () => setTimeout(() => resolve(overlapping())));
  });
}"""


def test_the_critical_path_is_outlined_and_said_in_a_sentence(site: Site, visit: Visit) -> None:
    """`c` shows which jobs the end of the run had to wait for, and the address keeps it."""
    page = visit.go(f"/runs/{site.runs['failing']}")
    sentence = page.get_by_role("status").filter(has_text="Critical path:")
    expect(sentence).to_have_count(0)
    page.keyboard.press("c")
    expect(sentence).to_contain_text(re.compile(r"build → release\[web-\d\]: \d"))
    rows = page.locator(".run-tree .row.critical")
    expect(rows.first).to_contain_text("on the critical path")
    expect(page).to_have_url(re.compile("critical=1"))
    page.reload()
    expect(sentence).to_be_visible()
    page.keyboard.press("c")
    expect(sentence).to_have_count(0)


def test_idle_time_is_folded_and_a_dragged_span_is_shown_alone(site: Site, visit: Visit) -> None:
    """`z` shortens the wait for the decision; dragging and the keys zoom; `0` shows all again."""
    run = site.start(IDLE)
    page = visit.go(f"/runs/{run}")
    page.get_by_role("button", name="Approve").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name=re.compile(r"idle #\d+ success"))).to_be_visible()
    expect(page.locator(".ticks .fold")).to_have_count(0)
    page.keyboard.press("z")
    expect(page.locator(".ticks .fold")).not_to_have_count(0)
    expect(page).to_have_url(re.compile("fold=1"))
    page.keyboard.press("z")
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile(r"zoom=\d+-\d+"))
    page.keyboard.press("0")
    expect(page).not_to_have_url(re.compile("zoom="))
    bars = page.locator(".run-tree .row .c-bars").first.bounding_box()
    assert bars is not None
    middle = bars["y"] + bars["height"] / 2
    page.mouse.move(bars["x"] + bars["width"] * 0.2, middle)
    page.mouse.down()
    page.mouse.move(bars["x"] + bars["width"] * 0.5, middle)
    expect(page.locator(".chosen-span")).to_be_visible()
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"zoom=\d+-\d+"))
    expect(page.locator(".chosen-span")).to_have_count(0)


def test_the_marks_of_the_axis_do_not_overlap_when_the_window_becomes_narrow(site: Site, visit: Visit) -> None:
    """A phone that is turned shows fewer of them, of a run that has ended as well."""
    page = visit.go(f"/runs/{site.runs['failing']}")
    expect(page.locator(".ticks i").nth(2)).to_be_visible()

    page.evaluate(_WATCH_MARKS)
    page.set_viewport_size({"width": 360, "height": 640})

    assert page.evaluate("window.marksOverlap") == []


def test_values_and_events_have_their_own_views(site: Site, visit: Visit) -> None:
    """Inputs and outputs of the run; the events with filters in the address, and the JSON of one of them."""
    run = site.start(IDLE)
    page = visit.go(f"/runs/{run}?view=values")
    expect(page.get_by_role("region", name="Inputs")).to_contain_text("1.4")
    page.get_by_role("link", name="Events").click()
    table = page.get_by_role("grid", name="Events of the run")
    expect(table.get_by_role("row").nth(1)).to_contain_text("run-created")
    visit.go(f"/runs/{site.runs['failing']}?view=events")
    page.get_by_label("failures only").check()
    expect(page).to_have_url(re.compile("failures=1"))
    expect(table.get_by_role("row").filter(has_text="run-created")).to_have_count(0)
    expect(table.get_by_role("row").filter(has_text="exit code 2").first).to_be_visible()
    page.get_by_label("Type").select_option("step-completed")
    page.get_by_label("Job or step").fill("migrate")
    expect(table.get_by_role("row")).to_have_count(3)
    page.keyboard.press("Escape")
    table.get_by_role("row").nth(1).click()
    expect(page.get_by_role("complementary", name="The event as JSON")).to_contain_text('"type": "step-completed"')
    page.reload()
    expect(page.get_by_role("complementary", name="The event as JSON")).to_be_visible()


def test_events_that_follow_are_added(site: Site, visit: Visit) -> None:
    """The table of an open run grows by what happens, without reading the history again."""
    run = site.start(IDLE)
    page = visit.go(f"/runs/{run}?view=events")
    expect(page.get_by_role("row").filter(has_text="approval-requested")).to_be_visible()
    read: list[str] = []
    page.on("request", lambda request: read.append(request.url) if "/events?" in request.url else None)
    assert site.api("POST", f"/v1/runs/{run}/approve", json={}).status_code == 200
    expect(page.get_by_role("row").filter(has_text="run-completed")).to_be_visible()
    assert all("cursor=0" not in url for url in read)
