"""Secrets of running steps survive a restart of the agent, but never on a disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from waterflow_agent.state import secret_store
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.testing import task_id
from waterflow_agent.wire.messages import TaskId

FIRST, SECOND = task_id("run", "job", "s1", 1, 1), task_id("run", "job", "s2", 1, 1)


def text_of(store: SecretStore, key: TaskId) -> str | None:
    masks = store.get(key)
    return None if masks is None else masks.text("a s3cret value")


def test_a_later_process_reads_the_secrets_of_an_earlier_one(tmp_path: Path) -> None:
    """Secrets of attempts that still exist are kept. Others are deleted, and the directory is removed with the last one."""
    directory = tmp_path / "memory"
    earlier = SecretStore(directory)
    earlier.keep(FIRST, ["s3cret"])
    earlier.keep(SECOND, ["value"])
    modes = {path.stat().st_mode & 0o777 for path in directory.iterdir()}

    later = SecretStore(directory)
    later.sweep([FIRST])

    assert (modes, directory.stat().st_mode & 0o777) == ({0o600}, 0o700)
    assert text_of(later, FIRST) == "a *** value"
    assert text_of(later, SECOND) is None
    later.drop(FIRST)
    assert not directory.exists()


def test_without_a_directory_secrets_stay_in_memory(tmp_path: Path) -> None:
    """Nothing is written to a disk."""
    store = SecretStore(None)
    store.keep(FIRST, ["s3cret"])
    assert text_of(store, FIRST) == "a *** value"
    store.drop(FIRST)
    assert text_of(store, FIRST) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["open to others", "link", "file"])
def test_a_directory_of_another_user_is_not_used(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Another user may have created it; the agent continues with the secrets in its memory."""
    directory, other = tmp_path / "memory", tmp_path / "other"
    other.mkdir(mode=0o700)
    if what == "link":
        directory.symlink_to(other)
    elif what == "file":
        directory.touch()
    else:
        directory.mkdir()
        directory.chmod(0o777)
    store = SecretStore(directory)

    with caplog.at_level(logging.WARNING):
        store.keep(FIRST, ["s3cret"])

    assert text_of(store, FIRST) == "a *** value"
    assert "cannot use" in caplog.text
    assert list(other.iterdir()) == []


def test_a_torn_file_has_no_value(tmp_path: Path) -> None:
    """An agent that was killed during the write had not started the step."""
    directory = tmp_path / "memory"
    SecretStore(directory).keep(FIRST, ["s3cret"])
    next(directory.iterdir()).write_bytes(b"\x91")
    assert text_of(SecretStore(directory), FIRST) is None


def test_the_directory_is_in_memory_and_unique_to_the_agent(tmp_path: Path) -> None:
    """Each data directory has its own; directories on a disk are skipped."""
    found = secret_store.find_directory(
        tmp_path / "a", {"RUNTIME_DIRECTORY": "relative:/x", "XDG_RUNTIME_DIR": "/proc/self"}
    )
    other = secret_store.find_directory(tmp_path / "b", {})
    if found is None or other is None:
        pytest.skip("there is no directory in memory")
    assert found.parent == Path("/dev/shm")
    assert found != other
    inner = secret_store.find_directory(tmp_path / "a", {"RUNTIME_DIRECTORY": "/dev/shm"})
    assert inner == found
