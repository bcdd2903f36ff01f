"""The pages' build, types and unit tests, with Node: the committed files are those that the lock file and the sources give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import npm
from tests.patience import PATIENCE_S
from waterflowd.web.files import STATIC

SOURCES = STATIC.parent / "src"
#: What `npm ci` reads.
FILES = [SOURCES / name for name in ("package.json", "package-lock.json", ".npmrc")]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def checkout(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with the packages of the lock file and nothing else."""
    if program := npm.missing_program():
        pytest.skip(f"{program} is not installed; it builds the web pages")
    assert pytestconfig.cache is not None
    try:
        packages = npm.installed(FILES, pytestconfig.cache.mkdir("web-build"))
    except npm.Unavailable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("web") / "src"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * PATIENCE_S
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_sources_give_the_committed_bytes(checkout: Path) -> None:
    """A build from the lock file in another folder is equal to the committed one, file by file."""
    _run(checkout, "node", "build.mjs")
    made = {file.name: file.read_bytes() for file in (checkout.parent / "static").iterdir()}
    committed = {file.name: file.read_bytes() for file in STATIC.iterdir()}
    assert made.keys() == committed.keys()
    assert [name for name, content in made.items() if committed[name] != content] == []


def test_types_are_right(checkout: Path) -> None:
    """The strict compiler finds no error in the sources and their tests."""
    _run(checkout, "node", "node_modules/typescript/lib/tsc.js", "--noEmit", "-p", ".")


def test_unit_tests_of_the_model_pass(checkout: Path) -> None:
    """Node's test runner finds the tests, and no failure."""
    output = _run(checkout, "node", "tests/run.mjs")
    assert "# fail 0" in output
    assert "# pass 0" not in output
