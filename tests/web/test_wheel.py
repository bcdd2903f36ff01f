"""What is installed of the web pages: the built files, and nothing of their sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflowd.web.files import STATIC

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_the_build_and_no_sources(tmp_path: Path) -> None:
    """All built files are in the wheel; neither a source nor a package of npm is."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    shutil.copytree(
        ROOT / "waterflowd", checkout / "waterflowd", ignore=shutil.ignore_patterns("__pycache__", "node_modules")
    )
    # As after `make web` in a checkout.
    (checkout / "waterflowd/web/src/node_modules/some").mkdir(parents=True)
    (checkout / "waterflowd/web/src/node_modules/some/module.py").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(checkout)], check=True, timeout=5 * PATIENCE_S)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("waterflowd/web/")}
    assert {name for name in names if "/src/" in name} == set()
    assert {f"waterflowd/web/static/{file.name}" for file in STATIC.iterdir()} <= names
