"""The status file, also on a disk that is full or has space for a part of the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from waterflow_agent.state import status

BLOCK = 4096


class Disk:
    """Limits what `os.write` can add to new files; overwriting the existing status file needs no space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, content: bytes) -> int:
        """Writes as much as fits, as the kernel does."""
        position, size = os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size
        fits = max(0, size - position) + self.free
        if content and not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, content[:fits])
        self.free -= max(0, position + written - size)
        return written


def made(link: str = "connected", warnings: list[str] | None = None) -> status.Status:
    pid = os.getpid()
    return status.Status(
        pid=pid,
        process_started=status.process_started(pid),
        at=0,
        name="web-1",
        fingerprint="",
        server="",
        state="connected",
        is_connected=True,
        link=link,
        groups=[],
        slots=4,
        attempts=[],
        warnings=warnings or [],
    )


def test_a_status_is_read_back(tmp_path: Path) -> None:
    """What was written is what is read."""
    status.write(tmp_path, made())
    assert status.read(tmp_path) == made()


# 1024 bytes are a block of a small ext4.
@pytest.mark.parametrize("free", [0, 1, 1024, BLOCK - 1])
@pytest.mark.parametrize("length", [10, 3000, BLOCK - 400, BLOCK - 300, BLOCK - 200, 2 * BLOCK])
def test_a_full_disk_leaves_space_for_a_longer_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, length: int
) -> None:
    """A partly written file never replaces the whole one, and the reserve is always enough for the message."""
    status.write(tmp_path, made("x" * length))
    Disk(monkeypatch, free)
    for warnings in (["its disk is full" * 30], [], ["its disk is full" * 40]):
        status.write(tmp_path, made("x" * length, warnings))
        assert status.read(tmp_path) == made("x" * length, warnings)
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_status_that_does_not_fit_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the disk has no room for changes nothing of the file."""
    status.write(tmp_path, made())
    Disk(monkeypatch, 100)
    with pytest.raises(OSError, match="No space left"):
        status.write(tmp_path, made("x" * 3 * BLOCK))
    assert status.read(tmp_path) == made()
