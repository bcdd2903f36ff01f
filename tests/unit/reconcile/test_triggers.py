"""Which workflows a ref update starts, and under which key."""

from __future__ import annotations

import pytest

from waterflowd.model.plan import PushTrigger, Triggers
from waterflowd.reconcile import triggers
from waterflowd.reconcile.source import Changes
from waterflowd.reconcile.triggers import RefUpdate

FILE = "workflows/deploy.yml"


def update(
    ref: str = "refs/heads/main",
    *,
    is_first_seen: bool = False,
    paths: tuple[str, ...] = (),
    is_complete: bool = True,
    files: frozenset[str] = frozenset(),
    number: int = 7,
) -> RefUpdate:
    changes = Changes(paths=paths, is_complete=is_complete)
    return RefUpdate(ref=ref, number=number, is_first_seen=is_first_seen, changes=changes, files=files)


def test_a_file_without_on_starts_when_the_update_changed_it() -> None:
    """The smallest file runs on the push that adds it, and not on a push of something else."""
    smallest = Triggers(on_change=True)
    assert triggers.is_started(smallest, FILE, update(files=frozenset({FILE})))
    assert not triggers.is_started(smallest, FILE, update(files=frozenset({"workflows/other.yml"})))


@pytest.mark.parametrize("of", [Triggers(on_change=True), Triggers(push=PushTrigger())])
def test_a_ref_that_is_first_seen_starts_nothing(of: Triggers) -> None:
    """Existing history is only recorded."""
    assert not triggers.is_started(of, FILE, update(is_first_seen=True, files=frozenset({FILE})))


def test_a_file_with_only_workflow_dispatch_is_not_started_by_pushes() -> None:
    """This includes a push that changes the file."""
    assert not triggers.is_started(Triggers(), FILE, update(files=frozenset({FILE})))


@pytest.mark.parametrize(
    ("push", "ref", "paths", "is_started"),
    [
        (PushTrigger(), "refs/heads/main", (), True),
        (PushTrigger(), "refs/tags/v1", (), True),
        (PushTrigger(branches=("main",)), "refs/heads/main", (), True),
        (PushTrigger(branches=("main",)), "refs/heads/other", (), False),
        (PushTrigger(branches=("release/**", "!release/**-rc")), "refs/heads/release/1", (), True),
        (PushTrigger(branches=("release/**", "!release/**-rc")), "refs/heads/release/1-rc", (), False),
        (PushTrigger(branches=("*",)), "refs/tags/v1", (), False),
        (PushTrigger(branches_ignore=("wip/**",)), "refs/heads/wip/x", (), False),
        (PushTrigger(branches_ignore=("wip/**",)), "refs/heads/main", (), True),
        (PushTrigger(branches_ignore=("wip/**",)), "refs/tags/v1", (), False),
        (PushTrigger(paths=("docs/**",)), "refs/heads/main", ("src/a.py", "docs/a.md"), True),
        (PushTrigger(paths=("docs/**",)), "refs/heads/main", ("src/a.py",), False),
        (PushTrigger(paths=("docs/**",)), "refs/heads/main", (), False),
        (PushTrigger(paths=("docs/**",)), "refs/tags/v1", (), True),
        (PushTrigger(paths=("docs/**", "!docs/a.md")), "refs/heads/main", ("docs/a.md",), False),
        (PushTrigger(paths_ignore=("docs/**",)), "refs/heads/main", ("docs/a.md",), False),
        (PushTrigger(paths_ignore=("docs/**",)), "refs/heads/main", ("docs/a.md", "b"), True),
        (PushTrigger(branches=("main",), paths=("a",)), "refs/heads/main", ("b",), False),
        (PushTrigger(branches=("other",), paths=("a",)), "refs/heads/main", ("a",), False),
        (PushTrigger(tags=("v*",)), "refs/tags/v1", (), True),
        (PushTrigger(tags=("v*",)), "refs/tags/w1", (), False),
        (PushTrigger(tags=("v*",)), "refs/heads/main", (), False),
        (PushTrigger(tags=("v*", "!v*-rc", "v2-rc")), "refs/tags/v1-rc", (), False),
        (PushTrigger(tags=("v*", "!v*-rc", "v2-rc")), "refs/tags/v2-rc", (), True),
        (PushTrigger(tags_ignore=("v*",)), "refs/tags/v1", (), False),
        (PushTrigger(tags_ignore=("v*",)), "refs/tags/w1", (), True),
        (PushTrigger(tags_ignore=("v*",)), "refs/heads/main", (), False),
        (PushTrigger(branches=("main",), tags=("v*",)), "refs/heads/main", (), True),
        (PushTrigger(branches=("main",), tags=("v*",)), "refs/tags/v1", (), True),
        (PushTrigger(branches=("main",), tags=("v*",)), "refs/tags/w1", (), False),
        (PushTrigger(tags=("v*",), paths=("docs/**",)), "refs/tags/v1", ("src/a.py",), True),
        (PushTrigger(tags=("v*",), branches=("**",), paths=("docs/**",)), "refs/heads/a", ("src/a.py",), False),
        (PushTrigger(branches=("x$(id)",)), "refs/heads/x$(id)", (), True),
    ],
)
def test_push_filters_follow_github(push: PushTrigger, ref: str, paths: tuple[str, ...], is_started: bool) -> None:
    """Branches and paths must both match; a filter for branches excludes tags; path filters do not apply to tags."""
    assert triggers.is_started(Triggers(push=push), FILE, update(ref, paths=paths)) is is_started


@pytest.mark.parametrize("push", [PushTrigger(paths=("docs/**",)), PushTrigger(paths_ignore=("**",))])
def test_path_filters_match_if_the_changes_are_unknown(push: PushTrigger) -> None:
    """Too many changes count as a change of everything, as on GitHub."""
    assert triggers.is_started(Triggers(push=push), FILE, update(paths=("src/a",), is_complete=False))


def test_a_key_contains_repository_ref_update_and_file() -> None:
    """The key is readable, and differs if one of its four parts differs."""
    keys = {
        triggers.trigger_key(repository, update(ref, number=number), path)
        for repository in ("ops", "web")
        for ref in ("refs/heads/main", "refs/heads/m")
        for number in (1, 11)
        for path in (FILE, "workflows/1.yml", "1:workflows/1.yml")
    }
    assert triggers.trigger_key("ops", update(), FILE) == "push:ops:refs/heads/main:7:workflows/deploy.yml"
    assert len(keys) == 24


def test_a_key_with_long_names_fits_into_the_index() -> None:
    """Paths of a kilobyte end in a hash, and still give different keys."""
    first, second = (triggers.trigger_key("ops", update(), "é" * 900 + end) for end in ("a", "b"))
    assert first != second
    assert max(len(first.encode()), len(second.encode())) <= 400
