"""Where, how often and when jobs run: matrices, servers, concurrency groups, environments."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.model.plan import (
    ConcurrencyPlan,
    EnvironmentPlan,
    MatrixPlan,
    Offline,
    Queue,
    RetryPolicy,
    StrategyPlan,
    TargetPlan,
)


def test_a_matrix_keeps_its_dimensions_and_lists(language: Language) -> None:
    """Values may have any type; a number that YAML would spell differently keeps its text."""
    text = """
jobs:
  j:
    runs-on: ${{ matrix.os }}-servers
    name: ${{ matrix.os }} ${{ strategy.job-index }} of ${{ strategy.job-total }}
    strategy:
      max-parallel: 2
      fail-fast: ${{ inputs.fast }}
      matrix:
        os: [linux, bsd]
        python: [1.20, 3.5, 3]
        deep: [{a: 1}]
        include: [{os: mac, python: '3'}]
        exclude: [{os: bsd, python: 3}]
    steps: [{run: 'echo ${{ matrix.python }} ${{ matrix.deep.a }}'}]
inputs: {fast: {type: boolean}}
"""
    assert language.plan(text).jobs[0].strategy == StrategyPlan(
        matrix=MatrixPlan(
            dimensions={"os": ["linux", "bsd"], "python": ["1.20", 3.5, 3], "deep": [{"a": 1}]},
            include=[{"os": "mac", "python": "3"}],
            exclude=[{"os": "bsd", "python": 3}],
        ),
        max_parallel=2,
        fail_fast="${{ inputs.fast }}",
    )


def test_a_matrix_may_be_an_expression(language: Language) -> None:
    """The names of the matrix are then known only during the run."""
    text = """
jobs:
  a: {runs-on: g, outputs: {m: x}, steps: [{run: x}]}
  j:
    runs-on: g
    needs: a
    strategy: {matrix: "${{ fromJSON(needs.a.outputs.m) }}"}
    steps: [{run: 'echo ${{ matrix.anything }}'}]
"""
    strategy = language.plan(text).jobs[1].strategy
    assert strategy == StrategyPlan(matrix=MatrixPlan(expression="${{ fromJSON(needs.a.outputs.m) }}"))


def test_a_dimension_may_be_an_expression(language: Language) -> None:
    """Such dimensions can be combined with plain lists."""
    job = language.job("runs-on: g, strategy: {matrix: {a: '${{ vars.list }}', b: [1]}}")
    assert job.strategy is not None
    assert job.strategy.matrix == MatrixPlan(dimensions={"a": "${{ vars.list }}", "b": [1]})


def test_a_job_on_each_server_has_a_target(language: Language) -> None:
    """The plan has all settings of its batches, limits and offline servers."""
    job = language.job(
        "runs-on: {group: web, labels: {arch: arm64, slots: 4}, target: each, batch: [1, 25%, 100%], max-parallel: 10%, "
        "max-failures: 0, pause: 1m, offline: wait, wait-minutes: 5}"
    )
    assert (job.group, job.labels) == ("web", {"arch": "arm64", "slots": "4"})
    assert job.target == TargetPlan(
        batch=(1, "25%", "100%"),
        max_parallel="10%",
        max_failures=0,
        pause_ms=60_000,
        offline=Offline.WAIT,
        wait_ms=300_000,
    )


def test_the_group_of_all_servers_implies_target_each(language: Language) -> None:
    """The built-in group implies the target."""
    assert language.job("runs-on: all-servers").target == TargetPlan()
    assert language.job("runs-on: {group: all-servers, batch: 5}").target == TargetPlan(batch=(5,))
    assert language.job("runs-on: web").target is None


def test_concurrency_is_a_name_or_a_mapping(language: Language) -> None:
    """This holds for a workflow and for a job."""
    plan = language.plan(
        "concurrency: deploy-${{ git.branch }}\n"
        "jobs: {j: {runs-on: g, steps: [{run: x}], concurrency: {group: db, limit: 3, queue: latest, "
        "cancel-in-progress: true}}}"
    )
    assert plan.concurrency == ConcurrencyPlan(group="deploy-${{ git.branch }}")
    assert plan.jobs[0].concurrency == ConcurrencyPlan(group="db", limit=3, queue=Queue.LATEST, cancel_in_progress=True)


def test_an_environment_is_a_name_or_a_mapping(language: Language) -> None:
    """Approvers without a minimum mean that one approval is required."""
    assert language.job("runs-on: g, environment: prod").environment == EnvironmentPlan(name="prod")
    job = language.job("runs-on: g, environment: {name: prod, approvers: [ann, bob], may-approve-own: false}")
    assert job.environment == EnvironmentPlan(name="prod", approvers=("ann", "bob"), minimum=1, may_approve_own=False)


def test_an_environment_may_add_variables(language: Language) -> None:
    """The daemon's configuration defines them, so an unknown variable is not an error."""
    text = "vars: {a: 1}\njobs: {j: {runs-on: g, %s steps: [{run: 'echo ${{ vars.b }}'}]}}"
    assert language.plan(text % "environment: prod,").jobs
    assert language.error(text % "").code == "WF125"


