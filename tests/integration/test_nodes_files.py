"""The file nodes, as an agent runs them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from waterflow_agent.testing import NodeRun, run_node
from waterflow_agent.wire.messages import Outcome


def good(name: str, directory: Path, **params: object) -> NodeRun:
    ended = run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)
    assert ended.outcome is Outcome.SUCCESS, ended
    return ended


def bad(name: str, directory: Path, **params: object) -> NodeRun:
    ended = run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)
    assert ended.outcome is Outcome.FAILURE, ended
    return ended


def test_a_file_is_written_once_and_left_alone_when_it_is_right(tmp_path: Path) -> None:
    """`changed` is true only where something differed; the difference is in the log; the mode counts."""
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


def test_what_cannot_be_written_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A missing directory, a link, a directory in the way, a mode or owner that is none."""
    assert "No such file" in bad("file/write", tmp_path, path="no/where", content="x").text
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    assert "is a link" in bad("file/write", tmp_path, path="link", content="x").text
    assert (tmp_path / "target").read_text() == "kept"
    assert good("file/write", tmp_path, path="link", content="new", follow=True).outputs["changed"]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    (tmp_path / "folder").mkdir()
    assert "is a directory" in bad("file/write", tmp_path, path="folder", content="x").text
    assert "mode" in bad("file/write", tmp_path, path="a", content="x", mode="rw").text
    assert "owner" in bad("file/write", tmp_path, path="a", content="x", owner="no-such-user-here").text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "target"]


def test_a_template_is_filled_and_says_what_is_missing(tmp_path: Path) -> None:
    """Values once, never again; a dollar sign can be written."""
    (tmp_path / "app.tmpl").write_text("port=${port} tls=${tls} name=${name} $${kept}\n")
    values = {"port": 80, "tls": True, "name": "${port}"}
    good("file/template", tmp_path, source="app.tmpl", path="app", values=values)
    assert (tmp_path / "app").read_text() == "port=80 tls=true name=${port} ${kept}\n"
    assert "name, tls" in bad("file/template", tmp_path, source="app.tmpl", path="app", values={"port": 1}).text
    assert "No such file" in bad("file/template", tmp_path, source="none", path="app").text


def test_a_file_is_read_within_its_bound(tmp_path: Path) -> None:
    """Text with its checksum; what is too large, binary or not there is a failure."""
    (tmp_path / "a").write_text("grüß\n")
    read = good("file/read", tmp_path, path="a").outputs
    assert (read["content"], read["bytes"]) == ("grüß\n", 7)
    assert "more than 3 bytes" in bad("file/read", tmp_path, path="a", max_bytes=3).text
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert "UTF-8" in bad("file/read", tmp_path, path="b").text
    assert "does not exist" in bad("file/read", tmp_path, path="c").text
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in bad("file/read", tmp_path, path="pipe").text


def test_a_file_is_deleted_and_a_directory_only_when_asked(tmp_path: Path) -> None:
    """A link goes, what it leads to stays; the workspace and the root are never deleted."""
    (tmp_path / "keep").write_text("x")
    (tmp_path / "link").symlink_to("keep")
    assert good("file/delete", tmp_path, path="link").outputs == {"changed": True}
    assert (tmp_path / "keep").exists()
    assert good("file/delete", tmp_path, path="link").outputs == {"changed": False}
    (tmp_path / "folder/in").mkdir(parents=True)
    assert "recursive" in bad("file/delete", tmp_path, path="folder").text
    assert good("file/delete", tmp_path, path="folder", recursive=True).outputs == {"changed": True}
    for path in ("/", str(tmp_path)):
        assert "not deleted" in bad("file/delete", tmp_path, path=path, recursive=True).text


@pytest.mark.parametrize(
    "params", [{"path": "a"}, {"path": "a", "content": 3}, {"path": "a", "content": "b", "moed": "x"}]
)
def test_wrong_parameters_name_the_field(tmp_path: Path, params: dict[str, object]) -> None:
    """What the daemon could not check, because it held an expression, is checked here."""
    ended = run_node("file/write", params, directory=tmp_path)
    assert ended.outcome is Outcome.FAILURE
    assert "with" in ended.text or "missing key" in ended.text or "unknown key" in ended.text
