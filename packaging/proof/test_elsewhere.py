"""On systems without packages, the wheels are installed with pipx."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tools import need

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_pipx_installs_the_wheels_and_the_demo_works(wheels: Path, tmp_path: Path) -> None:
    """The commands in docs/installation.md work. Without a terminal, the demo exits with the exit code of its run."""
    need("pipx")
    environment = os.environ | {"PIPX_HOME": f"{tmp_path}/home", "PIPX_BIN_DIR": f"{tmp_path}/bin"}
    (daemon,) = wheels.glob("waterflow-*.whl")
    (agent,) = wheels.glob("waterflow_agent-*.whl")
    for wheel in (f"{daemon}", f"{agent}[nodes]"):
        command = ["pipx", "install", f"--pip-args=--find-links={wheels}", wheel]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {file.name for file in (tmp_path / "bin").iterdir()} == {"waterflowd", "waterflowctl", "waterflow-agent"}
    demo = subprocess.run(
        [tmp_path / "bin" / "waterflowctl", "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert subprocess.run([tmp_path / "bin" / "waterflow-agent", "version"], check=True, capture_output=True).stdout
