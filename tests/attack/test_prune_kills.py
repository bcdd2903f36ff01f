"""`kill -9` at a chosen system call while old runs are removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.injection import Fault, requires_strace, started_with
from tests.attack.sweep import portions, sweep
from tests.chance import IS_FULL
from tests.integration.store import pruning_process
from tests.patience import PATIENCE_S
from waterflowd.store.opening import open_store
from waterflowd.testing.host import codec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if IS_FULL else 1200)]

#: With a count that the removal of all old runs reaches.
PRUNE_CALLS = [("pwrite64", 60), ("fdatasync", 60), ("unlinkat", 12), ("rmdir", 6), ("flock", 6), ("futex", 200)]


@pytest.mark.parametrize("calls", portions(PRUNE_CALLS))
def test_a_kill_at_any_call_of_pruning_leaves_each_run_whole_or_gone(
    tmp_path: Path, calls: list[tuple[str, int]]
) -> None:
    """The log is valid, sequences do not go back, what must stay is whole, and the next process removes the rest."""
    requires_strace()
    filled = tmp_path / "filled"
    last_seq = pruning_process.prepare(filled)
    data = tmp_path / "data"

    def strike(fault: Fault) -> bool:
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(filled, data)
        command = [*started_with(fault), sys.executable, pruning_process.__file__, os.fspath(data)]
        environment = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2])}
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
        )
        is_struck = "done" not in child.stdout
        with open_store(data, codec()) as store:
            assert store.log.last_seq >= last_seq
            pruning_process.check(store)
        again = subprocess.run(
            command[-3:], capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
        )
        assert "done" in again.stdout, again.stderr
        with open_store(data, codec()) as store:
            pruning_process.check_done(store)
        return is_struck

    assert sweep(calls, strike), "no fault struck"
