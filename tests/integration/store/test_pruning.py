"""Removal of runs and output from a real log: what is left after a kill, beside a backup, and in a salvaged copy."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.integration.store import pruning_process
from tests.integration.store.pruning_process import (
    FIRST_AT,
    RUNS,
    attempt,
    check,
    check_done,
    is_kept,
    output_bytes,
    run,
)
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Stalled
from waterflowd.host.retention.policy import Retention
from waterflowd.host.retention.pruner import Pruner
from waterflowd.model import ids
from waterflowd.model.records import RemovalRule
from waterflowd.store import copying, layout, output_files, salvage
from waterflowd.store.opening import examine, open_store
from waterflowd.testing.host import ManualClock, codec

DAY_MS = pruning_process.DAY_MS
SCRIPT = Path(pruning_process.__file__)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    pruning_process.prepare(path)
    return path


def lines_until_killed(path: Path, commits: int) -> bool:
    """Prunes in a child that kills itself in its n-th transaction, before it is durable; False if it has ended before."""
    code = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "import waterflowd.store.writer as writer\n"
        "from waterflowd.store.staging import Staging\n"
        "from tests.integration.store import pruning_process\n"
        "left, flush = [int(sys.argv[2])], Staging.flush\n"
        "def counted(self):\n"
        "    left[0] -= 1\n"
        "    flush(self)\n"
        "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Staging.flush = counted\n"
        "asyncio.run(pruning_process.prune(Path(sys.argv[1]), events_max=10))\n"
    )
    command = [sys.executable, "-c", code, os.fspath(path), str(commits)]
    child = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, text=True)
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode != 0


def test_a_kill_between_two_pieces_leaves_each_run_whole_or_gone(filled: Path) -> None:
    """After each kill the log is valid, sequences have not gone back, and the next process continues where it ended."""
    with open_store(filled, codec()) as store:
        last_seq, gone = store.log.last_seq, 0
    for commits in (1, 2, 3, 10, 17):
        assert lines_until_killed(filled, commits)
        with open_store(filled, codec()) as store:
            assert store.log.last_seq >= last_seq
            assert gone <= check(store)
            last_seq, gone = store.log.last_seq, check(store)
    assert 0 < gone < RUNS // 2
    assert not lines_until_killed(filled, 1_000_000)
    with open_store(filled, codec()) as store:
        check_done(store)
    assert examine(filled).records > 0


async def prune(path: Path, rules: Retention, days: int = 100) -> None:
    with open_store(path, codec()) as store:
        clock = ManualClock(FIRST_AT + days * DAY_MS)
        async with pruning_process.driving(store.log, clock) as driver:
            await Pruner(rules, store.log, store.outputs, driver, clock).round()


async def test_old_output_goes_and_its_run_stays(filled: Path) -> None:
    """Rows and files are removed; the run says when and why. Age first, then the oldest output until the rest fits."""
    await prune(filled, Retention(output_max_age_ms=DAY_MS))
    with open_store(filled, codec()) as store:
        store.verify()
        for number in range(RUNS):
            assert store.log.run(run(number)) is not None
            memory = store.log.removed_output(run(number))
            assert (memory is not None) == (output_bytes(number) > 0)
            assert memory is None or memory.rule is RemovalRule.OUTPUT_AGE
            assert store.outputs.size(attempt(number)) == 0
    assert list(output_files.files_in(filled / layout.OUTPUT_DIRECTORY)) == []


async def test_the_oldest_output_goes_until_the_rest_fits(filled: Path) -> None:
    """The limit counts all output; newer output stays."""
    limit = 600_000
    await prune(filled, Retention(output_max_bytes=limit))
    with open_store(filled, codec()) as store:
        assert store.outputs.stored_bytes() <= limit
        removed = [number for number in range(RUNS) if store.log.removed_output(run(number)) is not None]
        kept = [number for number in range(RUNS) if store.outputs.size(attempt(number)) > 0]
        assert removed
        assert kept
        assert max(removed) < min(kept)


async def test_files_stay_while_a_backup_reads_them(filled: Path, tmp_path: Path) -> None:
    """The rows go at once; the files of these runs go with the next round after the backup."""
    folder = filled / layout.OUTPUT_DIRECTORY
    before = set(output_files.files_in(folder))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # What a backup holds (`output_files.all_kept`), in another open file description.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        await prune(filled, pruning_process.RULES)
        assert set(output_files.files_in(folder)) == before
    finally:
        os.close(descriptor)
    await prune(filled, pruning_process.RULES)
    with open_store(filled, codec()) as store:
        check_done(store)


async def test_a_backup_beside_pruning_is_whole(filled: Path, tmp_path: Path) -> None:
    """Whatever moment its snapshot shows: all runs in it are whole, with their files."""
    pruning = asyncio.create_task(prune(filled, pruning_process.RULES))
    made = tmp_path / "backup"
    await asyncio.to_thread(copying.back_up, filled, made, lambda environment, name: True)
    await pruning
    restored = tmp_path / "restored"
    with copying.restore_backup(made, restored):
        pass
    with open_store(restored, codec()) as store:
        check(store)
    # The backup may have kept files of removed runs.
    await prune(filled, pruning_process.RULES)
    with open_store(filled, codec()) as store:
        check_done(store)


_GROW = """
import lmdb, sys
with lmdb.open(sys.argv[1], map_size=1 << 30, max_dbs=30) as environment, environment.begin(write=True) as transaction:
    transaction.put(b"added", bytes(32 << 20))
