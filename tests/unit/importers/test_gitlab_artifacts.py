"""Artifacts of GitLab's jobs: later jobs get those that exist, of all instances."""

from __future__ import annotations

from tests.unit.importers.golden import import_text
from waterflowd.dsl import compile_workflow

PIPELINE = """
build:
  stage: build
  script: make
  parallel: {parallel}
  artifacts: {{paths: [out/]}}
docs:
  stage: build
  script: make docs
  rules: [{{if: $CI_COMMIT_TAG}}]
  artifacts: {{paths: [html/]}}
deploy:
  stage: deploy
  script: ls out html
"""


def imported(parallel: str) -> str:
    (file,) = import_text("gitlab", ".gitlab-ci.yml", PIPELINE.format(parallel=parallel)).files
    compiled = compile_workflow(f".waterflow/{file.path}", file.content.encode(), lambda path: None)
    assert not compiled.diagnostics
    return file.content


def test_each_instance_of_a_job_has_an_artifact_of_its_own() -> None:
    """Names are unique in a run, so the second instance would fail otherwise; a later job fetches all of them."""
    content = imported("3")
    assert "name: 'build.${{ strategy.job-index }}'" in content
    assert "pattern: build.*" in content


def test_a_job_that_was_skipped_and_stored_nothing_fails_no_later_job() -> None:
    """As on GitLab, where a missing artifact is no error."""
    content = imported("2")
    assert "with:\n          pattern: docs\n          merge-multiple: true" in content
    assert "name: docs" in content


def test_more_instances_than_gitlab_has_are_cut_with_a_decision() -> None:
    """A number from a mistake or an attack does not fill the memory."""
    content = imported("1000000000000")
    assert "DECIDE: build: a job has at most 200 instances" in content
    assert "CI_NODE_TOTAL: '200'" in content
