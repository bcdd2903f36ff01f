"""The graph of a run's jobs in a browser: selection, opening, zoom and search, and what a screen reader has instead."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.web.site import Site, Visit
from tests.web.workflows import DEPLOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: The most elements of the page, however large the graph is.
ELEMENTS_MAX = 800


@pytest.fixture(scope="module")
def deploy(site: Site) -> str:
    """A run of twelve jobs, one of them on each server."""
    run = site.start(DEPLOY)
    site.wait_for(run)
    return run


def _graph(page: Page) -> tuple[int, float]:
    """How many boxes there are, and the scale, once it is drawn."""
    canvas = page.locator(".graph-box canvas")
    expect(canvas).to_have_attribute("data-boxes", re.compile(r"^\d+$"))
    return int(canvas.get_attribute("data-boxes") or 0), float(canvas.get_attribute("data-scale") or 0)


def test_keys_walk_along_the_needs(visit: Visit, deploy: str) -> None:
    """Arrow keys select jobs along the lines; tree, details and address follow; Enter opens the instances."""
    page = visit.go(f"/runs/{deploy}?view=graph&place=build")
    box = page.get_by_role("application", name=re.compile("12 jobs as boxes"))
    box.focus()
    place = page.get_by_role("complementary", name="Details").locator(".place")
    page.keyboard.press("ArrowRight")
    expect(place).to_have_text(re.compile("^(image|backup|notify)$"))
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text("build")
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text(re.compile("^(lint|unit)$"))
    expect(page).to_have_url(re.compile("place=(lint|unit)"))
    expect(page.get_by_role("row", selected=True)).to_have_count(1)


def test_zoom_fit_and_search(visit: Visit, deploy: str) -> None:
    """The buttons and keys zoom, `0` shows all; a search counts what it finds and leads to it."""
    page = visit.go(f"/runs/{deploy}?view=graph")
    boxes, scale = _graph(page)
    assert boxes == 12
    canvas = page.locator(".graph-box canvas")
    page.get_by_role("application").focus()
    page.keyboard.press("+")
    expect(canvas).not_to_have_attribute("data-scale", f"{scale:.3f}")
    page.keyboard.press("0")
    page.get_by_role("textbox", name="Find a job").fill("smoke")
    expect(page.get_by_text("1 found")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("place=smoke"))


def test_the_view_is_in_the_address(visit: Visit, deploy: str) -> None:
    """A tab opens the graph with the same selection, and a reload shows both again."""
    page = visit.go(f"/runs/{deploy}?place=release")
    page.get_by_role("link", name="Graph").click()
    expect(page).to_have_url(re.compile("view=graph"))
    _graph(page)
    page.reload()
    expect(page.get_by_role("link", name="Graph")).to_have_attribute("aria-current", "page")
    expect(page.get_by_role("row", selected=True)).to_contain_text("release")
    page.get_by_role("link", name="Timeline").click()
    expect(page.locator(".graph-box")).to_have_count(0)


def test_many_jobs_are_shown_whole(site: Site, visit: Visit) -> None:
    """The largest file: its graph opens at a size at which all of it is in view, and the page has few elements."""
    jobs = [
        f"  j{number}: {{runs-on: web, if: false, needs: [j{(number - 1) // 3}], steps: [{{run: 'true'}}]}}\n"
        for number in range(1, 256)
    ]
    run = site.start(
        "name: many jobs\njobs:\n  j0: {runs-on: web, if: false, steps: [{run: 'true'}]}\n" + "".join(jobs)
    )
    site.wait_for(run)
    page = visit.go(f"/runs/{run}?view=graph")
    boxes, scale = _graph(page)
    assert boxes == 256
    assert scale < 0.7
    assert page.evaluate("document.querySelectorAll('*').length") <= ELEMENTS_MAX
