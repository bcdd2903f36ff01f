"""A booted machine for each test: booting takes a fifth of a second."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.machine import Machine


@pytest.fixture
def bare_machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with systemd booted and programs and units installed, but nothing configured or started."""
    for program in ("systemd-nspawn", "nsenter", "git"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    made = Machine(tmp_path)
    try:
        made.boot()
        yield made
    finally:
        made.close()


@pytest.fixture
def machine(bare_machine: Machine) -> Machine:
    """A machine on which the daemon and an agent of the group `web` run as services."""
    bare_machine.install()
    return bare_machine
