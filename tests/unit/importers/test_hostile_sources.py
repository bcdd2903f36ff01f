"""Whatever the content of a source is, the result is workflows that validate, or a refusal with one sentence."""

from __future__ import annotations

import pytest

from tests.unit.importers.golden import import_missing, import_text
from waterflowd.ctl.commands.offline.import_ import IMPORTERS
from waterflowd.dsl import compile_workflow
from waterflowd.importers.origin import SOURCE_BYTES_MAX

NAMES = {
    "github": ".github/workflows/a.yml",
    "gitlab": ".gitlab-ci.yml",
    "jenkins": "Jenkinsfile",
    "ansible": "site.yml",
    "rundeck": "jobs.yaml",
    "cron": "crontab",
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\t\n",
    "utf-16": "jobs: {}".encode("utf-16"),
    "latin-1": b"name: caf\xe9\njobs: {}\n",
    "nul": b"jobs:\0\n",
    "huge": b"# x\n" * (SOURCE_BYTES_MAX // 4 + 1),
    "bomb": BOMB.encode(),
    "deep": b"[" * 5_000,
    "deep braces": b"pipeline " + b"{" * 5_000,
    "a list of nothing": b"- \n",
    "a text": b"hello\n",
    "several documents": b"---\na: 1\n---\nb: 2\n",
}
ODD: dict[str, str] = {
    "empty jobs": "on: push\njobs:\n",
    "a job is a text": "on: push\njobs: {a: b}\n",
    "steps are a mapping": "on: push\njobs: {a: {runs-on: x, steps: {run: y}}}\n",
    "keys are numbers": "on: push\n1: 2\njobs: {a: {runs-on: x, steps: [{run: y}]}}\n",
    "stages and a job of null": "stages: [a]\nbuild:\nscript: x\n",
    "a job of lists": "build: {script: [[[a]], {b: c}], rules: [1, [2]], needs: {x: y}, variables: [a]}\n",
    "a merge of itself": "a: &a\n  <<: *a\n",
    "a duplicate key": "build: {script: a}\nbuild: {script: b}\n",
    "a list of odd things": "- 1\n- [a]\n- {hosts: 5, tasks: {a: b}}\n- {name: x, hosts: [], tasks: [1, {}, {a: 1, b: 2}]}\n",
    "a rundeck job of odd things": "- {name: a, sequence: {commands: [1, {}, {exec: [a]}]}, options: [1, {name: 5}]}\n",
    "a pipeline of odd things": "pipeline { agent any\n stages { stage(x) { steps { sh y\n f { b } } when {} } } }\n",
    "a pipeline without stages": "pipeline { agent any }\n",
    "quotes that do not match": "pipeline { stages { stage('a) { } } }\n",
    "control characters": 'on: push\nname: "\\x07\\u202e"\njobs: {a: {runs-on: x, steps: [{run: "a\\x07b"}]}}\n',
    "expressions that are not closed": 'build:\n  script: ["echo ${{ a"]\n  variables: {A: "${{"}\n',
    "a crontab of odd lines": "* * * * *\n@daily\n* * * * * %%%\n99 99 99 99 99 x\n@reboot root\nA=\n* * * * * a\n",
    "names outside of ascii": "ßtage über: {script: ['echo ☃']}\n",
}


@pytest.mark.parametrize("system", list(IMPORTERS))
@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_read_is_refused_with_one_sentence(system: str, name: str) -> None:
    """Nothing is written for it, and nothing is raised."""
    imported = import_text(system, NAMES[system], REFUSED[name])
    assert not imported.files
    assert len(imported.refused) == 1
    assert 10 < len(imported.refused[0].reason) < 300
    assert "\n" not in imported.refused[0].reason


@pytest.mark.parametrize("system", list(IMPORTERS))
@pytest.mark.parametrize("name", list(ODD))
def test_odd_content_gives_valid_workflows_or_a_refusal(system: str, name: str) -> None:
    """Also where the content is that of another system."""
    imported = import_text(system, NAMES[system], ODD[name])
    assert imported.files or imported.refused
    for file in imported.files:
        if file.path.startswith("workflows/"):
            compiled = compile_workflow(f".waterflow/{file.path}", file.content.encode(), lambda path: None)
            assert not compiled.diagnostics, file.content


@pytest.mark.parametrize(
    "step",
    [
        "sleep params.T",
        "sleep(time: 'soon')",
        "timeout(time: params.T, unit: 'HOURS') { sh 'make' }",
        "retry(params.N) { sh 'make' }",
        "retry(2.5) { sh 'make' }",
    ],
)
def test_a_number_that_a_pipeline_computes_is_a_step_that_fails(step: str) -> None:
    """The sentence names it; the rest of the pipeline is imported."""
    pipeline = f"pipeline {{ agent any\n stages {{ stage('a') {{ steps {{ {step}\n sh 'next' }} }} }} }}\n"

    imported = import_text("jenkins", "Jenkinsfile", pipeline)

    (file,) = imported.files
    assert "which a program computes" in file.content
    assert "run: next" in file.content


@pytest.mark.parametrize("value", ["'{{ tries }}'", "many", "[1]"])
def test_retries_that_ansible_computes_are_a_decision(value: str) -> None:
    """The task is imported without them, and the comment has what was written."""
    imported = import_text(
        "ansible", "site.yml", f"- hosts: web\n  tasks:\n    - command: make\n      retries: {value}\n"
    )

    (file,) = imported.files
    assert "run: make" in file.content
    assert "DECIDE: retries is not a number here" in file.content


@pytest.mark.parametrize("system", list(IMPORTERS))
def test_a_missing_file_is_refused(system: str) -> None:
    """It may have been removed since it was listed."""
    assert [each.path for each in import_missing(system, "gone.yml").refused] == ["gone.yml"]
