"""`CI_DEFAULT_BRANCH` of GitLab: a setting of the project, which is not in the file."""

from __future__ import annotations

from tests.unit.importers.golden import import_text
from waterflowd.importers.findings import Imported, Kind

PIPELINE = """
test:
  script: git diff "origin/$CI_DEFAULT_BRANCH"
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
"""


def _imported(pipeline: str, **others: str) -> tuple[Imported, str]:
    imported = import_text("gitlab", ".gitlab-ci.yml", pipeline, **others)
    return imported, imported.files[0].content


def test_it_is_that_of_the_clone() -> None:
    """Conditions and scripts have it; the list of changes says so."""
    head = {".git/refs/remotes/origin/HEAD": "ref: refs/remotes/origin/trunk\n"}
    imported, content = _imported(PIPELINE, **head)
    assert "if: git.branch == 'trunk'" in content
    assert "CI_DEFAULT_BRANCH: trunk" in content
    assert "CI_DEFAULT_BRANCH is set in env: trunk, as in this clone" in [
        each.text for each in imported.findings if each.kind is Kind.CHANGE
    ]


def test_elsewhere_it_is_a_guess_and_a_decision() -> None:
    """The mark is beside the value."""
    _, content = _imported(PIPELINE)
    before, _, after = content.partition("CI_DEFAULT_BRANCH: main")
    assert before.rstrip().splitlines()[-1].strip().startswith("# DECIDE: CI_DEFAULT_BRANCH")
    assert "if: git.branch == 'main'" in after


def test_the_value_of_the_file_wins() -> None:
    """A pipeline may set it itself."""
    _, content = _imported("variables: {CI_DEFAULT_BRANCH: develop}\n" + PIPELINE)
    assert "if: git.branch == 'develop'" in content
    assert "DECIDE: CI_DEFAULT" not in content


def test_a_pipeline_without_it_gets_nothing() -> None:
    """No variable that nobody reads."""
    _, content = _imported("test:\n  script: echo $CI_DEFAULT_BRANCH_NAME\n")
    assert "CI_DEFAULT_BRANCH:" not in content
