"""Packages and root directories, built once for all tests.

`WATERFLOW_PROOF` names a folder that keeps packages and archives of root directories between calls. By default
everything is built again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from packaged import PackagedMachine, PackagedRoot
from tools import REPOSITORY, need, once

SUITES = ("bookworm", "trixie")
_WHEELS = [
    sys.executable,
    "-m",
    "pip",
    "wheel",
    "-qq",
    "--no-build-isolation",
    "--no-deps",
    "./agent",
    ".",
    "--wheel-dir",
]
_LAST_CHANGE = ["git", "log", "-1", "--format=%ct"]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages and root directories."""
    need("mmdebstrap", "systemd-nspawn", "nsenter", "dpkg-deb", "strip")
    kept = os.environ.get("WATERFLOW_PROOF")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("workshop")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _command(workshop: Path, wheels: Path, name: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "builder", f"--wheels={wheels}", f"--work={workshop}/work-{name}"),
        *(*options, "--target"),
    ]


@pytest.fixture(scope="session")
def wheels(workshop: Path) -> Path:
    """The wheels of both distributions."""
    return once(workshop, "wheels", _WHEELS)


@pytest.fixture(scope="session")
def packages(workshop: Path, wheels: Path) -> Path:
    """All packages of release 1."""
    path = str(REPOSITORY / "packaging")
    return once(workshop, "packages", _command(workshop, wheels, "packages"), PYTHONPATH=path)


@pytest.fixture(scope="session")
def packages_again(workshop: Path, packages: Path) -> Path:
    """The same packages and wheels, built again: later, from a copy of the sources, in a different environment."""
    copy = workshop / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        # `copy` does not keep the modification times, so all files of the copy are new.
        shutil.copy(REPOSITORY / name, copy / name)
    at_s = subprocess.run(_LAST_CHANGE, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    other = {"SOURCE_DATE_EPOCH": at_s, "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    path = os.pathsep.join(map(str, (copy / "packaging", copy, copy / "agent")))
    wheels = once(workshop, "wheels-again", _WHEELS, copy, 0o077, **other)
    command = _command(workshop, wheels, "again")
    return once(workshop, "packages-again", command, copy, 0o077, **other, PYTHONPATH=path)


@pytest.fixture(scope="session")
def newer_packages(workshop: Path, wheels: Path) -> Path:
    """The deb packages of release 2."""
    command = _command(workshop, wheels, "newer-packages", "--release=2", "--format=deb")
    return once(workshop, "newer-packages", command, PYTHONPATH=str(REPOSITORY / "packaging"))


@pytest.fixture(scope="session")
def make_archive(workshop: Path) -> Callable[..., Path]:
    """Returns a function that builds a small Debian from this machine's mirror: suite, purpose, included packages."""

    def make(suite: str, purpose: str, *included: str) -> Path:
        command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main"]
        site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        options = f"--quiet --variant=minbase --format=tar --include={','.join(included)}"
        # mmdebstrap expects the mirror after the target, so a shell moves the target before it.
        return once(workshop, f"{suite}-{purpose}.tar", ["sh", "-c", f'mmdebstrap {options} {suite} "$0" {site}'])

    return make


def _bootable(make_archive: Callable[..., Path], suite: str) -> Path:
    """The archive of a bootable Debian without Python."""
    return make_archive(suite, "bootable", "systemd", "systemd-sysv", "dbus", "git", "ca-certificates")


@pytest.fixture
def bookworm(make_archive: Callable[..., Path], tmp_path: Path) -> Iterator[PackagedRoot]:
    """The root directory of a Debian 12."""
    root = PackagedRoot(tmp_path / "root", _bootable(make_archive, "bookworm"))
    yield root
    shutil.rmtree(root.path, ignore_errors=True)


@pytest.fixture(params=SUITES)
def machine(
    request: pytest.FixtureRequest, make_archive: Callable[..., Path], packages: Path, tmp_path: Path
) -> Iterator[PackagedMachine]:
    """A booted Debian without Python, with the deb packages copied to it."""
    root = PackagedRoot(tmp_path / "root", _bootable(make_archive, request.param))
    root.bring(packages)
    booted = PackagedMachine(tmp_path, root)
    try:
        booted.boot()
        yield booted
    finally:
        booted.close()
        shutil.rmtree(root.path, ignore_errors=True)
