"""What `waterflowctl import` finds, guesses, writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.integration.ctl.terminals import lines_of
from waterflowd.ctl.main import cli

WORKFLOW = "# ours\non: [push, pull_request]\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: make}]}}\n"
CRONTAB = "# nightly\n30 2 * * * pg_dump app > /backup/app.sql\n"
PIPELINE = "build:\n  script: make\n"
JENKINSFILE = "pipeline { agent any\n stages { stage('A') { steps { sh 'make' } } } }\n"
PLAYBOOK = "- hosts: web\n  tasks:\n    - command: uptime\n"
RUNDECK = "- name: x\n  sequence:\n    commands:\n    - exec: uptime\n"
SOURCES = {
    "github": (".github/workflows/ci.yml", WORKFLOW),
    "gitlab": (".gitlab-ci.yml", PIPELINE),
    "jenkins": ("Jenkinsfile", JENKINSFILE),
    "ansible": ("site.yml", PLAYBOOK),
    "rundeck": ("jobs.yaml", RUNDECK),
    "cron": ("crontab", CRONTAB),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a repository of its own."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)


def ctl(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["import", *arguments])


def write(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


@pytest.mark.parametrize("system", list(SOURCES))
def test_the_system_of_a_file_is_guessed_and_its_result_validates(system: str) -> None:
    """By its name or its content."""
    # given
    path, content = SOURCES[system]
    write(path, content)
    # when
    done = ctl(path, "--group", "build")
    # then
    assert done.exit_code == 0, done.output
    written = list(Path(".waterflow/workflows").glob("*.yml"))
    assert len(written) == 1
    assert f"wrote .waterflow/workflows/{written[0].name}" in done.output
    assert CliRunner().invoke(cli, ["validate", ".waterflow"]).exit_code == 0


@pytest.mark.parametrize("system", list(SOURCES))
def test_a_directory_is_imported_with_its_system(system: str) -> None:
    """All its files of that system."""
    path, content = SOURCES[system]
    write(path, content)
    done = ctl(".", "--from", system, "--group", "build")
    assert done.exit_code == 0, done.output
    assert len(list(Path(".waterflow/workflows").glob("*.yml"))) == 1


def test_a_directory_with_files_of_two_systems_needs_a_choice() -> None:
    """The message names both."""
    write(*SOURCES["github"])
    write(*SOURCES["jenkins"])
    done = ctl(".", "--group", "build")
    assert done.exit_code == 2
    assert "files of github and jenkins" in done.output
    assert "--from github" in done.output


def test_a_file_that_could_be_anything_needs_a_choice() -> None:
    """Nothing is written."""
    write("notes.txt", "hello\n")
    done = ctl("notes.txt", "--group", "build")
    assert done.exit_code == 2
    assert "cannot tell which system notes.txt belongs to" in done.output
    assert not Path(".waterflow").exists()


def test_an_existing_file_is_only_replaced_with_force() -> None:
    """Without it, nothing at all is written."""
    # given
    write(*SOURCES["github"])
    write(".github/workflows/other.yml", WORKFLOW)
    write(".waterflow/workflows/ci.yml", "mine\n")
    # when
    done = ctl(".", "--group", "build")
    # then
    assert done.exit_code == 2
    assert "workflows/ci.yml" in done.output
    assert "--force" in done.output
    assert Path(".waterflow/workflows/ci.yml").read_text() == "mine\n"
    assert not Path(".waterflow/workflows/other.yml").exists()
    # and when
    assert ctl(".", "--group", "build", "--force").exit_code == 0
    # then
    assert "# ours" in Path(".waterflow/workflows/ci.yml").read_text()
    assert ctl(".", "--group", "build").exit_code == 0, "the same result again is not an overwrite"


def test_a_dry_run_writes_nothing_and_prints_the_same_findings() -> None:
    """With the names of the files."""
    write(*SOURCES["github"])
    dry = ctl(".", "--group", "build", "--dry-run")
    assert not Path(".waterflow").exists()
    assert "would write .waterflow/workflows/ci.yml" in dry.output
    findings = [line for line in dry.output.splitlines() if line.startswith("  ")]
    real = [
        line
        for line in ctl(".", "--group", "build").output.splitlines()
        if line.startswith("  ") and "next:" not in line
    ]
    assert findings == real


def test_the_list_has_counts_and_the_json_has_every_finding() -> None:
    """Programs get one object for each written file, finding and refused file."""
    write(*SOURCES["github"])
    write(".github/workflows/broken.yml", "on: push\n jobs: {}\n")
    done = ctl(".", "--group", "build")
    assert done.exit_code == 1
    assert "1 file, 1 refused file: 1 decision, 1 change, 0 warnings" in done.output
    rows = json.loads(ctl(".", "--group", "build", "--json").output)
    assert sorted(row["kind"] for row in rows) == ["change", "decision", "refused", "written"]
    assert {row["path"] for row in rows if row["kind"] == "refused"} == {".github/workflows/broken.yml"}


def test_the_result_goes_where_the_repository_has_its_workflows() -> None:
    """To `workflows` if that folder exists, and to the directory of `--output` in any case."""
    write(*SOURCES["cron"])
    Path("workflows").mkdir()
    assert ctl("crontab", "--group", "build").exit_code == 0
    assert Path("workflows/crontab-pg_dump.yml").exists()
    assert ctl("crontab", "--group", "build", "--output", "elsewhere").exit_code == 0
    assert Path("elsewhere/workflows/crontab-pg_dump.yml").exists()


def test_imported_workflows_refer_to_the_imported_files() -> None:
    """Below the directory of the result, from the root of the repository."""
    write(".github/workflows/ci.yml", "on: push\njobs: {a: {uses: ./.github/workflows/lib.yml}}\n")
    write(
        ".github/workflows/lib.yml",
        "on: workflow_call\njobs: {b: {runs-on: x, steps: [{uses: ./.github/actions/y}]}}\n",
    )
    action = "runs: {using: composite, steps: [{run: make, shell: bash}]}\n"
    write(".github/actions/y/action.yml", action)
    assert ctl(".", "--group", "build", "--output", "ops/.waterflow").exit_code == 0
    assert "uses: ./ops/.waterflow/workflows/lib.yml" in Path("ops/.waterflow/workflows/ci.yml").read_text()
    assert "uses: ./ops/.waterflow/steps/y" in Path("ops/.waterflow/workflows/lib.yml").read_text()
    validated = CliRunner().invoke(cli, ["validate", "--root", ".", "ops"])
    assert validated.exit_code == 0, validated.output


def test_nothing_outside_of_the_repository_is_read(tmp_path: Path) -> None:
    """Neither by `..` nor by a link."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside.yml"
    outside.write_text("hidden:\n  script: echo secret\n")
    Path("link.yml").symlink_to(outside)
    write(".gitlab-ci.yml", f"include: [link.yml, ../{outside.name}]\n" + PIPELINE)
    done = ctl(".", "--from", "gitlab", "--group", "build")
    assert done.exit_code == 0, done.output
    assert "echo secret" not in Path(".waterflow/workflows/gitlab-ci.yml").read_text()
    assert "leads out of the directory" in done.output
    assert "outside of the directory" in done.output


def test_a_directory_that_cannot_be_written_is_one_sentence() -> None:
    """With the path and the reason."""
    write(*SOURCES["cron"])
    write(".waterflow", "a file\n")
    done = ctl("crontab", "--group", "build")
    assert done.exit_code == 2
    assert "cannot write" in done.output
    assert "Traceback" not in done.output


def test_the_list_fits_a_terminal_of_80_columns() -> None:
    """Long sentences continue below themselves."""
    write(
        ".github/workflows/ci.yml", "on: push\njobs: {a: {runs-on: x, steps: [{uses: docker/build-push-action@v6}]}}\n"
    )
    lines = lines_of("import", ".", "--group", "build")
    assert any("wrote .waterflow/workflows/ci.yml" in line for line in lines), lines
    assert all(len(line) <= 80 for line in lines), lines
    assert any(line.startswith(" " * 19) for line in lines), lines
