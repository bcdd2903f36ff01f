"""The file nodes, run as an agent runs them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import NodeRun, run_node


def good(name: str, directory: Path, **params: object) -> NodeRun:
    ended = run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)
    assert ended.outcome is Outcome.SUCCESS, ended
    return ended


def bad(name: str, directory: Path, **params: object) -> NodeRun:
    ended = run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)
    assert ended.outcome is Outcome.FAILURE, ended
    return ended


def test_a_file_is_written_only_if_it_differs(tmp_path: Path) -> None:
    """`changed` is true only if content or mode differed; the log shows the difference unless the file is private."""
    first = good("file/write", tmp_path, path="etc/app.conf", content="a\nb\n", mode="0640", create_directories=True)
    assert first.outputs["changed"]
    assert (tmp_path / "etc/app.conf").read_text() == "a\nb\n"
    assert stat.S_IMODE((tmp_path / "etc/app.conf").stat().st_mode) == 0o640

    again = good("file/write", tmp_path, path="etc/app.conf", content="a\nb\n", mode="0640")
    assert not again.outputs["changed"]
    assert again.outputs["checksum"] == first.outputs["checksum"]

    other = good("file/write", tmp_path, path="etc/app.conf", content="a\nc\n", backup=True)
    assert other.outputs["changed"]
    assert "-b" in other.printed
    assert "+c" in other.printed
    assert [path.read_text() for path in (tmp_path / "etc").glob("*.bak")] == ["a\nb\n"]
    assert stat.S_IMODE((tmp_path / "etc/app.conf").stat().st_mode) == 0o640

    assert good("file/write", tmp_path, path="etc/app.conf", content="a\nc\n", mode="0600").outputs["changed"]
    hidden = good("file/write", tmp_path, path="etc/app.conf", content="hunter2\n")
    assert "hunter2" not in hidden.printed


def test_a_failed_write_gives_a_reason_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A missing directory, a link, a directory at the path, and an invalid mode or owner fail without leftovers."""
    assert "No such file" in bad("file/write", tmp_path, path="no/where", content="x").text
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    assert "is a symbolic link" in bad("file/write", tmp_path, path="link", content="x").text
    assert (tmp_path / "target").read_text() == "kept"
    assert good("file/write", tmp_path, path="link", content="new", follow=True).outputs["changed"]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    (tmp_path / "folder").mkdir()
    assert "is a directory" in bad("file/write", tmp_path, path="folder", content="x").text
    assert "mode" in bad("file/write", tmp_path, path="a", content="x", mode="rw").text
    assert "owner" in bad("file/write", tmp_path, path="a", content="x", owner="no-such-user-here").text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "target"]


@pytest.mark.parametrize("node", ["file/write", "file/template"])
def test_special_files_are_neither_read_nor_replaced(tmp_path: Path, node: str) -> None:
    """Reading a pipe or a device would never end."""
    path = "pipe"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "source").write_text("x")
    if node == "file/write":
        ended = bad(node, tmp_path, path=path, content="x")
        assert ended.text == f"{tmp_path / path} is not a regular file"
    else:
        assert bad(node, tmp_path, source=path, path="a").text == f"{tmp_path / path} is not a regular file"
        assert bad(node, tmp_path, source="source", path=path).text == f"{tmp_path / path} is not a regular file"
    assert ended.exit_code == 1 if node == "file/write" else True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "source"]


