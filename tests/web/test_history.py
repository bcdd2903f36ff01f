"""The history of a run: its servers in batches, and the slider over its events."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.patience import wait_until
from tests.web.site import Site, Visit
from tests.web.workflows import FAILING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MATRIX = """name: matrix
jobs:
  check:
    runs-on: web
    strategy: {fail-fast: false, matrix: {n: [1, 2, 3]}}
    steps: [{name: Check, run: "[ ${{ matrix.n }} != 2 ] || [ -e FILE ]"}]
"""

BUILT = """outputs: {version: "${{ steps.build.outputs.version }}"}
    steps: [{id: build, name: Build, run: 'echo version=1.4 >> "$WATERFLOW_OUTPUT"'}]"""

ROLL_OUT = """name: roll out
jobs:
  release:
    runs-on: {group: web, target: each, batch: 1, max-failures: 0}
    steps:
      - {id: migrate, name: Migrate, run: "[ -e FILE ] || exit 3"}
"""


def test_a_halted_roll_out_shows_the_line_and_repeats_what_it_left(site: Site, visit: Visit, tmp_path: Path) -> None:
    """The view has a cell for each server in its batch, and the reason where it was halted; *Re-run these* does only those."""
    mended = tmp_path / "mended"
    run = site.start(ROLL_OUT.replace("FILE", str(mended)))
    site.wait_for(run)
    page = visit.go(f"/runs/{run}")
    page.get_by_role("link", name="Servers", exact=True).click()
    grid = page.get_by_role("grid", name="Instances of release")
    rows = grid.get_by_role("row")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_contain_text("Batch 1 of 2")
    expect(rows.nth(1).get_by_role("img", name="failed")).to_be_visible()
    expect(rows.nth(2)).to_contain_text("Halted here:")
    expect(rows.nth(3)).to_contain_text("Batch 2 of 2")
    expect(rows.nth(4).get_by_role("img", name="skipped")).to_be_visible()
    page.get_by_role("button", name=re.compile("Not reached 1")).click()
    expect(page).to_have_url(re.compile("servers=not-reached"))
    expect(grid.get_by_role("gridcell").filter(has_text="web-")).to_have_count(1)
    page.get_by_role("button", name=re.compile("Failed 1")).click()
    expect(grid.get_by_role("gridcell").filter(has_text="web-")).to_have_count(2)
    mended.touch()
    page.get_by_role("button", name="Re-run these 2").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("release[web-1]")
    dialog.get_by_role("button", name="Re-run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("success")
    expect(page).not_to_have_url(re.compile(run))


def test_the_instances_of_a_matrix_that_failed_run_again(site: Site, visit: Visit, tmp_path: Path) -> None:
    """What had succeeded is reused; failed instances and those that were not reached run again together."""
    mended = tmp_path / "mended"
    run = site.start(MATRIX.replace("FILE", str(mended)))
    site.wait_for(run)
    page = visit.go(f"/runs/{run}?view=servers")
    again = page.get_by_role("button", name="Re-run these 1")
    page.get_by_role("button", name=re.compile("Failed 1")).click()
    expect(again).to_have_attribute("aria-disabled", "true")
    expect(again).to_have_attribute("title", "failed and not reached instances of a matrix run again together")
    page.get_by_role("button", name=re.compile("Failed 1")).click()
    mended.touch()
    again.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("listitem")).to_have_text(["check[2]", "check[1]", "check[3]"])
    dialog.get_by_role("button", name="Re-run").click()
    expect(page).not_to_have_url(re.compile(run))
    expect(page.get_by_role("heading", level=1)).to_contain_text("success")


def test_cells_are_moved_over_with_keys_and_select_the_part(site: Site, visit: Visit) -> None:
    """Arrows move between the cells; the selection is that of all views, so the timeline shows the same part."""
    page = visit.go(f"/runs/{site.runs['failing']}?view=servers&place=release[web-1]")
    place = page.get_by_role("complementary", name="Details").locator(".place")
    expect(place).to_have_text("release[web-1]")
    page.keyboard.press("ArrowRight")
    expect(place).to_have_text("release[web-2]")
    page.get_by_role("link", name="Timeline").click()
    expect(page.get_by_role("row", selected=True)).to_contain_text("web-2")


def test_the_slider_shows_an_earlier_instant_without_a_request_while_it_moves(site: Site, visit: Visit) -> None:
    """From the end to the start nothing is asked; at rest the details are those of `?at=`, which the address keeps."""
    run = site.runs["failing"]
    page = visit.go(f"/runs/{run}?place=release")
    slider = page.get_by_role("slider", name="Event history")
    last = int(slider.get_attribute("max") or 0)
    details = page.get_by_role("complementary", name="Details")
    expect(details.get_by_text("exit code 2")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    slider.evaluate(
        "async (slider) => { for (let at = Number(slider.max); at >= 4; at--) {"
        " slider.value = String(at); slider.dispatchEvent(new Event('input', { bubbles: true }));"
        " await new Promise(requestAnimationFrame); } }"
    )
    expect(page.get_by_role("status").filter(has_text="as of event 4")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("success"))).to_have_count(0)
    assert asked == []
    with page.expect_response(re.compile(r"part=release&at=4")) as answer:
        slider.dispatch_event("change")
    assert answer.value.json()["jobs"][0]["status"] == "waiting" or answer.value.json()["seq"] == 4
    expect(page).to_have_url(re.compile("at=4"))
    head = page.get_by_role("heading", level=1)
    expect(head).to_contain_text("as of event 4")
    expect(head).not_to_contain_text("failed")
    for action in ("Cancel", "Re-run", "Re-run failed"):
        expect(page.get_by_role("button", name=action, exact=True)).to_have_count(0)
    expect(details.get_by_role("button")).to_have_text(["Re-run from here", "Copy link"])
    page.reload()
    expect(page.get_by_role("status").filter(has_text="as of event 4")).to_be_visible()
    page.keyboard.press(".")
    expect(page).to_have_url(re.compile("at=5"))
    page.keyboard.press(">")
    expect(page).not_to_have_url(re.compile("at=5"))
    page.get_by_role("button", name="Back to now").click()
    expect(page).not_to_have_url(re.compile("at="))
    expect(page.get_by_role("button", name="Re-run failed")).to_be_visible()
    expect(head).to_contain_text("failed")
    expect(head).not_to_contain_text("as of event")
    assert last > 5


def test_the_history_is_played(site: Site, visit: Visit) -> None:
    """The space bar plays the events from the first to the last one, and the page is that of now again."""
    page = visit.go(f"/runs/{site.runs['good']}")
    last = int(page.get_by_role("slider", name="Event history").get_attribute("max") or 0)
    page.keyboard.press(" ")
    for event in (1, last // 2, last - 1):
        visit.said(f"as of event {event},")
    expect(page.get_by_role("status").filter(has_text="as of event")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("at="))
    expect(page.get_by_role("heading", level=1)).to_contain_text("success")


def test_a_key_counts_from_the_moment_at_which_its_part_is_shown(site: Site, visit: Visit) -> None:
    """The space bar is pressed in the same moment in which the slider enters the document, and the history is played."""
    visit.page.add_init_script(
        "new MutationObserver((changes, observer) => { if (!document.querySelector('.slider')) return; observer.disconnect();"
        " document.body.dispatchEvent(new KeyboardEvent('keydown', { key: ' ', bubbles: true })); })"
        ".observe(document, { childList: true, subtree: true });"
    )
    visit.go(f"/runs/{site.runs['good']}")
    visit.said("as of event 1,")


def test_what_is_not_over_says_what_it_waits_for(site: Site, visit: Visit) -> None:
    """The chain down to the decision, with the command for it; the same sentences as `waterflowctl why`."""
    run = site.runs["gate"]
    page = visit.go(f"/runs/{run}?place=ship")
    chain = page.get_by_role("region", name="What it waits for")
    expect(chain).to_contain_text("waterflowctl approve")
    printed = site.ctl("why", run, "ship").stdout
    for line in chain.get_by_role("listitem").locator("> span:not(.command)").all_inner_texts():
        assert line in printed


def _start_pushed(site: Site, revision: str, size: str) -> str:
    """The id of an ended run of the pushed workflow, once the daemon has applied the revision."""

    def applied() -> bool:
        rows = site.api("GET", "/v1/repositories").json()["repositories"]
        return [row["revision_applied"] for row in rows] == [revision]

    wait_until(applied, f"revision {revision} to be applied")
    answer = site.api("POST", "/v1/definitions/workflows/compared.yml/run", json={"inputs": {"size": size}})
    assert answer.status_code == 201, answer.text
    run = str(answer.json()["id"])
    site.wait_for(run)
    return run


def test_a_failed_run_is_compared_with_the_last_good_one(site: Site, visit: Visit) -> None:
    """Commits, inputs, steps that ended differently, reports, artifacts, and the first line that differs are named."""
    content = """name: compared
