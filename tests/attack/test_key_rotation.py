"""Rotations of the server's key that are killed, or whose disk fails, at any of their writes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.attack.injection import Fault, requires_strace, started_with, wait_for_end
from tests.attack.sweep import portions, sweep
from tests.chance import IS_FULL
from tests.patience import PATIENCE_S
from waterflowd.access.events import ActionTaken
from waterflowd.app.bootstrap import UNIONS
from waterflowd.dispatch import keys
from waterflowd.dispatch.keys import ServerKeys
from waterflowd.model.ids import AUDIT
from waterflowd.store.opening import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if IS_FULL else 1200)]

#: Calls that write or publish something, and how often a rotation makes them.
DISK_CALLS = [("rename", 2), ("fsync", 2), ("fdatasync", 2), ("pwrite64", 5)]
CALLS = [*DISK_CALLS, ("mkdir", 3)]


class Done(NamedTuple):
    """How a rotation ended."""

    is_success: bool
    stderr: str


def rotated(data_dir: Path, fault: Fault | None = None) -> Done:
    """Rotates the key in another process, which a fault may strike."""
    prefix = started_with(fault) if fault is not None else []
    # Not a pipe: strace inherits it, and may take its time to end.
    errors = data_dir.with_name(f"{data_dir.name}.errors")
    with errors.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "waterflowd", "keys", "rotate", "--data-dir", str(data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        assert wait_for_end(process.pid, PATIENCE_S), "the rotation did not end"
    return Done(process.wait(PATIENCE_S) == 0, errors.read_text())


def check(data_dir: Path, before: ServerKeys, done: Done) -> bool:
    """Judges what a rotation has left behind; returns whether it has happened."""
    after = keys.read_server_keys(data_dir)
    is_rotated = after.current != before.current
    if is_rotated:
        assert [pair.public for pair in after.pairs] == [pair.public for pair in (after.current, *before.pairs)]
        assert after.old(after.current.created_at)[0].secret == before.current.secret
    else:
        assert after == before
    assert is_rotated or not done.is_success, "a rotation that has not happened must not look like one"
    with open_store(data_dir, UNIONS) as store:
        store.verify()
        recorded = {
            event.target
            for event in (record.event for record in store.log.read(AUDIT))
            if isinstance(event, ActionTaken)
        }
    assert {pair.fingerprint for pair in after.pairs[:-1]} <= recorded, "a key came into use without a record"
    return is_rotated


@pytest.mark.parametrize("calls", portions(CALLS))
def test_a_rotation_that_is_killed_leaves_the_old_keys_or_the_new_ones(
    tmp_path: Path, calls: list[tuple[str, int]]
) -> None:
    """Never a damaged file, never a key that the audit trail does not name; and the next rotation works."""
    requires_strace()
    assert sweep(calls, striking(tmp_path)), "no fault struck"


@pytest.mark.parametrize("calls", portions(DISK_CALLS))
def test_a_rotation_whose_disk_fails_leaves_the_old_keys_or_the_new_ones(
    tmp_path: Path, calls: list[tuple[str, int]]
) -> None:
    """And it says what is wrong."""
    requires_strace()
    assert sweep(calls, striking(tmp_path), effect="error=EIO"), "no fault struck"


def striking(tmp_path: Path) -> Callable[[Fault], bool]:
    """Strikes a rotation in a new data directory, and judges what is left."""
    numbers = itertools.count()

    def strike(fault: Fault) -> bool:
        data_dir = tmp_path / str(next(numbers))
        with open_store(data_dir, UNIONS):
            before = keys.load_server_keys(data_dir)
        done = rotated(data_dir, fault)
        is_rotated = check(data_dir, before, done)
        if done.is_success:
            # The fault came too late, or the file of the clock could not be written, which is only a warning.
            assert is_rotated
            return "cannot store the clock" in done.stderr
        assert "Traceback" not in done.stderr, done.stderr

        again = rotated(data_dir)

        assert again.is_success, again.stderr
        return True

    return strike
