"""What `waterflowctl validate` finds, on disk and in commits, and how it reports it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.patience import PATIENCE_S
from waterflowd.ctl.main import cli

VALID = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"
BROKEN = VALID.replace("run:", "runn:")
NEVER = VALID.replace("    steps", "    if: false\n    steps")
CALLER = "jobs: {a: {uses: ./lib/b.yml}}\n"
CALLEE = "on: workflow_call\n" + VALID
USER = "jobs: {a: {runs-on: web, steps: [{uses: ./steps/s}]}}\n"


def ctl(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["validate", *arguments])


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def git(folder: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout.strip()


def commit(folder: Path, files: dict[str, str]) -> str:
    write(folder, files)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "--quiet")
    return folder


def test_files_that_a_workflow_uses_are_read_from_its_repository(tmp_path: Path) -> None:
    """Their errors have their own paths and are reported once."""
    files = {"workflows/a.yml": CALLER, "workflows/b.yml": CALLER, "workflows/c.yml": USER, "lib/b.yml": CALLEE}
    write(tmp_path, {**files, "steps/s/step.yml": "steps: [{run: x}]\n"})
    assert ctl(str(tmp_path / "workflows")).exit_code == 0
    write(tmp_path, {"lib/b.yml": CALLEE.replace("run:", "runn:")})
    result = ctl(str(tmp_path / "workflows"))
    assert result.exit_code == 1
    assert result.output.count(f"{tmp_path / 'lib' / 'b.yml'}:6:9: error WF103") == 1
    assert "error: 1 error in 2 of 3 files" in result.output


def test_the_file_of_a_composite_step_is_recognized(tmp_path: Path) -> None:
    """It is recognized by its name; inputs that no step provides are not an error."""
    write(tmp_path, {"s/step.yml": "inputs: {a: {required: true}}\nsteps: [{run: 'x ${{ inputs.a }}'}]\n"})
    assert ctl(str(tmp_path)).exit_code == 0
    write(tmp_path, {"s/step.yml": "steps: [{run: 'x ${{ inputs.a }}'}]\n"})
    result = ctl(str(tmp_path / "s" / "step.yml"))
    assert (result.exit_code, f"{tmp_path / 's' / 'step.yml'}:1:29: error WF125" in result.output) == (1, True)


@pytest.mark.parametrize("folder", [".", "./", "workflows/.."])
def test_a_mistake_in_a_file_that_others_use_is_reported_once(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A composite step in the root is checked by itself and in the workflow that uses it, whatever the folder is called."""
    write(tmp_path, {"step.yml": "steps: [{run: 'x ${{ inputs.a }}'}]\n"})
    write(tmp_path, {"workflows/a.yml": "jobs: {a: {runs-on: g, steps: [{uses: ./}]}}\n"})
    monkeypatch.chdir(tmp_path)
    lines = [line for line in ctl(folder).output.splitlines() if "WF125" in line]
    assert [line.partition(" ")[0] for line in lines] == ["step.yml:1:29:"]


def test_the_root_can_be_set(tmp_path: Path) -> None:
    """This is needed where neither Git nor the folders determine it."""
    write(tmp_path, {"flows/deep/a.yml": CALLER, "flows/lib/b.yml": CALLEE})
    file = str(tmp_path / "flows" / "deep" / "a.yml")
    assert ctl(file).exit_code == 1
    assert ctl("--root", str(tmp_path / "flows"), file).exit_code == 0


def test_files_outside_of_the_repository_are_not_read(tmp_path: Path) -> None:
    """Symlinks do not lead outside either."""
    write(tmp_path, {"repo/workflows/a.yml": CALLER, "b.yml": CALLEE})
    (tmp_path / "repo" / "lib").mkdir()
    (tmp_path / "repo" / "lib" / "b.yml").symlink_to(tmp_path / "b.yml")
    result = ctl(str(tmp_path / "repo" / "workflows"))
    assert (result.exit_code, "does not exist in this revision" in result.output) == (1, True)


