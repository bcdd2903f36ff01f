"""A test that hangs says what it waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S

_HANGING = """
import asyncio

import pytest


async def never_answered():
    await asyncio.Event().wait()


@pytest.mark.timeout(1)
async def test_hangs():
    await asyncio.create_task(never_answered(), name="call")
"""


def test_a_test_that_times_out_names_what_each_task_waits_for(tmp_path: Path) -> None:
    """The stack of the event loop alone is the same for every hanging test."""
    hanging = tmp_path / "test_hangs.py"
    hanging.write_text(_HANGING)
    plugins = ["-p", "tests.hanging_tasks", "-p", "no:cacheprovider"]
    settings = ["-c", os.devnull, "--rootdir", str(tmp_path), "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *settings, str(hanging)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "task 'call' waits in never_answered (test_hangs.py:8) > wait (locks.py:" in done.stdout
