"""What is installed of the web pages: the built files, and nothing of their sources. The tests of the pages run on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.web.site import Site
from waterflowd.web.files import STATIC

pytestmark = pytest.mark.slow


def test_the_wheel_holds_the_build_and_no_sources(installed_wheels: Path) -> None:
    """All built files are in the wheel; neither a source nor a package of npm is."""
    web = installed_wheels / "waterflowd/web"
    assert not (web / "src").exists()
    assert {file.name for file in STATIC.iterdir()} <= {file.name for file in (web / "static").iterdir()}


def test_the_pages_are_tested_on_the_wheel(site: Site, installed_wheels: Path) -> None:
    """The programs of the site are those of the wheels, not those of the checkout."""
    program = "import waterflowd, waterflow_agent; print(waterflowd.__file__, waterflow_agent.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=site.environment(),
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.split() == [
        str(installed_wheels / name / "__init__.py") for name in ("waterflowd", "waterflow_agent")
    ]
