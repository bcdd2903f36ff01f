"""`checkout` of a job, and what `actions/checkout` steps add to it."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.model.plan import CheckoutPlan, JobPlan

USES = "{{uses: actions/checkout@v4, with: {{{}}}}}"


def job(language: Language, steps: str, keys: str = "") -> JobPlan:
    """The job with these steps."""
    return language.plan(f"jobs:\n  j: {{runs-on: g, {keys} steps: [{steps}]}}\n").jobs[0]


def with_steps(steps: str, keys: str = "") -> str:
    return f"jobs:\n  j: {{runs-on: g, {keys} steps: [{steps}]}}\n"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("true", True),
        ("false", False),
        ("{}", True),
        ("{history: false, path: .}", True),
        ("['a/**']", ("a/**",)),
        ("{patterns: ['a/**', '!a/b']}", ("a/**", "!a/b")),
    ],
)
def test_a_simple_checkout_is_planned_as_before(
    language: Language, written: str, expected: bool | tuple[str, ...]
) -> None:
    """So an agent of an older release can carry it out."""
    plan = job(language, "{run: x}", f"checkout: {written},")
    assert (plan.checkout, plan.checkouts) == (expected, ())


def test_history_and_a_path_are_planned(language: Language) -> None:
    """The path is normalized."""
    plan = job(language, "{run: x}", "checkout: {history: true, path: ./a//b/},")
    assert plan.checkouts == (CheckoutPlan(history=True, path="a/b"),)


@pytest.mark.parametrize(
    "parameters",
    [
        "fetch-depth: 0",
        "fetch-depth: '0'",
        "fetch-depth: 0, lfs: false",
        "fetch-depth: 50",
        "fetch-tags: true",
        "fetch-depth: 0, path: .",
    ],
)
def test_a_step_can_ask_for_history(language: Language, parameters: str) -> None:
    """A depth of more than one commit means all of them."""
    assert job(language, USES.format(parameters)).checkouts == (CheckoutPlan(history=True),)


@pytest.mark.parametrize("parameters", ["fetch-depth: 1", "", "clean: false, persist-credentials: true, token: x"])
def test_a_plain_step_gives_the_directory_its_commit(language: Language, parameters: str) -> None:
    """As on GitHub: a `.git` with one commit."""
    plan = job(language, USES.format(parameters))
    assert (plan.checkout, plan.checkouts) == (True, (CheckoutPlan(shallow=True),))


def test_a_job_without_a_step_has_files_only(language: Language) -> None:
    """Servers get nothing that nobody asks for; the job can ask for the commit itself."""
    assert job(language, "{run: x}").checkouts == ()
    assert job(language, "{run: x}", "checkout: {history: shallow},").checkouts == (CheckoutPlan(shallow=True),)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("checkout: {history: true},", CheckoutPlan(history=True)),
        ("checkout: {submodules: true},", CheckoutPlan(submodules=True, shallow=True)),
        ("checkout: {history: false},", CheckoutPlan(shallow=True)),
        ("checkout: {lfs: true},", CheckoutPlan(lfs=True, shallow=True)),
    ],
)
def test_a_plain_step_never_takes_commits_away(language: Language, keys: str, expected: CheckoutPlan) -> None:
    """The job's history is larger than a single commit."""
    assert job(language, USES.format(""), keys).checkouts == (expected,)


@pytest.mark.parametrize(("keys", "checkout"), [("checkout: [a],", ("a",)), ("checkout: false,", False)])
def test_a_plain_step_changes_nothing_where_a_job_chooses_its_files(
    language: Language, keys: str, checkout: bool | tuple[str, ...]
) -> None:
    """A `.git` needs all of them, and the step does not insist on it."""
    plan = job(language, USES.format(""), keys)
    assert (plan.checkout, plan.checkouts) == (checkout, ())


def test_a_step_with_a_path_moves_the_files(language: Language) -> None:
    """Without another checkout the directory has nothing else."""
    assert job(language, USES.format("path: src")).checkouts == (CheckoutPlan(path="src", shallow=True),)


