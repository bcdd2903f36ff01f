"""One site for all tests of the pages in a process, and one browser for each module: both are expensive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.web import site as sites
from tests.web import wheels
from tests.web.site import Site, Visit
from tests.web.workflows import FAILING, GATE, GOOD, HOSTILE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Playwright keeps an event loop running in this thread, so no other module's test may come between."""
    if reason := sites.chromium_is_missing():
        pytest.skip(reason)
    expect.set_options(timeout=sites.PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = sites.launch(playwright)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def installed_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the contents of both wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    return wheels.install(wheels.build(folder), folder / "installed")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, installed_wheels: Path) -> Iterator[Site]:
    """A daemon with a repository, two agents, and runs that ended well, failed, wait and have hostile names."""
    made = Site(tmp_path_factory.mktemp("site"), installed_wheels)
    try:
        made.make_repository()
        made.start_with_two_agents()
        made.runs = {name: made.start(text) for name, text in SAMPLES.items()}
        for name in ("good", "failing", "hostile"):
            made.wait_for(made.runs[name])
        yield made
    finally:
        made.close()


SAMPLES = {"good": GOOD, "failing": FAILING, "hostile": HOSTILE, "gate": GATE}


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    """A signed-in person."""
    with sites.visit(site, browser) as made:
        made.sign_in()
        yield made