def test_a_job_has_a_retry_policy_and_a_checkout(language: Language) -> None:
    """The plan keeps these keys unchanged."""
    job = language.job("runs-on: g, retry: {max-attempts: 2, on: lost}, checkout: ['app/**', '!app/tests/**']")
    assert job.retry == RetryPolicy(max_attempts=2, on=("lost",))
    assert job.checkout == ("app/**", "!app/tests/**")
    assert language.job("runs-on: g, checkout: false").checkout is False


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ("strategy: {matrix: [a]}", "WF106", "a mapping"),
        ("strategy: {matrix: {}}", "WF106", "a mapping"),
        ("strategy: {matrix: {a: []}}", "WF106", "at least one"),
        ("strategy: {matrix: {a: b}}", "WF106", "write it as a list"),
        ("strategy: {matrix: {a: [1], exclude: [{a: 1}]}}", "WF106", "no combinations"),
        ("strategy: {matrix: {a: [1], exclude: [{b: 1}]}}", "WF106", "no dimension"),
        ("strategy: {matrix: {a: [1], include: [2]}}", "WF106", "a mapping"),
        ("strategy: {matrix: {a b: [1]}}", "WF109", "a-b"),
        ("strategy: {matrix: 'x${{ vars.a }}'}", "WF106", "single expression"),
        (f"strategy: {{matrix: {{a: {list(range(257))}}}}}", "WF102", "256"),
        (f"strategy: {{matrix: {{a: [1], exclude: {[{'a': 2}] * 257}}}}}", "WF102", "257 entries"),
        (f"strategy: {{matrix: {{a: {list(range(80))}, b: {list(range(80))}}}}}", "WF102", "6,400"),
        ("strategy: {matrix: {a: [1], b: ['${{ matrix.a }}']}}", "WF129", "cannot use it"),
        ("strategy: {matrix: {a: [1]}, max-parallel: 0}", "WF106", "from 1"),
        ("strategy: {matrix: {a: [1]}, fail_fast: true}", "WF103", "fail-fast"),
        ("strategy: {matrix: {a: [1]}}, if: matrix.a == 1", "WF129", "before its instances exist"),
        ("if: strategy.job-index == 0", "WF129", "before its instances exist"),
        ("concurrency: {limit: 2}", "WF105", "group"),
        ("concurrency: {group: a, queue: fif}", "WF106", 'did you mean "fifo"'),
        ("concurrency: {group: a, limit: 0}", "WF106", "from 1"),
        ("concurrency: {group: a, queue: reject, cancel-in-progress: true}", "WF116", "contradict"),
        ("concurrency: {group: '${{ steps.a }}'}", "WF129", "available here"),
        ("environment: {approvers: a}", "WF105", "name"),
        ("environment: {name: a, url: b}", "WF113", "output"),
        ("environment: {name: a, approvers: [b], minimum: 2}", "WF106", "lists only 1"),
        ("checkout: yes", "WF106", "true, false"),
        ("retry: 3", "WF106", "a mapping"),
        ("with: {a: 1}", "WF116", "uses"),
        ("secrets: inherit", "WF116", "uses"),
    ],
)
def test_a_mistake_in_a_job_has_its_code(language: Language, keys: str, code: str, words: str) -> None:
    """One mistake is one error with a next action."""
    error = language.error(f"jobs: {{j: {{runs-on: g, {keys}, steps: [{{run: x}}]}}}}")
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ("batch: 2", "WF116", "target: each"),
        ("max-failures: 2", "WF116", "target: each"),
        ("target: all", "WF106", "each"),
        ("target: each, batch: 0", "WF106", "25%"),
        ("target: each, batch: 101%", "WF106", "25%"),
        ("target: each, batch: []", "WF106", "at least one"),
        ("target: each, max-parallel: 0%", "WF106", "25%"),
        ("target: each, wait-minutes: 1", "WF116", "offline: wait"),
        ("target: each, pause: 1m", "WF116", "batches"),
        ("target: each, offline: ignore", "WF106", "skip"),
        ("labels: [a, b]", "WF106", "arch"),
    ],
)
def test_a_mistake_in_runs_on_has_its_code(language: Language, keys: str, code: str, words: str) -> None:
    """One mistake is one error with a next action."""
    error = language.error(f"jobs: {{j: {{runs-on: {{group: g, {keys}}}, steps: [{{run: x}}]}}}}")
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


