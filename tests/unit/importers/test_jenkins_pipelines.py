"""What a stage inherits from its pipeline, and what a pipeline says besides steps."""

from __future__ import annotations

from typing import Any

import yaml

from tests.unit.importers.golden import import_text
from waterflowd.importers.findings import Imported, Kind


def _imported(content: str) -> tuple[Imported, dict[str, Any]]:
    imported = import_text("jenkins", "Jenkinsfile", content)
    written: dict[str, Any] = yaml.safe_load(imported.files[0].content)
    return imported, written


def _pipeline(stages: str, settings: str = "", *, agent: str = "docker { image 'maven' }") -> str:
    return f"pipeline {{ agent {{ {agent} }}\n{settings}\nstages {{ {stages} }} }}"


def test_a_stage_without_an_agent_runs_in_the_container_of_the_pipeline() -> None:
    """Also if it is a job of its own, because another stage beside it has an agent, or because it is a matrix."""
    _, written = _imported(
        _pipeline(
            "stage('A') { parallel {"
            " stage('B') { agent { label 'x' }\n steps { sh 'b' } }\n stage('C') { steps { sh 'c' } } } }\n"
            "stage('D') { matrix { axes { axis { name 'X'; values '1' } }\n"
            " stages { stage('E') { steps { sh 'e' } } } } }"
        )
    )
    jobs = written["jobs"]
    assert {name: job.get("container") for name, job in jobs.items()} == {
        "B": None,
        "C": {"image": "maven"},
        "D": {"image": "maven"},
    }


def test_the_timeout_of_a_pipeline_is_that_of_the_run() -> None:
    """However many jobs it has."""
    _, written = _imported(_pipeline("stage('A') { steps { sh 'a' } }", "options { timeout(time: 2, unit: 'HOURS') }"))
    assert (written["timeout-minutes"], "timeout-minutes" in written["jobs"]["build"]) == (120, False)


def test_combinations_can_be_excluded() -> None:
    """Each combination of the values of an exclude."""
    _, written = _imported(
        _pipeline(
            "stage('M') { matrix { axes { axis { name 'OS'; values 'a', 'b' }\n axis { name 'V'; values '1', '2' } }\n"
            " excludes { exclude { axis { name 'OS'; values 'a' }\n axis { name 'V'; values '1', '2' } } }\n"
            " stages { stage('T') { steps { sh 't' } } } } }"
        )
    )
    assert written["jobs"]["M"]["strategy"]["matrix"]["exclude"] == [{"OS": "a", "V": "1"}, {"OS": "a", "V": "2"}]


def test_an_exclude_by_what_it_is_not_is_a_decision() -> None:
    """The language has no such exclude."""
    imported, written = _imported(
        _pipeline(
            "stage('M') { matrix { axes { axis { name 'OS'; values 'a', 'b' } }\n"
            " excludes { exclude { axis { name 'OS'; notValues 'a' } } }\n"
            " stages { stage('T') { steps { sh 't' } } } } }"
        )
    )
    assert "exclude" not in written["jobs"]["M"]["strategy"]["matrix"]
    assert "this exclude of matrix has no counterpart" in [each.text for each in imported.findings]


def test_only_the_submitters_may_approve() -> None:
    """As a step, and as a part of a stage."""
    _, written = _imported(
        _pipeline("stage('A') { input { message 'Go?'\n ok 'Yes'\n submitter 'ann,bob' }\n steps { sh 'a' } }")
    )
    asked = written["jobs"]["build"]["steps"][0]
    assert asked["with"] == {"message": "Go?", "approvers": ["ann", "bob"]}


def test_a_later_stash_replaces_one_of_the_same_name() -> None:
    """As on Jenkins; the name of an artifact is otherwise taken."""
    _, written = _imported(_pipeline("stage('A') { steps { stash name: 'a', includes: 'x'\n stash name: 'a' } }"))
    assert [step["with"]["overwrite"] for step in written["jobs"]["build"]["steps"]] == [True, True]


def test_a_text_with_a_name_is_a_variable() -> None:
    """In front of the pipeline: scripts and other variables use it."""
    imported, written = _imported(
        "def version = '1.2'\n"
        + _pipeline('stage("A") { steps { sh "make ${version}" } }', 'environment { TAG = "v${version}" }')
    )
    assert written["env"] == {"version": "1.2", "TAG": "v1.2"}
    assert written["jobs"]["build"]["steps"][0]["run"] == "make ${version}"
    assert [each.kind for each in imported.findings if "version" in each.text] == [Kind.CHANGE]


def test_a_variable_that_a_program_sets_is_a_decision_at_the_variable_that_uses_it() -> None:
    """Its name is in the text."""
    imported, written = _imported(
        "def version = readVersion()\n"
        + _pipeline("stage('A') { steps { sh 'make' } }", 'environment { TAG = "v${version}" }')
    )
    assert "TAG" not in (written.get("env") or {})
    texts = [each.text for each in imported.findings]
    assert "TAG is computed by a program: set it here" in texts
