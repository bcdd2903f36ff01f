"""The wheels of both distributions, built from a copy of the checkout and unpacked as an installation would be."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> list[Path]:
    """Builds both wheels into a folder, without touching the checkout."""
    checkout, wheels = folder / "checkout", folder / "wheels"
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "build", "*.egg-info")
    for name in ("waterflowd", "agent"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    # As after `make web` in a checkout.
    (checkout / "waterflowd/web/src/node_modules/some").mkdir(parents=True)
    (checkout / "waterflowd/web/src/node_modules/some/module.py").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    command += ["--wheel-dir", str(wheels), str(checkout / "agent"), str(checkout)]
    subprocess.run(command, check=True, timeout=5 * PATIENCE_S)
    return sorted(wheels.glob("*.whl"))


def install(wheels: list[Path], folder: Path) -> Path:
    """Unpacks and compiles wheels, which are pure Python, into a folder that PYTHONPATH puts before the checkout."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    # As pip does. Otherwise each process would compile all modules.
    compileall.compile_dir(folder, quiet=1)
    return folder
