"""Conditions of GitLab as conditions here."""

from __future__ import annotations

import pytest

from waterflowd.importers.gitlab import conditions


@pytest.mark.parametrize(
    ("pattern", "condition"),
    [
        ("/^v1/", "startsWith(git.tag, 'v1')"),
        (r"/^v\./", "startsWith(git.tag, 'v.')"),
        ("/^v.*$/", "startsWith(git.tag, 'v')"),
        ("/.*-rc$/", "endsWith(git.tag, '-rc')"),
        ("/beta/", "contains(git.tag, 'beta')"),
    ],
)
def test_a_pattern_of_a_prefix_a_suffix_or_a_part_is_a_function(pattern: str, condition: str) -> None:
    """These are nearly all that people write."""
    assert conditions.translated(f"$CI_COMMIT_TAG =~ {pattern}", {}) == condition


@pytest.mark.parametrize("pattern", [r"/^v\.*/", r"/^v\.+$/", r"/^v\d/", "/^v?/"])
def test_any_other_pattern_has_no_counterpart(pattern: str) -> None:
    """A condition that is nearly right would be worse than the question."""
    with pytest.raises(conditions.Untranslatable):
        conditions.translated(f"$CI_COMMIT_TAG =~ {pattern}", {})
