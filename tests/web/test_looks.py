"""How the pages look: accessible in both themes, whole at 320 px, calm and clear in every mode that a system can ask for.

With `WATERFLOW_SCREENSHOTS=FOLDER` it also writes pictures of every page in both themes and three widths there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import npm
from tests.web import site as sites
from tests.web.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AXE = [Path(__file__).parent / "axe" / name for name in ("package.json", "package-lock.json")]
THEMES = ("light", "dark")
WIDTHS = (360, 1024, 1920)


@pytest.fixture(scope="module")
def axe(pytestconfig: pytest.Config) -> str:
    """The checker's script. It is evaluated by the browser's debugger, so the policy of the page stays on."""
    if program := npm.missing_program():
        pytest.skip(f"{program} is not installed; it installs axe")
    assert pytestconfig.cache is not None
    try:
        folder = npm.installed(AXE, pytestconfig.cache.mkdir("web-axe"))
    except npm.Unavailable as error:
        pytest.skip(str(error))
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def _paths(site: Site) -> Iterator[tuple[str, str]]:
    yield from (("overview", "/"), ("runs", "/runs"), ("settings", "/settings"), ("nothing", "/nothing"))
    yield from ((f"run-{name}", f"/runs/{run}") for name, run in site.runs.items())
    failing = f"/runs/{site.runs['failing']}"
    yield from (("critical", f"{failing}?critical=1&fold=1"), ("values", f"{failing}?view=values"))
    yield from (("servers", f"{failing}?view=servers"), ("past", f"{failing}?at=8"))
    yield ("report", f"/runs/{site.runs['good']}?view=report")
    yield ("artifacts", f"/runs/{site.runs['good']}?view=artifacts")
    yield from (("compare", f"{failing}?view=compare"), ("graph", f"{failing}?view=graph"))
    yield from (("log", f"/runs/{site.runs['hostile']}/log/a/bad/1"), ("log-servers", f"{failing}/log/release"))
    yield from (("events", f"{failing}?view=events&event=3"), ("none", "/runs?status=lost&name=nothing"))


@pytest.mark.parametrize("theme", THEMES)
def test_no_page_has_an_accessibility_fault(site: Site, browser: Browser, axe: str, theme: str) -> None:
    """axe finds nothing on any page, in its own colours."""
    with sites.visit(site, browser, color_scheme=theme) as visit:
        visit.page.goto(site.address + "/signin")
        expect(visit.page.get_by_label("API token")).to_be_visible()
        found = {"signin": _violations(visit.page.evaluate, axe)}
        visit.sign_in()
        for name, path in _paths(site):
            visit.go(path)
            found[name] = _violations(visit.page.evaluate, axe)
    assert {name: faults for name, faults in found.items() if faults} == {}


def _violations(evaluate: object, axe: str) -> list[str]:
    assert callable(evaluate)
    evaluate(f"{axe}; undefined")
    result = evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]


def test_nothing_is_cut_off(site: Site, browser: Browser) -> None:
    """No page scrolls sideways: neither on the narrowest screen, nor with text of twice the size on a small window."""
    with sites.visit(site, browser) as visit:
        visit.sign_in()
        wide = {}
        for name, path in _paths(site):
            page = visit.go(path)
            for width, size in ((320, "100%"), (640, "200%")):
                page.set_viewport_size({"width": width, "height": 640})
                page.evaluate(f"document.documentElement.style.fontSize = '{size}'")
                found = int(page.evaluate("document.documentElement.scrollWidth"))
                if found > width:
                    wide[f"{name}, {width} px, text at {size}"] = found
    assert wide == {}


def test_nothing_moves_when_motion_is_not_wanted(site: Site, browser: Browser) -> None:
    """With `prefers-reduced-motion` no animation runs; without it, the sign of a running run turns."""
    path = f"/runs/{site.runs['gate']}"
    for motion, expected in (("reduce", 0), ("no-preference", 1)):
        with sites.visit(site, browser, reduced_motion=motion) as visit:
            visit.sign_in()
            page = visit.go(path)
            moving = page.evaluate("document.getAnimations().filter((one) => one.playState === 'running').length")
            assert min(int(moving), 1) == expected


def test_forced_colours_keep_signs_and_selection(site: Site, browser: Browser) -> None:
    """In forced colours the selected row has an outline, and each state its sign."""
    with sites.visit(site, browser, forced_colors="active") as visit:
        visit.sign_in()
        page = visit.go(f"/runs/{site.runs['failing']}")
        selected = page.get_by_role("row", selected=True)
        assert selected.evaluate("(row) => getComputedStyle(row).outlineStyle") == "solid"
        expect(selected.get_by_role("img", name="failed")).to_be_visible()


def test_pictures_of_every_page(site: Site, browser: Browser) -> None:
    """Writes the pictures for a person to look at; without a folder for them there is nothing to do."""
    target = os.environ.get("WATERFLOW_SCREENSHOTS")
    if not target:
        pytest.skip("WATERFLOW_SCREENSHOTS names no folder for the pictures")
    Path(target).mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        for width in WIDTHS:
            settings = {"color_scheme": theme, "viewport": {"width": width, "height": 760}, "reduced_motion": "reduce"}
            with sites.visit(site, browser, **settings) as visit:
                visit.sign_in()
                for name, path in _paths(site):
                    visit.go(path)
                    visit.page.screenshot(path=f"{target}/{name}-{width}-{theme}.png")
