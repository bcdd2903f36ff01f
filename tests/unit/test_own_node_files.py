"""Nodes that readers copy work as documented: those in docs/own-nodes.md and the one in the examples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from waterflow_agent.testing import run_node
from waterflowd.dsl import compile_workflow
from waterflowd.model.statuses import Outcome

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own-nodes.md"
NOTES = ROOT / "examples" / "nodes" / "release" / "notes.py"

_FILE = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_WORKFLOW = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files_of_page(root: Path) -> dict[str, str]:
    """Writes the page's files below `root`; returns them, with its workflow as `workflow`."""
    text = PAGE.read_text("utf-8")
    found = dict(_FILE.findall(text))
    for name, content in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {**found, "workflow": _WORKFLOW.findall(text)[0]}


def test_the_files_of_the_page_are_a_node_and_its_tests(tmp_path: Path) -> None:
    """The page's tests pass in a separate process, as they do for a reader."""
    files = files_of_page(tmp_path)
    assert {"nodes/demo/greet.py", "tests/test_greet.py"} <= files.keys()

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    ended = subprocess.run([*command, "tests"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


def test_the_documented_command_prints_the_documented_output(tmp_path: Path) -> None:
    """`waterflow-agent node` prints it, and its schema checks the workflow."""
    files = files_of_page(tmp_path)
    command = [sys.executable, "-m", "waterflow_agent", "node", "nodes/demo/greet.py"]

    displayed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300).stdout
    schema = subprocess.run([*command, "--schema"], cwd=tmp_path, capture_output=True, check=True, timeout=300).stdout

    assert displayed in PAGE.read_text("utf-8")
    repository: dict[str, bytes | None] = {
        "nodes/demo/greet.py": files["nodes/demo/greet.py"].encode(),
        "nodes/demo/greet.schema.json": schema,
    }
    good = compile_workflow("workflows/greet.yml", files["workflow"].encode(), repository)
    bad = compile_workflow("workflows/greet.yml", files["workflow"].replace("times", "tims").encode(), repository)
    assert good.plan is not None, good.diagnostics
    assert not good.warnings
    assert [error.suggestion for error in bad.diagnostics] == ['did you mean "times"?']


@pytest.mark.parametrize(("content", "code"), [("broken(", 1), ("", 1)])
def test_the_command_reports_what_is_wrong_with_a_file(tmp_path: Path, content: str, code: int) -> None:
    """It prints one message with a location, and returns an exit code."""
    path = tmp_path / "own.py"
    path.write_text(content)

    command = [sys.executable, "-m", "waterflow_agent", "node", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert ended.returncode == code
    assert str(path) in ended.stderr
    assert "[WF72" in ended.stderr


def test_the_example_s_schema_is_that_of_its_class() -> None:
    """The schema must be regenerated when the class changes."""
    command = [sys.executable, "-m", "waterflow_agent", "node", str(NOTES), "--schema"]
    made = subprocess.run(command, capture_output=True, check=True, timeout=300).stdout

    assert json.loads(made) == json.loads(NOTES.with_suffix(".schema.json").read_text("utf-8"))


def test_the_example_s_node_works(tmp_path: Path) -> None:
    """It writes notes grouped by kind, and fails with a message if there are none."""
    changes = [{"text": "a", "kind": "fix"}, {"text": "b"}]
    good = run_node(NOTES, {"version": "1", "changes": changes}, directory=tmp_path)
    empty = run_node(NOTES, {"version": "1", "changes": []}, directory=tmp_path)

    assert good.outputs == {"path": "NOTES.md", "count": 2, "parts": 2}
    assert (tmp_path / "NOTES.md").read_text() == "# 1\n## Features\n- b\n## Fixes\n- a\n"
    assert (empty.outcome, empty.text) == (Outcome.FAILURE, "version 1 changes nothing")
