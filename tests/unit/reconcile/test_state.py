"""The fold of a repository's facts, and the difference from a tree."""

from __future__ import annotations

from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.plan import Triggers, WorkflowRunTrigger
from waterflowd.reconcile import diff, events, state
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import TreeFile

MAIN = "refs/heads/main"


def good(path: str, blob: str) -> FileApplied:
    return FileApplied(path=path, blob=blob, plan_hash=f"hash-{blob}", name=path, triggers=Triggers(on_change=True))


def following(blob: str, *workflows: str) -> FileApplied:
    triggers = Triggers(workflow_run=WorkflowRunTrigger(workflows=workflows))
    return FileApplied(path="a.yml", blob=blob, plan_hash=f"hash-{blob}", name="a", triggers=triggers)


def broken(path: str, blob: str) -> FileApplied:
    error = Diagnostic(code="WF101", path=path, line=1, column=1, message="not YAML")
    return FileApplied(path=path, blob=blob, errors=(error,))


def applied(number: int, *files: FileApplied, removed: tuple[str, ...] = ()) -> events.RevisionApplied:
    commit = f"c{number}"
    return events.RevisionApplied(
        at=number, ref=MAIN, update_number=number, commit=commit, tree=f"t{number}", files=files, removed=removed
    )


def test_a_file_with_errors_keeps_its_last_valid_version() -> None:
    """The valid version stays known while the file counts as broken."""
    folded = state.fold("ops", [applied(1, good("a.yml", "1")), applied(2, broken("a.yml", "2"))])
    file = folded.refs[MAIN].files["a.yml"]
    assert file.is_broken
    assert file.good is not None
    assert file.good.plan_hash == "hash-1"
    assert file.commit == "c2"


def test_a_file_that_was_never_valid_has_no_earlier_version() -> None:
    """There is nothing to fall back on."""
    folded = state.fold("ops", [applied(1, broken("a.yml", "1"))])
    assert folded.refs[MAIN].files["a.yml"].good is None


def test_a_removed_ref_keeps_its_update_number() -> None:
    """Numbers continue when the ref is created again, so that no trigger key is used twice."""
    missing = events.RefRemoved(at=3, ref=MAIN, commit="c2")
    folded = state.fold("ops", [applied(1, good("a.yml", "1")), applied(2, removed=("a.yml",)), missing])
    ref = folded.refs[MAIN]
    assert (ref.files, ref.is_removed, ref.update_number) == ({}, True, 2)
    state.evolve(folded, applied(3))
    assert not ref.is_removed


def test_more_files_of_an_update_are_added() -> None:
    """A first commit with thousands of files is several facts and one state."""
    more = events.FilesApplied(at=1, ref=MAIN, files=(good("b.yml", "2"),), removed=("a.yml",))
    folded = state.fold("ops", [applied(1, good("a.yml", "1")), more])
    assert list(folded.refs[MAIN].files) == ["b.yml"]
    assert folded.refs[MAIN].files["b.yml"].commit == "c1"


def test_a_known_object_is_found_on_any_ref_and_among_valid_versions() -> None:
    """Reverting a file, or adding it to another branch, needs no compilation."""
    folded = state.fold("ops", [applied(1, good("a.yml", "1")), applied(2, broken("a.yml", "2"))])
    assert list(folded.known("a.yml", "1")) == [good("a.yml", "1")]
    assert list(folded.known("a.yml", "2")) == [broken("a.yml", "2")]
    assert not list(folded.known("b.yml", "1"))


def test_the_last_of_suspend_and_resume_counts() -> None:
    """Suspension is part of the folded state."""
    suspended = events.RepositorySuspended(at=1, by="token:ops")
    assert state.fold("ops", [suspended]).is_suspended
    assert not state.fold("ops", [suspended, events.RepositoryResumed(at=2, by="token:ops")]).is_suspended
    assert not state.fold("ops", [suspended]).was_empty


