"""Which refs are watched."""

from __future__ import annotations

import pytest

from waterflowd.reconcile import refs
from waterflowd.reconcile.source import Refs

TIPS = {
    "refs/heads/main": "1",
    "refs/heads/trunk": "2",
    "refs/heads/release/1": "3",
    "refs/tags/v1": "4",
    "refs/tags/w1": "5",
}


@pytest.mark.parametrize(
    ("head", "patterns", "expected"),
    [
        ("refs/heads/trunk", (), ["refs/heads/trunk"]),
        ("refs/heads/trunk", ("*",), ["refs/heads/trunk", "refs/heads/main"]),
        ("refs/heads/main", ("main",), ["refs/heads/main"]),
        ("refs/heads/main", ("release/*",), ["refs/heads/release/1"]),
        ("refs/heads/main", ("**", "!trunk"), ["refs/heads/main", "refs/heads/release/1"]),
        ("refs/heads/main", ("tags/v*",), ["refs/tags/v1"]),
        ("refs/heads/main", ("main", "tags/*", "!tags/w*"), ["refs/heads/main", "refs/tags/v1"]),
        ("refs/heads/main", ("refs/heads/t*", "refs/tags/v*"), ["refs/heads/trunk", "refs/tags/v1"]),
        ("refs/heads/none", (), []),
        (None, (), []),
    ],
)
def test_patterns_select_the_refs_and_head_the_default(
    head: str | None, patterns: tuple[str, ...], expected: list[str]
) -> None:
    """Without patterns HEAD decides; the default ref comes first; patterns of tags start with `tags/`."""
    assert refs.watched(Refs(head_ref=head, object_ids=TIPS), patterns) == expected


def test_the_only_branch_is_the_default_if_the_branch_of_head_does_not_exist() -> None:
    """For example, HEAD of a new bare repository names `master`, and `main` is pushed."""
    found = Refs(head_ref="refs/heads/master", object_ids={"refs/heads/main": "1", "refs/tags/v1": "2"})
    assert refs.watched(found, ()) == ["refs/heads/main"]


@pytest.mark.parametrize(
    ("found", "patterns", "words"),
    [
        (Refs(head_ref="refs/heads/main", object_ids={}), (), "the repository is empty"),
        (Refs(head_ref="refs/heads/x", object_ids=TIPS), (), "HEAD names refs/heads/x, which does not exist"),
        (Refs(head_ref=None, object_ids=TIPS), (), "HEAD is not a branch"),
        (
            Refs(head_ref=None, object_ids=TIPS),
            ("nope",),
            "no ref matches nope; the branches are: main, release/1, trunk",
        ),
    ],
)
def test_a_configuration_that_watches_nothing_is_explained(found: Refs, patterns: tuple[str, ...], words: str) -> None:
    """Each message gives the reason and lists the existing refs."""
    assert words in refs.nothing_watched(found, patterns)