on: {workflow_dispatch: {inputs: {size: {type: string, default: "0"}}}}
jobs:
  a:
    runs-on: web
    # Rows of combinations, because each run may have another server.
    strategy: {matrix: {kind: [small]}}
    report: {columns: {Size: "${{ inputs.size }}"}}
    steps:
      - run: printf %0${{ inputs.size }}d 0 > size.txt
      - uses: artifact/upload
        with: {name: sizes, path: size.txt}
      - id: check
        name: Check
        run: |
          echo begins
          [ ${{ inputs.size }} = 0 ] && echo it fits || echo too large
          exit ${{ inputs.size }}
"""
    site.push(site.clone, {"workflows/compared.yml": content}, "add compared")
    good = _start_pushed(site, site.git("rev-parse", "HEAD", cwd=site.clone).strip(), "0")
    site.push(site.clone, {"first.txt": "1"}, "first change")
    bad = _start_pushed(site, site.push(site.clone, {"second.txt": "2"}, "second change"), "7")
    page = visit.go(f"/runs/{bad}")
    page.get_by_role("link", name="Compare").click()
    compared = page.get_by_role("region", name="Comparison with an earlier run")
    expect(compared.get_by_role("region", name="Inputs")).to_contain_text("0 → 7")
    expect(compared.get_by_role("region", name="Steps that ended differently")).to_contain_text("success")
    expect(compared.get_by_role("region", name="Reports")).to_contain_text("small, Size 0 → 7")
    expect(compared.get_by_role("region", name="Artifacts")).to_contain_text("size.txt 1 byte → 7 bytes")
    expect(compared.get_by_role("region", name="Commits between").get_by_role("listitem")).to_have_text(
        [re.compile("second change"), re.compile("first change")]
    )
    expect(compared.get_by_role("region", name="First line of output that differs:")).to_contain_text("- it fits")
    expect(compared.get_by_role("region", name="First line of output that differs:")).to_contain_text("+ too large")
    expect(compared).to_contain_text("The same in both:")
    expect(compared.locator(f"a[href='/runs/{good}']")).to_be_visible()
    # Nothing is before the good run, so another one has to be chosen.
    visit.go(f"/runs/{good}?view=compare")
    expect(page.get_by_role("main")).to_contain_text("before this one has succeeded; name another run")
    page.get_by_label("Compare with").select_option(bad)
    expect(compared.get_by_role("region", name="Inputs")).to_contain_text("7 → 0")
    expect(page).to_have_url(re.compile(f"against={bad}"))


def test_a_re_run_from_an_instant_reuses_what_had_succeeded_by_then(site: Site, visit: Visit) -> None:
    """In the past, *Re-run from here* means from that event; what it would reuse is shown before it starts."""
    run = site.start(FAILING.replace("steps: [{name: Build, run: echo built}]", BUILT))
    site.wait_for(run)
    built = next(event["seq"] for event in site.events(run) if event["type"] == "job-completed")
    page = visit.go(f"/runs/{run}?at={built}&place=release")
    page.get_by_role("button", name="Re-run from here").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Reused")
    expect(dialog).to_contain_text("build")
    dialog.get_by_role("button", name="Re-run").click()
    expect(page).not_to_have_url(re.compile(run))
    expect(page.get_by_role("link", name="re-run", exact=True)).to_have_attribute("href", f"/runs/{run}")
    again = page.url.split("/runs/")[1].split("?")[0]
    site.wait_for(again)
    before, after = (
        site.api("GET", f"/v1/runs/{one}", params={"part": "build"}).json()["jobs"][0] for one in (run, again)
    )
    assert after["outputs"] == before["outputs"] == {"version": "1.4"}
    assert after["reused"] is True
