"""A name is claimed once, and a reused directory is clean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflow_agent.runner import attempt_directory
from waterflow_agent.runner.attempt_directory import AttemptDirectory
from waterflow_agent.runner.directory_pool import AttemptDirectoryPool, remove
from waterflow_agent.runner.protocol import StartRequest


def request(name: str) -> StartRequest:
    secret = {"TOKEN": "hunter2"}
    return StartRequest({"type": "start", "name": name, "argv": ["/bin/true"], "cwd": "/", "env": secret})


def claim(root: Path, name: str) -> AttemptDirectory:
    directory = AttemptDirectory(str(root), name)
    os.close(directory.claim(request(name), "boot"))
    return directory


def test_a_name_can_be_claimed_once(tmp_path: Path) -> None:
    """The record makes sure of that, for this runner and the next."""
    claim(tmp_path, "a")

    with pytest.raises(FileExistsError):
        claim(tmp_path, "a")


def test_the_record_has_request_process_and_result_but_no_environment(tmp_path: Path) -> None:
    """Each of them is a line, and no line contains secrets."""
    directory = AttemptDirectory(str(tmp_path), "a")
    fd = directory.claim(request("a"), "boot")
    attempt_directory.record_process(fd, 17, 1_000, (5, 6))
    os.close(fd)
    directory.write_result({"reason": "exited", "exit_code": 3})

    record = directory.read_record()

    assert record is not None
    assert record.spec is not None
    assert record.spec["argv"] == ["/bin/true"]
    assert record.process == {"pid": 17, "at": 1_000, "born_ms": [5, 6]}
    assert record.result == {"reason": "exited", "exit_code": 3}
    assert b"hunter2" not in Path(directory.record_path).read_bytes()


def test_a_torn_result_is_ignored(tmp_path: Path) -> None:
    """A line without a newline is ignored."""
    directory = claim(tmp_path, "a")
    directory.write_result({"reason": "exited"})
    content = Path(directory.record_path).read_bytes()
    Path(directory.record_path).write_bytes(content[:-1])

    assert directory.read_result() is None
    assert directory.read_record() is not None


def test_a_released_directory_is_reused_clean(tmp_path: Path) -> None:
    """The next attempt sees nothing of the last one, and the old name no longer exists."""
    store = AttemptDirectoryPool(str(tmp_path))
    store.prepare("a")
    directory = claim(tmp_path, "a")
    Path(directory.output_path).write_bytes(b"\x01secret output")
    inode = os.stat(directory.path).st_ino

    assert store.release("a") is None
    path = store.prepare("b")

    assert os.stat(path).st_ino == inode
    assert not os.path.exists(directory.path)
    assert AttemptDirectory(str(tmp_path), "b").read_record() is None
    assert Path(path, "output").read_bytes() == b"\x01"
    claim(tmp_path, "b")


@pytest.mark.parametrize("left", ["files/output", "other", "output.1"])
def test_an_unclean_directory_is_removed(tmp_path: Path, left: str) -> None:
    """Only clean directories are kept."""
    store = AttemptDirectoryPool(str(tmp_path))
    store.prepare("a")
    Path(tmp_path, "a", left).write_text("left")

    path = store.release("a")

    assert path is not None
    assert not Path(tmp_path, "a").exists()
    remove([path])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("link", ["output", "record", "files/env"])
def test_links_left_in_a_directory_are_not_followed(tmp_path: Path, link: str) -> None:
    """A step cannot cause another file to be truncated or removed."""
    store = AttemptDirectoryPool(str(tmp_path / "attempts"))
    store.prepare("a")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "attempts/a" / link).unlink(missing_ok=True)
    (tmp_path / "attempts/a" / link).symlink_to(precious)

    path = store.release("a")

    assert path is not None
    remove([path])
    assert precious.read_text() == "precious"


def test_preparing_twice_keeps_existing_files(tmp_path: Path) -> None:
    """The agent may prepare a directory, fill it, and start."""
    store = AttemptDirectoryPool(str(tmp_path))
    store.prepare("a")
    store.release("a")
    Path(store.prepare("b"), "script").write_text("true")

    store.prepare("b")

    assert Path(tmp_path, "b", "script").read_text() == "true"


def test_releasing_a_missing_directory_is_not_an_error(tmp_path: Path) -> None:
    """This happens with a second `forget`."""
    assert AttemptDirectoryPool(str(tmp_path)).release("a") is None
