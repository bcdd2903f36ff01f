"""Patterns against an oracle, and the folded state against the trees that it came from."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.reconcile import diff, events, globs, ref_updates, state, triggers
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import Changes, Commit, Revision, TreeFile

MAIN = "refs/heads/main"
_PIECES = {
    "a": "a",
    "b": "b",
    "/": "/",
    ".": r"\.",
    "*": "[^/]*",
    "**": ".*",
    "a+": "a+",
    "b?": "b?",
    "[ab]": "[ab]",
    "[a-c]+": "[a-c]+",
    "\\*": r"\*",
    "\\[": r"\[",
}


def _join(pieces: list[str]) -> tuple[str, str] | None:
    """Returns the pattern and an equivalent regular expression; None if adjacent pieces would merge into others."""
    pattern = "".join(pieces)
    if re.search(r"(^|/)\*\*/", pattern):
        return None
    if any(first in ("*", "**") and second in ("*", "**") for first, second in pairwise(pieces)):
        return None
    return pattern, "".join(_PIECES[piece] for piece in pieces)


@given(st.lists(st.sampled_from(sorted(_PIECES)), max_size=6), st.text("ab/c.*[", max_size=8))
def test_patterns_agree_with_regular_expressions(pieces: list[str], text: str) -> None:
    """This covers patterns that can be written as a regular expression."""
    joined = _join(pieces)
    if joined is not None:
        pattern, expression = joined
        assert globs.is_match(pattern, text) is (re.fullmatch(expression, text) is not None)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_pattern_and_no_text_raise(pattern: str, text: str) -> None:
    """Any text in a file or repository either matches or does not match."""
    assert globs.is_match(pattern, text) in (True, False)


_trees = st.dictionaries(st.sampled_from(["a.yml", "b.yml", "c.yml"]), st.sampled_from("1234"), max_size=3)


@given(st.lists(_trees, max_size=8))
def test_the_fold_equals_the_last_tree_and_no_key_repeats(trees: list[dict[str, str]]) -> None:
    """Applying the differences one by one gives the tree itself, from any starting point; objects ending in 4 are invalid."""
    held = state.RepositoryState(name="ops", refs={})
    keys: list[str] = []
    recorded = []
    for number, tree in enumerate(trees, start=1):
        before = held.refs.get(MAIN)
        seen = [TreeFile(path=path, blob=blob) for path, blob in sorted(tree.items())]
        difference = diff.difference(before.files if before else {}, seen)
        became = {file.path: _became(file) for file in difference.files}
        update = triggers.RefUpdate(
            ref=MAIN, number=number, is_first_seen=False, changes=Changes(), files=frozenset(became)
        )
        commit = Commit(id=f"{number:040}", tree=f"{number:040}", author="", message="")
        revision = Revision(commit=commit, files=tuple(seen), changes=Changes())
        shared = ref_updates.push_of("ops", update, None, commit, commit.id)
        changes = ref_updates.file_changes(difference, became)
        facts = ref_updates.facts(number, update, revision, shared, changes)
        keys += [triggers.trigger_key("ops", update, path) for path in tree]
        recorded += facts
        for fact in facts:
            state.evolve(held, fact)
        assert {path: file.newest.blob for path, file in held.refs[MAIN].files.items()} == tree
        assert diff.difference(held.refs[MAIN].files, seen) == diff.Difference()
    assert len(keys) == len(set(keys))
    assert state.fold("ops", recorded) == held


@given(
    st.lists(st.tuples(_trees, st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)), max_size=8)
)
def test_the_fold_knows_the_dependencies_of_each_file(steps: list[tuple[dict[str, str], dict[str, str]]]) -> None:
    """Every file looks for `x` and `y`; after any changes, each file is compiled as if the last tree were the first one."""
    held = state.RepositoryState(name="ops", refs={})
    for number, (tree, others) in enumerate(steps, start=1):
        before = held.refs.get(MAIN)
        seen = [TreeFile(path=path, blob=blob) for path, blob in sorted(tree.items())]
        unchanged = diff.unchanged_in({path: TreeFile(path=path, blob=blob) for path, blob in others.items()})
        difference = diff.difference(before.files if before else {}, seen, unchanged)
        used = {path: others.get(path, "") for path in "xy"}
        became = {}
        for file in difference.files:
            known = next(filter(unchanged, held.known(file.path, file.blob)), None)
            became[file.path] = known or FileApplied(path=file.path, blob=file.blob, plan_hash=file.blob, used=used)
        fact = events.RevisionApplied(
            at=number,
            ref=MAIN,
            update_number=number,
            commit=f"{number:040}",
            tree=f"{number:040}",
            files=tuple(became.values()),
            removed=difference.removed,
        )
        state.evolve(held, fact)
        files = held.refs[MAIN].files
        assert {path: (file.newest.blob, file.newest.used) for path, file in files.items()} == {
            path: (blob, used) for path, blob in tree.items()
        }
        assert diff.difference(files, seen, unchanged) == diff.Difference()


def _became(file: TreeFile) -> FileApplied:
    if file.blob == "4":
        return ref_updates.file_refused(file, [])
    return FileApplied(path=file.path, blob=file.blob, plan_hash=f"hash-{file.blob}")