"""


def test_a_log_that_grows_while_its_copy_begins_is_copied(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that writes much adds pages between the opening of the log and the snapshot."""
    source, target = filled / layout.ENVIRONMENT_DIRECTORY, tmp_path / "copy"
    target.mkdir()
    opened = lmdb.open

    def open_and_grow(*arguments: Any, **options: Any) -> lmdb.Environment:
        environment = opened(*arguments, **options)
        subprocess.run([sys.executable, "-c", _GROW, os.fspath(source)], check=True)
        return environment

    monkeypatch.setattr(lmdb, "open", open_and_grow)
    monkeypatch.setattr(sys, "argv", ["copying", os.fspath(source), os.fspath(target)])

    assert copying.main() == 0
    assert (target / layout.LOG_FILE).stat().st_size > 32 << 20


async def test_a_gap_that_is_not_recorded_is_damage(filled: Path) -> None:
    """A record that is missing without having been removed is found by the feed and by the check."""
    await prune(filled, pruning_process.RULES)
    with open_store(filled, codec()) as store:
        environment = store._environment
        kept = next(number for number in range(RUNS) if is_kept(number))
        seq = store.log.read(ids.run_stream(run(kept)))[3].seq
        transaction = environment.begin_write()
        transaction.delete(layout.pack_u64(seq), db=environment.database("records"))
        transaction.commit()
        with pytest.raises(Stalled, match=f"record {seq} .*missing"):
            store.verify()
        with pytest.raises(Stalled, match=f"record {seq} .*missing"):
            store.log.feed(0, 10_000)


def test_a_salvaged_copy_has_no_removed_run(filled: Path, tmp_path: Path) -> None:
    """Removed records are no loss, and numbers are not used again."""
    asyncio.run(prune(filled, pruning_process.RULES))
    with salvage.salvage_directory(filled, tmp_path / "salvaged") as kept:
        assert (kept.records_lost, kept.cuts, kept.outputs_cut) == (0, [], [])
    with open_store(tmp_path / "salvaged", codec()) as store:
        store.verify()
        rows = {number for number in range(RUNS) if store.log.head(ids.run_stream(run(number)))}
        assert rows == {number for number in range(RUNS) if is_kept(number)}
        gone = next(number for number in range(RUNS) if not is_kept(number))
        assert store.log.removed_run(run(gone)) is not None
