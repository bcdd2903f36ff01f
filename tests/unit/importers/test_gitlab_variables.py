"""Predefined variables of GitLab: in scripts, and where GitLab replaces them itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.unit.importers.golden import import_text

SLUG = "${{ replace(replace(replace(lower(github.ref_name), '/', '-'), '.', '-'), '_', '-') }}"


def _job(pipeline: str) -> Any:
    content = import_text("gitlab", ".gitlab-ci.yml", pipeline).files[0].content
    assert "DECIDE: nothing in the file sets" not in content
    return yaml.safe_load(content)["jobs"]["test"]


@pytest.mark.parametrize(
    ("key", "restored"), [("$CI_COMMIT_REF_SLUG", f"{SLUG}-"), ("$CI_JOB_STAGE-$CI_JOB_NAME", "build-test-")]
)
def test_the_key_of_a_cache_is_that_of_the_branch_or_the_job(key: str, restored: str) -> None:
    """The most usual keys; a key with `$NAME` would be the same for all branches."""
    job = _job(f"stages: [build]\ntest: {{stage: build, script: make, cache: {{key: {key}, paths: [a/]}}}}\n")
    assert job["steps"][0]["with"]["restore-keys"] == restored


def test_a_variable_without_a_counterpart_is_not_taken_for_a_setting_of_the_project() -> None:
    """It needs another decision, and a project may set others."""
    pipeline = "test: {image: '$CI_REGISTRY_IMAGE/$FLAVOR', script: make}\n"
    texts = [each.text for each in import_text("gitlab", ".gitlab-ci.yml", pipeline).findings]
    assert "GitLab sets CI_REGISTRY_IMAGE, and nothing does here: write the value in its place" in texts
    assert [text for text in texts if text.startswith("nothing in the file sets FLAVOR:")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CI_COMMIT_REF_SLUG", SLUG),
        ("CI_PROJECT_NAME", "${{ replace(github.repository, format('{0}/', github.repository_owner), '') }}"),
        ("CI_JOB_NAME", "test"),
        ("CI_JOB_STAGE", "test"),
        ("CI_ENVIRONMENT_NAME", "production"),
    ],
)
def test_a_script_gets_them_in_its_environment(name: str, value: str) -> None:
    """With the value that they have on GitLab."""
    assert _job(f"test: {{script: deploy ${name}, environment: production}}\n")["env"] == {name: value}