def test_the_difference_is_by_path_and_object() -> None:
    """It contains added, changed and removed files, and nothing for unchanged ones."""
    folded = state.fold("ops", [applied(1, good("a.yml", "1"), good("b.yml", "2"), broken("c.yml", "3"))])
    tree = [TreeFile(path="a.yml", blob="1"), TreeFile(path="c.yml", blob="4"), TreeFile(path="d.yml", blob="1")]
    found = diff.difference(folded.refs[MAIN].files, tree)
    assert [file.path for file in found.added] == ["d.yml"]
    assert [file.path for file in found.changed] == ["c.yml"]
    assert found.removed == ("b.yml",)


def test_a_duplicate_name_in_a_damaged_tree_counts_once() -> None:
    """The first entry counts."""
    tree = [TreeFile(path="a.yml", blob="1"), TreeFile(path="a.yml", blob="2")]
    assert [file.blob for file in diff.difference({}, tree).files] == ["1"]


def test_the_trigger_of_a_file_is_known_for_each_position_of_the_log() -> None:
    """A run that completed before the file had its current trigger is matched against the earlier one."""
    folded = state.RepositoryState(name="ops", refs={})
    for seq, fact in (
        (10, applied(1, following("1", "build"))),
        (20, applied(2, broken("a.yml", "2"))),
        (30, applied(3, following("3", "build"))),
        (40, applied(4, following("4", "build", "test"))),
    ):
        state.evolve(folded, fact, seq)
    file = folded.refs[MAIN].files["a.yml"]
    requested = {seq: file.workflow_run_at(seq) for seq in (10, 11, 25, 40, 41)}
    names = {seq: trigger.workflows if trigger is not None else None for seq, trigger in requested.items()}
    assert names == {10: None, 11: ("build",), 25: ("build",), 40: ("build",), 41: ("build", "test")}
    assert file.workflow_run_since == 10


def test_triggers_that_are_no_longer_needed_are_dropped() -> None:
    """Runs up to the handled position are done, so a file that changes every day costs nothing."""
    folded = state.RepositoryState(name="ops", refs={})
    for seq in range(10, 1_000, 10):
        state.evolve(folded, applied(seq, following(str(seq), f"build {seq}")), seq)
        state.evolve(folded, events.CompletedRunsHandled(at=seq, seq=seq + 5), seq + 1)
    file = folded.refs[MAIN].files["a.yml"]
    assert len(file.workflow_run_versions) <= 2
    requested = file.workflow_run_at(996)
    assert requested is not None
    assert requested.workflows == ("build 990",)


def test_a_trigger_that_was_removed_and_added_again_starts_over() -> None:
    """Runs that completed in between start nothing."""
    folded = state.RepositoryState(name="ops", refs={})
    for seq, fact in (
        (10, applied(1, following("1", "build"))),
        (20, applied(2, good("a.yml", "2"))),
        (30, applied(3, following("3", "build"))),
    ):
        state.evolve(folded, fact, seq)
    file = folded.refs[MAIN].files["a.yml"]
    assert (file.workflow_run_at(25), file.workflow_run_since) == (None, 30)


def test_what_is_forgotten_begins_anew_with_the_next_number() -> None:
    """Another repository may have the name: nothing of the old one counts, except that no update number is used twice."""
    folded = state.fold(
        "ops",
        [
            events.EmptyRepositorySeen(at=1),
            applied(1, good("a.yml", "1")),
            applied(2, good("a.yml", "2")),
            events.RefsWatched(at=2, patterns=("main",)),
            events.RepositorySuspended(at=3, by="ada"),
            events.ScheduleArmed(at=3, path="a.yml", cron="* * * * *", timezone="UTC", ref=MAIN, from_at=1),
            events.RepositoryForgotten(at=4),
        ],
    )
    ref = folded.refs[MAIN]
    assert (ref.update_number, ref.commit, ref.files, ref.is_removed, ref.is_forgotten) == (2, "", {}, True, True)
    assert (folded.was_empty, folded.is_suspended, folded.patterns, folded.schedules) == (False, False, None, {})
    assert not folded.has_refs

    state.evolve(folded, applied(3, good("b.yml", "3")))
    assert folded.has_refs
    assert (ref := folded.refs[MAIN]).update_number == 3
    assert not ref.is_forgotten
    assert not ref.is_removed
