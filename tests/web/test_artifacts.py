"""The artifacts of a run on its page: they appear as they are stored, can be downloaded, and say what became of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.web.site import Site, Visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORING = """name: storing
jobs:
  build:
    runs-on: web
    steps:
      - run: mkdir -p dist/css && echo '<h1>hi</h1>' > dist/index.html && echo 'b {}' > dist/css/a.css && echo one > single.txt
      - uses: artifact/upload
        with: {name: site, path: dist/, retention-days: 7}
      - run: while [ ! -e GATE ]; do sleep 0.05; done
      - uses: artifact/upload
        with: {name: later & more, path: single.txt}
"""


def _row(rows: Locator, name: str) -> Locator:
    return rows.filter(has_text=name)


def test_artifacts_appear_and_can_be_downloaded(site: Site, visit: Visit, tmp_path: Path) -> None:
    """The archive, and each file directly; what is stored later appears without a reload; a deleted one says who did it."""
    gate = tmp_path / "gate"
    run = site.start(STORING.replace("GATE", str(gate)))
    page = visit.go(f"/runs/{run}")
    page.get_by_role("link", name="Artifacts", exact=True).click()
    rows = page.locator(".artifacts > ul > li")
    expect(rows).to_have_count(1)
    expect(_row(rows, "site")).to_contain_text("2 files")
    expect(_row(rows, "site")).to_contain_text("build/2")
    expect(_row(rows, "site")).to_contain_text("expires in")

    gate.touch()
    expect(rows).to_have_count(2)
    expect(_row(rows, "later & more")).to_contain_text("1 file · 4 bytes")

    with page.expect_download() as archive:
        page.get_by_role("link", name="Download site as a tar archive").click()
    archive.value.save_as(tmp_path / "site.tar")
    with tarfile.open(tmp_path / "site.tar") as opened:
        assert opened.getnames() == ["css/a.css", "index.html"]
    page.get_by_role("button", name="Files of later & more").click()
    with page.expect_download() as single:
        page.get_by_role("link", name="single.txt").click()
    single.value.save_as(tmp_path / "single.txt")
    assert (tmp_path / "single.txt").read_text() == "one\n"

    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.set_viewport_size({"width": 1280, "height": 800})

    site.wait_for(run)
    assert site.api("DELETE", f"/v1/runs/{run}/artifacts/site").status_code == 200
    page.reload()
    expect(_row(rows, "site")).to_contain_text("deleted by")
    expect(_row(rows, "site").get_by_role("link", name="Download")).to_have_count(0)
    _row(rows, "later & more").get_by_role("link", name="build/4").click()
    expect(page.get_by_role("complementary", name="Details")).to_contain_text("build/4")
    assert visit.faults == []


def test_a_run_without_artifacts_says_so(site: Site, visit: Visit) -> None:
    """An empty view explains itself."""
    page = visit.go(f"/runs/{site.runs['good']}?view=artifacts")

    expect(page.get_by_role("main")).to_contain_text("No step of this run has stored an artifact.")
