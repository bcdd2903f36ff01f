"""What jobs of GitLab get from their pipeline without a key of their own."""

from __future__ import annotations

from typing import Any

import yaml

from tests.unit.importers.golden import import_text
from waterflowd.importers.findings import Imported

ASKED = """
variables:
  DEPLOY: {value: "no", options: ["no", "yes"], description: Deploy afterwards?}
  TARGET: "site-$DEPLOY"
test:
  script: ./test.sh "$DEPLOY"
  rules:
    - if: $DEPLOY == "yes"
"""


def _imported(pipeline: str) -> tuple[Imported, dict[str, Any]]:
    imported = import_text("gitlab", ".gitlab-ci.yml", pipeline)
    content = imported.files[0].content.replace("\non:", "\n'on':")
    written: dict[str, Any] = yaml.safe_load(content)
    return imported, written


def test_a_variable_that_a_person_is_asked_for_is_an_input() -> None:
    """Other runs use its default, in scripts, in other variables and in conditions."""
    _, written = _imported(ASKED)
    assert written["on"]["workflow_dispatch"]["inputs"] == {
        "DEPLOY": {"description": "Deploy afterwards?", "type": "choice", "options": ["no", "yes"], "default": "no"}
    }
    assert written["env"] == {
        "DEPLOY": "${{ inputs.DEPLOY || 'no' }}",
        "TARGET": "site-${{ inputs.DEPLOY || 'no' }}",
    }
    assert written["jobs"]["test"]["if"] == "(inputs.DEPLOY || 'no') == 'yes'"


def test_a_service_has_the_variables_of_the_file_of_the_job_and_its_own() -> None:
    """Without its password, a database does not start."""
    _, written = _imported(
        "variables: {POSTGRES_PASSWORD: a, POSTGRES_DB: $CI_PROJECT_NAME}\n"
        "test:\n  script: make\n  variables: {POSTGRES_USER: u}\n"
        "  services: [{name: 'postgres:16', alias: db, variables: {POSTGRES_PASSWORD: b}}]\n"
    )
    assert written["jobs"]["test"]["services"] == {
        "db": {
            "image": "postgres:16",
            "env": {
                "POSTGRES_PASSWORD": "b",
                "POSTGRES_DB": "${{ replace(github.repository, format('{0}/', github.repository_owner), '') }}",
                "POSTGRES_USER": "u",
            },
        }
    }


def test_docker_in_docker_is_a_decision() -> None:
    """It would fail when it starts."""
    imported, _ = _imported("test: {script: make, services: ['docker:24-dind']}\n")
    assert [each.text for each in imported.findings if "Docker in Docker" in each.text]


def test_a_pipeline_of_interruptible_jobs_is_replaced_by_a_newer_one() -> None:
    """For one branch, as on GitLab; no decision is left."""
    imported, written = _imported("default: {interruptible: true}\na: {script: make}\nb: {script: make}\n")
    assert written["concurrency"] == {"group": "gitlab-ci-${{ github.ref_name }}", "cancel-in-progress": True}
    assert not [each for each in imported.findings if "interruptible" in each.text or "concurrency" in each.text]


def test_a_pipeline_with_a_job_that_must_not_be_interrupted_is_a_decision() -> None:
    """Here, a newer run replaces all jobs or none."""
    imported, written = _imported("a: {script: make, interruptible: true}\nb: {script: make}\n")
    assert "concurrency" not in written
    assert [each for each in imported.findings if each.text.startswith("a: on GitLab a newer push may cancel this job")]