def test_steps_with_several_paths_are_several_checkouts(language: Language) -> None:
    """A step for a path that another has asked for already adds to it."""
    steps = ", ".join(USES.format(found) for found in ("", "path: a", "path: a, fetch-depth: 0"))
    assert job(language, steps).checkouts == (CheckoutPlan(shallow=True), CheckoutPlan(path="a", history=True))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("ref: v1", CheckoutPlan(ref="v1", shallow=True)),
        ("ref: '${{ inputs.tag }}'", CheckoutPlan(ref="${{ inputs.tag }}", shallow=True)),
        ("repository: acme/tools, path: t", CheckoutPlan(repository="acme/tools", path="t", shallow=True)),
        (
            "repository: acme/tools, ref: '${{ github.ref }}'",
            CheckoutPlan(repository="acme/tools", ref="${{ github.ref }}", shallow=True),
        ),
        (
            "repository: '${{ github.repository }}', ref: '${{ github.sha }}', submodules: true",
            CheckoutPlan(submodules=True, shallow=True),
        ),
        ("lfs: true", CheckoutPlan(lfs=True, shallow=True)),
        ("submodules: recursive", CheckoutPlan(submodules=True, shallow=True)),
    ],
)
def test_a_step_can_ask_for_other_files(language: Language, parameters: str, expected: CheckoutPlan) -> None:
    """What means the run's commit is not looked up."""
    text = f"inputs: {{tag: {{default: v1}}}}\njobs:\n  j: {{runs-on: g, steps: [{USES.format(parameters)}]}}\n"
    assert language.plan(text).jobs[0].checkouts == (expected,)


def test_the_commit_of_another_ref_is_not_an_output(language: Language) -> None:
    """It is not known before the run, and the run's own would be wrong."""
    step = "{id: c, uses: actions/checkout@v4, with: {ref: v1}}"
    assert language.steps(f"{step}, {{run: 'echo ${{{{ steps.c.outputs.ref }}}}'}}")[0].params == {
        "outputs": {"ref": "v1"}
    }


def test_a_ref_may_be_a_variable_of_the_workflow_or_the_job(language: Language) -> None:
    """They have their values before the first step; those of steps do not, and a secret is none that Git needs."""
    top = "env: {BRANCH: next, KEY: '${{ secrets.KEY }}'}\n"
    step = USES.format("ref: 'refs/heads/${{ env.BRANCH }}${{ env.zone }}'")
    plan = language.plan(top + with_steps(step, "env: {ZONE: -eu},")).jobs[0]
    assert plan.checkouts[0].ref == "refs/heads/${{ env.BRANCH }}${{ env.zone }}"
    assert language.plan(with_steps(USES.format("ref: '${{ env.A }}'"), "env: \"${{ fromJSON('{}') }}\",")).jobs

    error = language.error(top + with_steps(USES.format("ref: '${{ env.MADE }}'")))
    assert (error.code, "before the first step" in error.message) == ("WF129", True)
    assert language.error(top + with_steps(USES.format("ref: '${{ env.KEY }}'"))).code == "WF136"


def test_a_step_inside_another_counts(language: Language) -> None:
    """A condition is evaluated later than the files are sent."""
    inner = USES.format("fetch-depth: 0")
    steps = f"{{uses: condition, with: {{if: 'true', then: [{inner}]}}}}"
    assert job(language, steps).checkouts == (CheckoutPlan(history=True),)


def test_the_job_and_its_steps_are_combined(language: Language) -> None:
    """What the job has already remains."""
    plan = job(language, USES.format("fetch-depth: 0"), "checkout: {path: src},")
    assert plan.checkouts == (CheckoutPlan(path="src"), CheckoutPlan(history=True))
    plan = job(language, USES.format("fetch-depth: 0"), "checkout: {ref: v1},")
    assert plan.checkouts == (CheckoutPlan(ref="v1", history=True),)


