"""The journal: written records can be read again after a crash or an incomplete write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import records
from waterflow_agent.testing import task_id


def accepted(number: int) -> records.AcceptedRecord:
    return records.AcceptedRecord(task_id("run", "job", f"s{number}", 1, 1), "shell", "", number)


def reread(directory: Path) -> tuple[str, list[records.LedgerRecord | records.ReleasedRecord]]:
    journal = Journal(directory)
    try:
        return journal.read()
    finally:
        journal.close()


def test_records_are_read_in_order(tmp_path: Path) -> None:
    """Appended records are read after those of the snapshot."""
    journal = Journal(tmp_path)
    journal.begin("boot", [accepted(1)])
    journal.append([accepted(2), records.StartedRecord(accepted(2).key, 5)])
    journal.append([records.ReleasedRecord(accepted(1).key)])
    journal.close()

    assert reread(tmp_path) == (
        "boot",
        [accepted(1), accepted(2), records.StartedRecord(accepted(2).key, 5), records.ReleasedRecord(accepted(1).key)],
    )


def test_new_journal_is_empty(tmp_path: Path) -> None:
    """It has no boot id and no records."""
    assert reread(tmp_path / "journal") == ("", [])


def test_directory_has_one_owner(tmp_path: Path) -> None:
    """A second agent in the same directory is refused."""
    journal = Journal(tmp_path)
    with pytest.raises(Stalled, match="another agent"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_torn_tail_is_truncated_at_every_position(tmp_path: Path) -> None:
    """Wherever the last write stopped, complete records are read, and nothing is appended after the torn one."""
    journal = Journal(tmp_path / "whole")
    journal.begin("boot", [accepted(1)])
    journal.append([accepted(2)])
    whole = (tmp_path / "whole" / "journal.1").read_bytes()
    journal.append([accepted(3)])
    longer = (tmp_path / "whole" / "journal.1").read_bytes()
    journal.close()

    for end in range(len(whole), len(longer)):
        directory = tmp_path / f"torn{end}"
        directory.mkdir()
        (directory / "journal.1").write_bytes(longer[:end])
        torn = Journal(directory)
        boot_id, facts = torn.read()
        torn.begin(boot_id, [fact for fact in facts if isinstance(fact, records.AcceptedRecord)])
        torn.append([accepted(4)])
        torn.close()

        assert facts == [accepted(1), accepted(2)]
        assert reread(directory)[1] == [accepted(1), accepted(2), accepted(4)]


def test_torn_snapshot_keeps_the_previous_segment(tmp_path: Path) -> None:
    """An older segment is deleted only when the new one is on disk; until then either is enough."""
    journal = Journal(tmp_path)
    journal.begin("boot", [accepted(1)])
    journal.begin("boot", [accepted(2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.1", "journal.2"]
    second = tmp_path / "journal.2"
    os.truncate(second, second.stat().st_size - 1)

    _, facts = journal.read()

    assert facts == [accepted(1)]


def test_flush_removes_replaced_segments(tmp_path: Path) -> None:
    """After a flush a single segment remains, and it is complete."""
    journal = Journal(tmp_path)
    journal.begin("boot", [accepted(1)])
    journal.append([accepted(2)])
    journal.begin("boot", [accepted(1), accepted(2)])
    journal.append([accepted(3)])
    journal.flush()

    assert [path.name for path in tmp_path.iterdir()] == ["journal.2"]
    assert journal.read()[1] == [accepted(1), accepted(2), accepted(3)]
    journal.close()


def test_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Reading stops at a record with a wrong checksum."""
    journal = Journal(tmp_path)
    journal.begin("boot", [])
    journal.append([accepted(1)])
    journal.close()
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert reread(tmp_path) == ("boot", [])


def test_newer_version_is_refused(tmp_path: Path) -> None:
    """A journal written by a newer agent stops this one instead of being misread."""
    journal = Journal(tmp_path)
    journal.begin("boot", [])
    journal.close()
    from waterflow_agent.state import journal as module

    (tmp_path / "journal.9").write_bytes(module._frame(records.SnapshotRecord(records.VERSION + 1, "boot", [])))

    with pytest.raises(Stalled, match="newer"):
        reread(tmp_path)


def test_full_disk_leaves_the_journal_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial write is undone, and the next write is valid."""
    journal = Journal(tmp_path)
    journal.begin("boot", [accepted(1)])
    real_write = os.write
    calls = 0

    def full(fd: int, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real_write(fd, content[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Retryable, match="no space left"):
        journal.append([accepted(2)])
    monkeypatch.undo()
    journal.append([accepted(3)])
    journal.close()

    assert reread(tmp_path)[1] == [accepted(1), accepted(3)]


def test_failing_disk_stops_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an I/O error the state on disk is unknown."""
    journal = Journal(tmp_path)
    journal.begin("boot", [])

    def broken(fd: int, content: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(Stalled, match="Input/output error"):
        journal.append([accepted(1)])
    monkeypatch.undo()
    journal.close()


def test_files_are_private(tmp_path: Path) -> None:
    """This holds for any umask."""
    before = os.umask(0)
    try:
        journal = Journal(tmp_path / "journal")
        journal.begin("boot", [])
        journal.close()
    finally:
        os.umask(before)

    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "journal" / "journal.1").stat().st_mode & 0o777 == 0o600
