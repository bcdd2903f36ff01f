"""`file/transfer` within one server: names, links, modes, and no partial files."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.transfer.transfer_harness import leftovers, transfer
from waterflow_agent.attempts import Outcome


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_file_arrives_complete_with_its_checksum(tmp_path: Path) -> None:
    """The outputs describe the file; missing folders are created; the mode is the given one, the source's, or 0644."""
    content = os.urandom(5 << 20)
    (tmp_path / "a.bin").write_bytes(content)

    ended = transfer(tmp_path, "a.bin", "new/folder/b.bin", checksum=sha256(content), mode="0750")

    assert ended.outcome is Outcome.SUCCESS, ended
    assert ended.outputs == {"bytes": len(content), "files": 1, "checksum": sha256(content)}
    arrived = tmp_path / "new/folder/b.bin"
    assert arrived.read_bytes() == content
    assert arrived.stat().st_mode & 0o7777 == 0o750
    assert transfer(tmp_path, "a.bin", "new/folder/b.bin").outcome is Outcome.SUCCESS
    assert arrived.stat().st_mode & 0o7777 == 0o750
    assert transfer(tmp_path, "a.bin", "c.bin").outcome is Outcome.SUCCESS
    assert (tmp_path / "c.bin").stat().st_mode & 0o7777 == 0o644


def test_an_empty_file_is_transferred(tmp_path: Path) -> None:
    """An empty file is transferred like any other."""
    (tmp_path / "a").touch()
    ended = transfer(tmp_path, "a", "b/")
    assert ended.outputs == {"bytes": 0, "files": 1, "checksum": sha256(b"")}
    assert (tmp_path / "b/a").read_bytes() == b""


def test_a_single_file_is_placed_in_an_existing_folder(tmp_path: Path) -> None:
    """This is what `cp` does; with a trailing slash the folder is created."""
    (tmp_path / "a").write_text("x")
    (tmp_path / "there").mkdir()
    transfer(tmp_path, "a", "there")
    transfer(tmp_path, "a", "made/")
    assert (tmp_path / "there/a").read_text() == (tmp_path / "made/a").read_text() == "x"


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for name in ("a.log", "b.txt", ".hidden.log", "2026/c.log", "2026/11/d.log", "2026/.git/e.log", "ü [1].log"):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "logs"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("logs", {"a.log", "b.txt", ".hidden.log", "2026/c.log", "2026/11/d.log", "2026/.git/e.log", "ü [1].log"}),
        ("logs/*.log", {"a.log", "ü [1].log"}),
        ("logs/**/*.log", {"a.log", "2026/c.log", "2026/11/d.log", "ü [1].log"}),
        ("logs/.*.log", {".hidden.log"}),
        ("logs/20[12]?/*", {"c.log"}),
        ("logs/[!ab]*", {"ü [1].log"}),
        ("logs/**", {"a.log", "b.txt", "2026/c.log", "2026/11/d.log", "ü [1].log"}),
    ],
)
def test_folders_and_patterns_keep_relative_paths(tmp_path: Path, logs: Path, source: str, names: set[str]) -> None:
    """Paths are kept from the first wildcard on; only an explicit pattern or a whole folder includes hidden files."""
    ended = transfer(tmp_path, source, "out")
    assert ended.outcome is Outcome.SUCCESS, ended
    found = tree(tmp_path / "out")
    base = "2026" if source.startswith("logs/20") else ""
    assert set(found) == ({f"{base}/{name}" for name in names} if base else names)
    assert all(text == name for name, text in found.items())
    assert ended.outputs["files"] == len(names)


def test_the_checksum_of_several_files_is_that_of_their_list(tmp_path: Path, logs: Path) -> None:
    """It is the checksum of the output of `sha256sum`, so that other tools can compute it too."""
    ended = transfer(tmp_path, "logs/2026/**/*.log", "out")
    listed = subprocess.run(["sha256sum", "11/d.log", "c.log"], cwd=logs / "2026", capture_output=True, check=True)
    assert ended.outputs["checksum"] == sha256(listed.stdout)


def test_a_permanent_error_is_exit_code_1(tmp_path: Path, logs: Path) -> None:
    """Each error has a clear message, and nothing is written."""
    (tmp_path / "a").write_text("x")
    cases: tuple[tuple[str, str, dict[str, Any], str], ...] = (
        ("none", "b", {}, "No such file"),
        ("logs/*.none", "b", {}, "no such file"),
        ("[z-a]*", "b", {}, "invalid pattern"),
        ("a", "none/..", {}, "is not the name of a file"),
        ("a", "b", {"checksum": "sha256:" + "0" * 64}, "checksum mismatch"),
        ("a", "b", {"checksum": "md5:1"}, "expected sha256:"),
        ("logs", "b", {"checksum": "sha256:" + "0" * 64}, "requires a single file"),
        ("a", "s3://bucket/x", {"mode": "0600"}, "are not supported by"),
        ("a", "ftp://host/x", {}, 'unknown scheme "ftp://"; expected a local path, s3://'),
        ("a", "s3:///x", {}, "expected s3://bucket/key"),
        ("a", "sftp://u:hunter2@h/x", {}, "do not put a password into the address"),
        ("a", "sftp://host", {}, "expected sftp://[user@]host[:port]/path"),
        ("a", "sftp://host/x", {"owner": "root"}, "numeric user and group"),
        ("a", "repo:x", {}, "repo: is only allowed in source"),
        ("a", "b", {"mode": "rw"}, "mode: expected"),
        ("a", "b", {"owner": "nobody-here"}, "owner:"),
        ("/dev/null", "b", {}, "neither a regular file nor a folder"),
        ("a", "a/b", {}, "cannot write"),
        ("a", "b", {"timeout": "soon"}, "timeout: expected a duration"),
    )
    for source, destination, more, text in cases:
        ended = transfer(tmp_path, source, destination, **more)
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), (source, destination, ended)
        assert text in ended.text, (source, destination, ended.text)
        assert "hunter2" not in ended.text + ended.printed
        assert not (tmp_path / "b").exists()
    assert not leftovers(tmp_path)


