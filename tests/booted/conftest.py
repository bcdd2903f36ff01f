"""Booted machines: one for each test that changes it, and one in each module for tests that leave it as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.machine import Machine


@contextlib.contextmanager
def booted(folder: Path, *options: str) -> Iterator[Machine]:
    """Boots a machine, with further options of systemd-nspawn; skips the test where that is impossible."""
    for program in ("systemd-nspawn", "nsenter", "git"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    made = Machine(folder, *options)
    try:
        made.boot()
        yield made
    finally:
        made.close()


@pytest.fixture
def bare_machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with systemd booted and programs and units installed, but nothing configured or started."""
    with booted(tmp_path) as made:
        yield made


@pytest.fixture
def machine(bare_machine: Machine) -> Machine:
    """A machine on which the daemon and an agent of the group `web` run as services."""
    bare_machine.install()
    return bare_machine


@pytest.fixture(scope="module")
def shared_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Such a machine for tests whose services run again when they end, with the configuration that they had before."""
    with booted(tmp_path_factory.mktemp("machine")) as made:
        made.install()
        yield made