def test_a_job_on_each_server_refuses_contradicting_limits(language: Language) -> None:
    """`fail-fast` and a second `max-parallel` contradict `runs-on`."""
    text = "jobs: {j: {runs-on: {group: g, target: each%s}, strategy: {matrix: {a: [1]}, %s}, steps: [{run: x}]}}"
    assert language.error(text % ("", "fail-fast: true")).code == "WF116"
    assert language.error(text % (", max-parallel: 2", "max-parallel: 2")).code == "WF116"


def test_outputs_of_a_job_with_instances_are_a_warning(language: Language) -> None:
    """Such a job has no outputs; its instances and servers have them."""
    text = """
jobs:
  m: {runs-on: g, strategy: {matrix: {a: [1, 2]}}, outputs: {v: x}, steps: [{run: x}]}
  e: {runs-on: {group: g, target: each}, outputs: {v: x}, steps: [{run: x}]}
  one: {runs-on: g, outputs: {v: x}, steps: [{run: x}]}
  last:
    runs-on: g
    needs: [m, e, one]
    env:
      A: ${{ needs.e.servers['web-1'].outputs.v }} ${{ needs.m.instances[0].outputs.v }} ${{ needs.one.outputs.v }}
      B: ${{ needs.m.outputs.v }}
      C: ${{ needs.e.outputs.v }}
      D: ${{ needs.one.servers.x }}
      E: ${{ needs.one.outputs.w }}
      F: ${{ needs.one.resutl }}
    steps: [{run: x}]
"""
    warnings = language.warnings(text)
    assert [(warning.code, warning.line) for warning in warnings] == [("WF138", line) for line in range(11, 16)]
    assert "needs.e.servers['NAME'].outputs" in warnings[1].suggestion
    assert 'did you mean "result"' in warnings[4].suggestion


def test_an_exclude_that_matches_nothing_is_a_warning(language: Language) -> None:
    """It is probably a typing error."""
    text = "jobs: {j: {runs-on: g, strategy: {matrix: {a: [1], exclude: [{a: 2}]}}, steps: [{run: x}]}}"
    assert [warning.code for warning in language.warnings(text)] == ["WF139"]


def test_a_step_uses_the_secrets_of_every_environment_layer(language: Language) -> None:
    """The environments of the workflow, the job and the step all count."""
    text = """
env: {A: '${{ secrets.A }}'}
jobs:
  j:
    runs-on: g
    env: {B: "x-${{ secrets.B }}"}
    steps:
      - env: {C: "${{ format('{0}:{1}', secrets.C, run.id) }}"}
        run: echo "${{ secrets.D }}"
"""
    step = language.plan(text).jobs[0].steps[0]
    assert step.secrets == ("A", "B", "C", "D")
    assert step.env["WF_EXPR_1"] == "${{ secrets.D }}"


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ("{run: x, if: secrets.A}", "WF129", "available in env and with"),
        ("{run: x, name: '${{ secrets.A }}'}", "WF129", "available in env and with"),
        ("{run: x, env: {A: '${{ secrets.A || 1 }}'}}", "WF136", "alone"),
        ("{run: x, env: {A: '${{ toJSON(secrets) }}'}}", "WF136", "secrets.NAME"),
        ("{run: x, env: {A: '${{ secrets[run.id] }}'}}", "WF136", "secrets.NAME"),
        ("{run: x, env: {A: '${{ secrets.GITHUB_TOKEN }}'}}", "WF113", "token"),
        ("{run: x, env: {A: \"${{ secrets['a.b'] }}\"}}", "WF136", "not a valid secret name"),
        ("{run: 'x ${{ secrets.A }}', unsafe-interpolation: true}", "WF129", "available in env and with"),
        ("{uses: sleep, with: {duration: '${{ secrets.A }}'}}", "WF129", "records its values"),
        ("{uses: loop, with: {items: '${{ secrets.A }}', steps: [{run: x}]}}", "WF129", "records its values"),
    ],
)
def test_a_secret_outside_env_and_with_is_an_error(language: Language, step: str, code: str, words: str) -> None:
    """The message says where secrets can be used."""
    error = language.error(f"jobs: {{j: {{runs-on: g, steps: [{step}]}}}}")
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"