def test_a_failure_keeps_the_old_file_and_reports_the_transferred_bytes(tmp_path: Path) -> None:
    """The old file is unchanged, and the outputs are kept."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    ended = transfer(tmp_path, "a", "b", checksum="sha256:" + "0" * 64)
    assert ended.outputs == {"bytes": 0, "files": 0, "checksum": ""}
    assert (tmp_path / "b").read_text() == "old"
    assert not leftovers(tmp_path)


def test_date_and_time_are_those_of_the_attempt(tmp_path: Path) -> None:
    """Both are in UTC and refer to the same instant."""
    (tmp_path / "a").write_text("x")
    before = subprocess.check_output(["date", "-u", "+%Y-%m-%d-%H%M%S"], text=True).strip()
    ended = transfer(tmp_path, "a", "{date}/x-{date}-{time}.txt", env={"TZ": "Asia/Tokyo"})
    after = subprocess.check_output(["date", "-u", "+%Y-%m-%d-%H%M%S"], text=True).strip()
    assert ended.outcome is Outcome.SUCCESS, ended
    (file,) = tmp_path.glob("*/x-*.txt")
    assert before <= file.stem[2:] <= after
    assert file.parent.name == file.stem[2:12]


def test_links_in_a_folder_are_skipped_and_reported(tmp_path: Path) -> None:
    """Linked files and folders are skipped and reported; a link that the step names itself is followed."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("hunter2")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "plain").write_text("x")
    (folder / "link").symlink_to("../secret/key")
    (folder / "links").symlink_to("../secret")
    os.mkfifo(folder / "pipe")
    ended = transfer(tmp_path, "folder", "out")
    assert tree(tmp_path / "out") == {"plain": "x"}
    assert ended.printed.count("it is a symbolic link") == 2
    assert "pipe': it is not a regular file" in ended.printed
    assert transfer(tmp_path, "folder/link", "key").outcome is Outcome.SUCCESS
    assert (tmp_path / "key").read_text() == "hunter2"


def test_a_link_at_the_destination_is_not_followed(tmp_path: Path) -> None:
    """A link in place of the file is replaced; one in place of a folder below the destination is refused."""
    (tmp_path / "victim").write_text("old")
    (tmp_path / "a").write_text("new")
    (tmp_path / "link").symlink_to("victim")
    assert transfer(tmp_path, "a", "link").outcome is Outcome.SUCCESS
    assert (tmp_path / "victim").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()

    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/file").write_text("new")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/sub").symlink_to("../elsewhere")
    ended = transfer(tmp_path, "in", "out")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert not list((tmp_path / "elsewhere").iterdir())


def test_repo_is_the_job_s_directory_and_cannot_be_left(tmp_path: Path) -> None:
    """It is the same from any directory of the step; neither `..` nor a link leads outside."""
    workspace = tmp_path / "work"
    (workspace / "conf").mkdir(parents=True)
    (workspace / "conf/app.conf").write_text("x")
    (workspace / "out").symlink_to(tmp_path)
    (tmp_path / "outside").write_text("y")
    assert transfer(workspace, "repo:conf/app.conf", "copy").outcome is Outcome.SUCCESS
    assert (workspace / "copy").read_text() == "x"
    assert transfer(workspace, "repo:conf/*.conf", "copies").outcome is Outcome.SUCCESS
    for source in ("repo:../outside", "repo:out/outside", "repo:out/outs*", "repo:conf/../../outside", "repo:../o*"):
        ended = transfer(workspace, source, "bad")
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), (source, ended)
        assert "is outside the job's working directory" in ended.text, source
    assert not (workspace / "bad").exists()


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b"escape\x1b[31m"])
def test_an_unportable_name_is_refused_and_escaped(tmp_path: Path, name: bytes) -> None:
    """The name is refused before anything is written, and is escaped in the message."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("x")
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_text("x")
    ended = transfer(tmp_path, "in", "out")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert "which is not a valid name; nothing was written" in ended.text
    assert not (tmp_path / "out").exists()


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The old file is unchanged, the partial file is removed, and the step may be retried."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "file").write_text("old")
        (tmp_path / "large").write_bytes(bytes(8 << 20))
        ended = transfer(tmp_path, "large", "disk/file")
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
        assert os.strerror(errno.ENOSPC) in ended.text
        assert [path.name for path in disk.iterdir()] == ["file"]
        assert (disk / "file").read_text() == "old"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
