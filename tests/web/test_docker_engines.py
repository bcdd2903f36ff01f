"""Where jobs can have containers: what the pages say of servers with and without a Docker engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.language.job_containers import IN_CONTAINER, docker, setting, workflow
from tests.integration.nodes.docker_engine import DockerEngine
from tests.web import site as sites
from tests.web.site import Site

__all__ = ["docker"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def box(tmp_path: Path, installed_wheels: Path) -> Iterator[Site]:
    """A daemon whose only server, `box-1`, has no engine."""
    made = Site(tmp_path, installed_wheels)
    try:
        made.start_daemon()
        made.add_agent("box-1", "box", settings=f'docker-host = "{missing(made)}"')
        yield made
    finally:
        made.close()


def missing(site: Site) -> str:
    """An address without an engine."""
    return f"unix://{site.folder}/none.sock"


def picture(page: Page, name: str) -> None:
    """Writes a picture in both themes, wide and narrow, if somebody wants to look at it."""
    target = os.environ.get("WATERFLOW_SCREENSHOTS")
    if not target:
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    before = page.viewport_size
    assert before is not None
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.screenshot(path=f"{target}/{name}-{width}-{theme}.png", full_page=True)
    page.set_viewport_size(before)


def test_a_job_that_waits_for_an_engine_says_what_is_wrong_on_each_server(box: Site, browser: Browser) -> None:
    """The run's page has the reason with its details, and the overview the problem of each server."""
    run = box.start(workflow("      - run: echo inside\n", IN_CONTAINER))
    with sites.visit(box, browser) as visit:
        visit.sign_in()
        page = visit.go(f"/runs/{run}?place=a")
        details = page.get_by_role("complementary", name="Details")
        expect(details).to_contain_text('no connected server in group "box" can run the job\'s containers')
        expect(details).to_contain_text(f"(box-1: no Docker engine at {missing(box)}); install Docker")
        expect(details).to_contain_text("box · no server yet")
        expect(details).to_contain_text("at the latest")
        picture(page, "run-no-engine")

        page = visit.go("/")
        servers = page.get_by_role("region", name="Servers")
        expect(servers.get_by_text("No containers:")).to_be_hidden()
        servers.get_by_text("Docker engine on 0 of 1").click()
        expect(servers.get_by_role("listitem")).to_have_text(f"box-1No containers: no Docker engine at {missing(box)}")
        picture(page, "overview-no-engine")
        # Its only run is open.
        expect(page.get_by_role("region", name="Recent runs")).to_contain_text("No run has completed yet.")


@pytest.mark.root
def test_a_server_with_an_engine_appears_with_its_version(box: Site, docker: DockerEngine, browser: Browser) -> None:
    """The open overview counts it as soon as it is connected, and stays open."""
    with sites.visit(box, browser) as visit:
        visit.sign_in()
        servers = visit.page.get_by_role("region", name="Servers")
        servers.get_by_text("Docker engine on 0 of 1").click()

        box.add_agent("box-2", "box", settings=setting(docker))

        expect(servers).to_contain_text("Docker engine on 1 of 2")
        version = docker("version", "--format", "{{.Server.Version}}")
        expect(servers.get_by_role("listitem").filter(has_text="box-2")).to_have_text(f"box-2Docker {version}")
        expect(servers.get_by_role("listitem").filter(has_text="box-1")).to_contain_text("No containers:")
        picture(visit.page, "overview-engine")
