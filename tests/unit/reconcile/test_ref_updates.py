"""The facts and runs of a ref update."""

from __future__ import annotations

from waterflowd.access import workflow_errors
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.model import plan as plans
from waterflowd.model.ids import JobId, StepId
from waterflowd.model.plan import JobPlan, Plan, StepPlan, Triggers
from waterflowd.reconcile import diff, events, ref_updates, state
from waterflowd.reconcile.ref_updates import FileChanges
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Changes, Commit, Revision, TreeFile
from waterflowd.reconcile.triggers import RefUpdate

MAIN = "refs/heads/main"
COMMIT = Commit(id="c" * 40, tree="d" * 40, author='"><script>\n', message="say `id` $(id)\nmore")


def compiled(path: str, *groups: str) -> Compiled:
    step = StepPlan(id=StepId("1"), name="say", node="shell")
    jobs = tuple(JobPlan(id=JobId(f"j{n}"), name="j", group=group, steps=(step,)) for n, group in enumerate(groups))
    plan = plans.encode(Plan(name=path, path=path, triggers=Triggers(on_change=True), jobs=jobs))
    return Compiled(plan=plan, diagnostics=[])


def update(number: int = 2, files: frozenset[str] = frozenset()) -> RefUpdate:
    return RefUpdate(ref=MAIN, number=number, is_first_seen=False, changes=Changes(paths=("a", "b")), files=files)


def revision() -> Revision:
    return Revision(commit=COMMIT, files=(), changes=Changes(paths=("a", "b")))


def test_an_update_with_many_files_is_several_facts_and_one_state() -> None:
    """No fact exceeds its size limit, and the folded state has every file."""
    count = 2 * events.FILES_PER_FACT + 1
    seen = [TreeFile(path=f"workflows/{n:05}.yml", blob=str(n)) for n in range(count)]
    changes = ref_updates.file_changes(
        diff.difference({}, seen), {file.path: ref_updates.file_refused(file, []) for file in seen}
    )
    shared = ref_updates.push_of("ops", update(), None, COMMIT, COMMIT.id)
    facts = ref_updates.facts(5, update(), revision(), shared, changes)
    assert len(facts) == 3
    assert len(state.fold("ops", facts).refs[MAIN].files) == count


def test_errors_of_a_file_are_bounded() -> None:
    """A file with a thousand errors does not fill the log."""
    error = Diagnostic(code="WF101", path="a.yml", line=1, column=1, message="m" * 10_000, snippet="\x1b" * 10_000)
    file = ref_updates.file_applied(TreeFile(path="a.yml", blob="1"), Compiled(plan=None, diagnostics=[error] * 1_000))
    assert len(file.errors) == events.ERRORS_MAX
    assert len(file.errors[0].message) <= 500
    assert file.errors[0].snippet.isprintable()


def test_text_from_git_is_passed_on_unchanged() -> None:
    """Message and author reach the context unchanged, and are escaped where they are displayed."""
    shared = ref_updates.push_of("ops", update(), "b" * 40, COMMIT, COMMIT.id)
    request = ref_updates.start_request(b"plan", "workflows/a.yml", update(), revision(), shared)
    trigger = request.trigger
    assert trigger.by == '"><script>\\n'
    assert trigger.git["message"] == COMMIT.message
    assert trigger.git["author"] == COMMIT.author
    assert (trigger.git["short-sha"], trigger.git["branch"], trigger.git["tag"]) == ("ccccccc", "main", None)
    assert trigger.payload == {
        "name": "push",
        "ref": MAIN,
        "before": "b" * 40,
        "after": COMMIT.id,
        "changed": ["a", "b"],
    }
    assert request.revision == COMMIT.id


def test_a_new_branch_has_zeros_before() -> None:
    """The value of `event.before` is the same as in Git's hooks."""
    assert ref_updates.push_of("ops", update(), None, COMMIT, COMMIT.id).payload["before"] == "0" * 40


def test_a_file_with_errors_starts_nothing() -> None:
    """It starts nothing in the update that broke it or in later ones, and its last valid version is not used."""
    good = ref_updates.file_applied(TreeFile(path="a.yml", blob="1"), compiled("a.yml", "web"))
    bad = ref_updates.file_refused(TreeFile(path="a.yml", blob="2"), [])
    before = {"a.yml": state.FileState(newest=good, good=good, commit="1")}
    changes = FileChanges(files=(bad,))
    assert ref_updates.started(update(files=frozenset({"a.yml"})), before, changes) == []


def test_a_file_with_a_forbidden_group_has_an_error() -> None:
    """The configuration decides, even if the file does not change. Groups from expressions are checked at run time."""
    file = ref_updates.file_applied(
        TreeFile(path="a.yml", blob="1"), compiled("a.yml", "db", "web-1", "${{ inputs.g }}", "all-servers")
    )
    wide = RepositorySettings(name="ops", url="/srv/ops.git")
    narrow = RepositorySettings(name="ops", url="/srv/ops.git", groups=("web-*",))
    changes = FileChanges(files=(file,))
    assert ref_updates.started(update(files=frozenset({"a.yml"})), {}, changes) == [file]
    assert workflow_errors.group_errors(file, wide) == ()
    assert [error.code for error in workflow_errors.group_errors(file, narrow)] == ["WF526"]
