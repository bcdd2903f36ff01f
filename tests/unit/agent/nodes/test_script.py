"""The node `script`: which file is run, by which interpreter, and who may choose what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import NodeRun, run_node


def run(directory: Path, **params: object) -> NodeRun:
    return run_node("script", params, directory=directory, env={"WHO": "you"})


@pytest.mark.parametrize(
    ("first_line", "interpreter", "body", "printed"),
    [
        ("", None, 'echo "$0" | grep -c script; echo $1', "1\none two\n"),
        ("#!/bin/sh -e\n", None, "false; echo never", ""),
        ("#!/usr/bin/env python3\n", None, "import sys; print(sys.argv[1])", "one two\n"),
        ("#! /usr/bin/env  python3\n", None, "import sys; print(sys.argv[1])", "one two\n"),
        ("#!/bin/sh\n", "python3 -u", "import os; print(os.environ['WHO'])", "you\n"),
        ("#!/usr/bin/env -S python3 -c print(5)\n", None, "no python at all", "5\n"),
    ],
)
@pytest.mark.parametrize("by", ["path", "content"])
def test_a_script_selects_its_interpreter(
    tmp_path: Path, by: str, first_line: str, interpreter: str | None, body: str, printed: str
) -> None:
    """The step's interpreter is used, else the file's first line as in the kernel, else sh; no file mode is needed."""
    text = first_line + body + "\n"
    parameters: dict[str, object] = {"content": text}
    if by == "path":
        (tmp_path / "script").write_text(text)
        parameters = {"path": "script"}
    if interpreter is not None:
        parameters["interpreter"] = interpreter

    ended = run(tmp_path, args=["one two"], **parameters)

    assert ended.printed == printed
    assert (ended.outcome is Outcome.SUCCESS) is bool(printed)


def test_a_script_writes_outputs(tmp_path: Path) -> None:
    """The node writes outputs in the same way as `shell`."""
    ended = run(tmp_path, content='echo "a=b" >> "$WATERFLOW_OUTPUT"; exit 3')

    assert (ended.outcome, ended.exit_code, ended.outputs) == (Outcome.FAILURE, 3, {"a": "b"})


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "link", "missing", "folder", "pipe", "a\0b", "."])
def test_scripts_outside_the_job_s_directory_are_refused(tmp_path: Path, path: str) -> None:
    """Paths and links must not lead outside, and a path that is not a regular file does not block the agent."""
    workspace = tmp_path / "work"
    (workspace / "folder").mkdir(parents=True)
    (tmp_path / "outside").write_text("echo never\n")
    (workspace / "link").symlink_to("../outside")
    os.mkfifo(workspace / "pipe")

    ended = run(workspace, path=path)

    assert ended.outcome is Outcome.FAILURE
    assert ended.text.startswith("with.path: ")
    assert not ended.printed


@pytest.mark.parametrize("parameters", [{}, {"path": "a", "content": "b"}])
def test_a_script_is_either_a_file_or_a_text(tmp_path: Path, parameters: dict[str, object]) -> None:
    """Exactly one of the two must be given."""
    assert "either path or content" in run(tmp_path, **parameters).text


def test_an_invalid_interpreter_is_an_error(tmp_path: Path) -> None:
    """An unclosed quote makes the command invalid."""
    assert run(tmp_path, content="echo", interpreter='"bash').text.startswith("with.interpreter: ")
