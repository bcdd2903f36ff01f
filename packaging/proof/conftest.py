"""Packages and root directories, made once for all tests.

`WATERFLOW_PROOF` names a folder in which packages and archives of roots are kept between two calls; by default all are made
anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from packaged import PackagedMachine, PackagedRoot  # noqa: E402

SUITES = ("bookworm", "trixie")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where packages and roots lie."""
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    kept = os.environ.get("WATERFLOW_PROOF")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("workshop")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _once(folder: Path, name: str, command: list[str], **environment: str) -> Path:
    """What a command makes as its last argument, made by one process only."""
    made = folder / name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            half = folder / f"half-{name}"
            shutil.rmtree(half, ignore_errors=True)
            subprocess.run([*command, str(half)], cwd=REPOSITORY, env=os.environ | environment, check=True)
            half.rename(made)
    return made


def _build(workshop: Path, name: str, *options: str) -> Path:
    wheels = _once(
        workshop,
        "wheels",
        [
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
        ],
    )
    command = [sys.executable, "-m", "builder", f"--wheels={wheels}", f"--work={workshop}/work-{name}", *options]
    return _once(workshop, name, [*command, "--target"], PYTHONPATH=str(REPOSITORY / "packaging"))


@pytest.fixture(scope="session")
def packages(workshop: Path) -> Path:
    """All packages, of release 1."""
    return _build(workshop, "packages")


@pytest.fixture(scope="session")
def packages_again(workshop: Path) -> Path:
    """The same, built again in another place."""
    return _build(workshop, "packages-again")


@pytest.fixture(scope="session")
def newer_packages(workshop: Path) -> Path:
    """The debs of release 2."""
    return _build(workshop, "newer-packages", "--release=2", "--format=deb")


def _archive(workshop: Path, suite: str) -> Path:
    """A small Debian without Python, from the mirror that this machine has."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main"]
    site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    include = "systemd,systemd-sysv,dbus,git,ca-certificates"
    options = f"--quiet --variant=minbase --format=tar --include={include}"
    # mmdebstrap takes the mirror behind the target, so a shell puts the target in its place.
    return _once(workshop, f"{suite}.tar", ["sh", "-c", f'mmdebstrap {options} {suite} "$0" {site}'])


@pytest.fixture
def bookworm(workshop: Path, tmp_path: Path) -> Iterator[PackagedRoot]:
    """The files of a Debian 12."""
    root = PackagedRoot(tmp_path / "root", _archive(workshop, "bookworm"))
    yield root
    shutil.rmtree(root.path, ignore_errors=True)


@pytest.fixture(params=SUITES)
def machine(
    request: pytest.FixtureRequest, workshop: Path, packages: Path, tmp_path: Path
) -> Iterator[PackagedMachine]:
    """A booted Debian without Python, which holds the debs."""
    root = PackagedRoot(tmp_path / "root", _archive(workshop, request.param))
    root.bring(packages)
    booted = PackagedMachine(tmp_path, root)
    try:
        booted.boot()
        yield booted
    finally:
        booted.close()
        shutil.rmtree(root.path, ignore_errors=True)