@pytest.mark.parametrize(
    ("keys", "step", "code", "words"),
    [
        ("checkout: {history: true, patterns: [a]},", "{run: x}", "WF116", "needs all files"),
        ("checkout: {path: ../x},", "{run: x}", "WF132", "not a directory inside"),
        ("checkout: {path: /x},", "{run: x}", "WF132", "not a directory inside"),
        ("checkout: {path: a/.git},", "{run: x}", "WF132", "not a directory inside"),
        ("checkout: {histroy: true},", "{run: x}", "WF103", "histroy"),
        ("checkout: {history: 1},", "{run: x}", "WF106", "true, false or shallow"),
        ("checkout: {history: shallow, patterns: [a]},", "{run: x}", "WF116", "needs all files"),
        ("checkout: [],", "{run: x}", "WF106", "a list of path patterns"),
        ("checkout: src,", "{run: x}", "WF106", "a list of path patterns"),
        ("checkout: false,", USES.format("fetch-depth: 0"), "WF116", "checkout: false"),
        ("checkout: [a],", USES.format("fetch-depth: 0"), "WF116", "selects some of them"),
        ("checkout: {lfs: all},", "{run: x}", "WF106", "true or false"),
        ("checkout: {ref: a},", USES.format("ref: b"), "WF116", "different files"),
        ("", f"{USES.format('ref: a')}, {USES.format('ref: b')}", "WF116", "different files"),
        ("checkout: {ref: '${{ nope.x }}'},", "{run: x}", "WF122", "nope"),
        ("", "{id: s, run: x}, " + USES.format("ref: '${{ steps.s.outputs.ref }}'"), "WF129", "steps"),
        ("", USES.format("fetch-depth: all"), "WF113", "known before the run"),
        ("", USES.format("path: ../x"), "WF132", "not a directory inside"),
    ],
)
def test_a_checkout_that_cannot_be_is_an_error(language: Language, keys: str, step: str, code: str, words: str) -> None:
    """The error says what was expected."""
    error = language.error(with_steps(step, keys))
    assert (error.code, words in error.message) == (code, True), error


def test_a_composite_step_cannot_choose_files(language: Language) -> None:
    """It runs in the directory of the job."""
    action = f"runs:\n  using: composite\n  steps: [{USES.format('fetch-depth: 0')}]\n"
    error = language.error(with_steps("{uses: ./a}"), {"a/action.yml": action})
    assert (error.code, "the directory of the job" in error.message) == ("WF113", True)
    assert "under checkout of the jobs" in error.suggestion


_READING = "runs: {using: composite, steps: [{run: '${{ github.action_path }}/run.sh', shell: bash}]}"


@pytest.mark.parametrize(
    "action",
    [
        _READING,
        "runs: {using: composite, steps: [{run: $GITHUB_ACTION_PATH/run.sh, shell: bash}]}",
        "runs: {using: composite, steps: [{uses: ./b}]}",
        "steps: [{uses: condition, with: {if: 'true', then: [{run: x, env: {A: '${{ GitHub.Action_Path }}'}}]}}]",
    ],
)
def test_a_composite_step_that_reads_its_own_files_needs_them_in_the_job(language: Language, action: str) -> None:
    """They are part of the repository, which most jobs have in their directory."""
    files = {"a/action.yml": action, "b/action.yml": _READING}
    other = USES.format("repository: other")
    for keys, steps in (
        ("", "{uses: ./a}"),
        ("", "{uses: ./a}, " + USES.format("path: src")),
        ("", USES.format("repository: other, path: o") + ", {uses: ./a}, " + USES.format("path: src")),
        ("checkout: [a/**],", "{uses: ./a}"),
    ):
        assert language.plan(with_steps(steps, keys), files)
    for keys, steps in (("checkout: false,", "{uses: ./a}"), ("", "{uses: ./a}, " + other)):
        error = language.error(with_steps(steps, keys), files)
        assert (error.code, "does not check out" in error.message) == ("WF116", True)
    plain = files | {"a/action.yml": "steps: [{run: x}]"}
    assert language.plan(with_steps("{uses: ./a}", "checkout: false,"), plain)


def test_only_composite_steps_have_a_directory_of_their_own(language: Language) -> None:
    """In a job, GitHub has no such directory either; its variable is empty there."""
    error = language.error(with_steps("{run: '${{ github.action_path }}/x'}"))
    assert (error.code, "only available in the steps of a composite step" in error.message) == ("WF129", True)
    (warning,) = language.warnings(with_steps("{run: $GITHUB_ACTION_PATH/x}"))
    assert warning.code == "WF138"

    files = {"a/step.yml": "steps: [{run: $GITHUB_ACTION_PATH/x}]"}
    assert not language.warnings(with_steps("{uses: ./a}"), files)
    files = {"a/step.yml": "steps: [{run: x, if: github.action_path == 'a'}]"}
    error = language.error(with_steps("{uses: ./a}"), files)
    assert (error.code, error.suggestion) == ("WF146", "write $GITHUB_ACTION_PATH in the script")