def test_a_warning_fails_only_in_strict_mode(tmp_path: Path) -> None:
    """In JSON the warning has a severity."""
    write(tmp_path, {"a.yml": NEVER})
    file = str(tmp_path / "a.yml")
    result = ctl(file)
    assert result.exit_code == 0
    assert f"{file}:4:9: warning WF137" in result.output
    assert f"{file}: valid" in result.output
    assert ctl("--strict", file).exit_code == 1
    (row,) = json.loads(ctl("--json", file).stdout)
    assert (row["code"], row["severity"]) == ("WF137", "warning")


def test_a_range_is_checked_at_its_last_commit(repository: Path) -> None:
    """Files that the range does not touch are not checked, and neither is the working tree."""
    first = commit(repository, {"workflows/old.yml": BROKEN, "workflows/a.yml": VALID})
    last = commit(repository, {"workflows/a.yml": VALID + "\n", ".waterflow/workflows/b.yml": BROKEN, "c.yml": BROKEN})
    write(repository, {"workflows/a.yml": BROKEN})
    result = ctl("--root", str(repository), "--range", f"{first}..{last}")
    assert result.exit_code == 1
    assert "workflows/a.yml: valid" in result.output
    assert ".waterflow/workflows/b.yml:5:9: error WF103" in result.output
    assert "old.yml" not in result.output
    assert "c.yml:" not in result.output
    assert ctl("--root", str(repository), "--range", f"{first}..{last}", "workflows").exit_code == 0
    assert ctl("--root", str(repository), "--range", f"{last}..{last}").output == "no workflow changed\n"
    zeros = "0" * 40
    assert "old.yml" in ctl("--root", str(repository), "--range", f"{zeros}..{last}").output


def test_a_workflow_is_checked_when_what_it_uses_changes(repository: Path) -> None:
    """The workflow file itself does not have to change."""
    first = commit(repository, {"workflows/a.yml": CALLER, "lib/b.yml": CALLEE, "workflows/c.yml": USER, "x": ""})
    last = commit(repository, {"lib/b.yml": CALLEE.replace("run:", "runn:")})
    result = ctl("--root", str(repository), "--range", f"{first}..{last}")
    assert "lib/b.yml:6:9: error" in result.output
    assert "c.yml" not in result.output


@pytest.mark.parametrize("text", ["HEAD", "..HEAD", "HEAD..", "--all..HEAD", "nothing..HEAD"])
def test_an_invalid_range_is_a_usage_error(repository: Path, text: str) -> None:
    """The message contains the next command to type."""
    commit(repository, {"workflows/a.yml": VALID})
    result = ctl("--root", str(repository), f"--range={text}")
    assert (result.exit_code, "next: " in result.output) == (2, True)


def test_sarif_has_a_result_for_each_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a rule, a level and a location; a relative path stays relative."""
    write(tmp_path, {"a b.yml": BROKEN, "n.yml": NEVER})
    monkeypatch.chdir(tmp_path)
    result = ctl("--sarif", "a b.yml", "n.yml")
    assert result.exit_code == 1
    log: dict[str, Any] = json.loads(result.stdout)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    found = []
    for item in run["results"]:
        location = item["locations"][0]["physicalLocation"]
        assert rules[item["ruleIndex"]]["id"] == item["ruleId"]
        found.append(
            (item["ruleId"], item["level"], location["artifactLocation"]["uri"], location["region"]["startLine"])
        )
    assert found == [("WF103", "error", "a%20b.yml", 5), ("WF137", "warning", "n.yml", 4)]
    assert ctl("--sarif", "--json", "n.yml").exit_code == 2


def test_annotations_have_the_place_and_one_line_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub Actions and Gitea show them beside the line; characters with a meaning are escaped."""
    write(tmp_path, {"a,b.yml": BROKEN, "n.yml": NEVER})
    monkeypatch.chdir(tmp_path)
    result = ctl("--format", "github", "a,b.yml", "n.yml")
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith("::error file=a%2Cb.yml,line=5,col=")
    assert ",title=WF103::" in first
    assert second.startswith("::warning file=n.yml,line=4,")
    assert ctl("--format", "github", "--json", "n.yml").exit_code == 2


def test_sarif_of_nothing_is_a_run_without_results(tmp_path: Path) -> None:
    """A forge then closes the findings that it has shown before."""
    write(tmp_path, {"a.yml": VALID})
    log = json.loads(ctl("--sarif", str(tmp_path / "a.yml")).stdout)
    assert [run["results"] for run in log["runs"]] == [[]]