@pytest.mark.root
def test_a_full_disk_is_a_temporary_failure_and_owners_may_be_numeric(tmp_path: Path) -> None:
    """The old file is unchanged and no temporary file remains; numeric owners work, and a kept owner is preserved."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert good("file/write", tmp_path, path="disk/a", content="old", owner="1234:2345").outputs["changed"]
        ended = bad("file/write", tmp_path, path="disk/a", content="x" * 100_000, backup=True)
        assert (ended.exit_code, os.strerror(errno.ENOSPC) in ended.text) == (75, True), ended
        (tmp_path / "large").write_text("x" * 100_000)
        assert bad("file/template", tmp_path, source="large", path="disk/b").exit_code == 75
        assert (disk / "a").read_text() == "old"
        assert [path.name for path in disk.iterdir() if not path.name.endswith(".bak")] == ["a"]
        good("file/write", tmp_path, path="disk/a", content="new")
        assert good("file/write", tmp_path, path="disk/a", content="new", owner="1234").outputs["changed"] is False
        found = (disk / "a").stat()
        assert (found.st_uid, found.st_gid) == (1234, 2345)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_long_diff_is_truncated(tmp_path: Path) -> None:
    """The log says how many lines were omitted, and shows no difference for binary content."""
    good("file/write", tmp_path, path="a", content="".join(f"{number}\n" for number in range(1000)))
    ended = good("file/write", tmp_path, path="a", content="")
    assert "... 803 more lines" in ended.printed
    assert "\0" not in good("file/write", tmp_path, path="a", content="x\0y").printed


def test_a_template_is_rendered_and_missing_variables_are_named(tmp_path: Path) -> None:
    """Inserted values are not expanded again, and a dollar sign can be escaped."""
    (tmp_path / "app.tmpl").write_text("port=${port} tls=${tls} name=${name} $${kept}\n")
    values = {"port": 80, "tls": True, "name": "${port}"}
    good("file/template", tmp_path, source="app.tmpl", path="app", values=values)
    assert (tmp_path / "app").read_text() == "port=80 tls=true name=${port} ${kept}\n"
    assert "name, tls" in bad("file/template", tmp_path, source="app.tmpl", path="app", values={"port": 1}).text
    assert "No such file" in bad("file/template", tmp_path, source="none", path="app").text
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert bad("file/template", tmp_path, source="binary", path="app").text == f"{tmp_path}/binary is not valid UTF-8"


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    """The outputs are text and checksum; a file that is too large, binary or missing is a failure."""
    (tmp_path / "a").write_text("grüß\n")
    read = good("file/read", tmp_path, path="a").outputs
    assert (read["content"], read["bytes"]) == ("grüß\n", 7)
    assert "larger than 3 bytes" in bad("file/read", tmp_path, path="a", max_bytes=3).text
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert "UTF-8" in bad("file/read", tmp_path, path="b").text
    assert "does not exist" in bad("file/read", tmp_path, path="c").text
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in bad("file/read", tmp_path, path="pipe").text


def test_a_directory_is_deleted_only_on_request(tmp_path: Path) -> None:
    """A link is deleted and its target remains; the workspace and the root are never deleted."""
    (tmp_path / "keep").write_text("x")
    (tmp_path / "link").symlink_to("keep")
    assert good("file/delete", tmp_path, path="link").outputs == {"changed": True}
    assert (tmp_path / "keep").exists()
    assert good("file/delete", tmp_path, path="link").outputs == {"changed": False}
    (tmp_path / "folder/in").mkdir(parents=True)
    assert "recursive" in bad("file/delete", tmp_path, path="folder").text
    assert good("file/delete", tmp_path, path="folder", recursive=True).outputs == {"changed": True}
    for path in ("/", str(tmp_path)):
        assert "refusing to delete" in bad("file/delete", tmp_path, path=path, recursive=True).text


def test_no_spelling_of_a_path_deletes_a_protected_directory(tmp_path: Path) -> None:
    """A directory above a protected one is protected too."""
    work = tmp_path / "home" / "work"
    (work / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to(work)
    for path in ("folder/..", "..", "../../home", f"{tmp_path}/link/folder/.."):
        ended = bad("file/delete", work, path=path, recursive=True)
        assert "refusing to delete" in ended.text, path
        assert (work / "folder").is_dir()
    # Siblings, and the link itself, can be deleted like any other file.
    (tmp_path / "home" / "beside").mkdir()
    assert good("file/delete", work, path="../beside", recursive=True).outputs["changed"]
    assert good("file/delete", work, path="../../link").outputs["changed"]


def test_a_failed_deletion_gives_a_reason(tmp_path: Path) -> None:
    """A file that exists but cannot be deleted is a failure."""
    ended = bad("file/delete", tmp_path, path="/proc/self/status")
    assert ended.exit_code == 1
    assert ended.text.startswith("cannot delete /proc/self/status: ")
    ended = bad("file/read", tmp_path, path="/proc/self/mem")
    assert ended.text.startswith("cannot read /proc/self/mem: ")


@pytest.mark.parametrize(
    "params", [{"path": "a"}, {"path": "a", "content": 3}, {"path": "a", "content": "b", "moed": "x"}]
)
def test_wrong_parameters_name_the_field(tmp_path: Path, params: dict[str, object]) -> None:
    """The node checks values that the daemon could not check because they contained expressions."""
    ended = run_node("file/write", params, directory=tmp_path)
    assert ended.outcome is Outcome.FAILURE
    assert "with" in ended.text or "missing key" in ended.text or "unknown key" in ended.text


@pytest.mark.parametrize("name", ["a\0b", "~nobody-of-this-name/a", "x" * 300, "file/a"])
def test_an_impossible_path_is_one_clear_message(tmp_path: Path, name: str) -> None:
    """Each node reports such a path without a traceback."""
    (tmp_path / "file").write_text("x")
    for node, params in (
        ("file/write", {"path": name, "content": "x"}),
        ("file/template", {"source": name, "path": "b"}),
        ("file/template", {"source": "file", "path": name}),
        ("file/read", {"path": name}),
    ):
        ended = bad(node, tmp_path, **params)
        assert ended.exit_code == 1, (node, ended)
        assert "Traceback" not in ended.printed, (node, ended)
    deleted = run_node("file/delete", {"path": name}, directory=tmp_path)
    assert "Traceback" not in deleted.printed
