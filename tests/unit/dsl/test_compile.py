"""Plans: the result of compiling a valid file."""

from __future__ import annotations

import json

import pytest

from waterflowd.dsl import compile_workflow
from waterflowd.dsl.models.github_events import GITHUB_EVENTS
from waterflowd.model import plan
from waterflowd.model.ids import JobId, StepId

HELLO = b"""\
name: hello-world
jobs:
  greet:
    runs-on: web-servers
    steps:
      - name: Say hello
        uses: shell
        with:
          run: echo "Hello from Waterflow!"
"""


def compiled(content: str | bytes, path: str = "workflows/w.yml") -> plan.Plan:
    result = compile_workflow(path, content.encode() if isinstance(content, str) else content)
    assert not result.diagnostics
    assert result.plan is not None
    return plan.decode(result.plan)


def step(lines: str) -> plan.StepPlan:
    """Returns the plan of the last step of a job whose steps are `lines`."""
    return compiled(f"jobs: {{j: {{runs-on: g, steps: [{lines}]}}}}").jobs[0].steps[-1]


def test_the_smallest_file_becomes_a_plan() -> None:
    """A single job with a single step is enough."""
    assert compiled(HELLO) == plan.Plan(
        name="hello-world",
        path="workflows/w.yml",
        triggers=plan.Triggers(on_change=True, push=None, dispatch=True),
        jobs=(
            plan.JobPlan(
                id=JobId("greet"),
                name="greet",
                group="web-servers",
                line=3,
                steps=(
                    plan.StepPlan(
                        id=StepId("1"),
                        name="Say hello",
                        node="shell",
                        params={"run": 'echo "Hello from Waterflow!"'},
                        line=6,
                    ),
                ),
            ),
        ),
    )


def test_the_same_content_gives_the_same_bytes() -> None:
    """A plan is identified by the hash of its bytes."""
    assert compile_workflow("w.yml", HELLO).plan == compile_workflow("w.yml", HELLO).plan


def test_a_file_without_a_name_is_called_by_its_stem() -> None:
    """The file `workflows/deploy.yml` gets the name `deploy`."""
    content = b"jobs: {j: {runs-on: g, steps: [{run: x}]}}"
    assert compiled(content, ".waterflow/workflows/deploy.yml").name == "deploy"


def test_all_spellings_of_a_trigger_mean_the_same() -> None:
    """A trigger may be written as a text, a list or a mapping."""
    for on in ("push", "[push]", "{push: }", "{push: {}}"):
        triggers = compiled(f"on: {on}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}").triggers
        assert triggers == plan.Triggers(push=plan.PushTrigger(), dispatch=False)


def test_all_spellings_of_a_schedule_mean_the_same() -> None:
    """A schedule may be a text, a mapping, or a list of either; names of months and days become numbers."""
    spellings = ("'@daily'", "['@daily']", "{cron: '0 0 * * *'}", "[{cron: '0  0 * * *', timezone: UTC}]")
    for schedule in spellings:
        triggers = compiled(f"on: {{schedule: {schedule}}}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}").triggers
        expected = plan.ScheduleTrigger(cron="0 0 * * *")
        assert triggers == plan.Triggers(schedules=(expected,), dispatch=False)


def test_a_schedule_with_catch_up_all_queues_by_default() -> None:
    """Skipping overlapping runs would lose all missed runs except the first."""
    text = "on: {{schedule: {{cron: '@daily', catch-up: all{}}}}}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}"
    (usual,) = compiled(text.format("")).triggers.schedules
    (other,) = compiled(text.format(", overlap: cancel, vars: {a: 1.50}")).triggers.schedules
    assert (usual.overlap, usual.catch_up) == (plan.Overlap.QUEUE, plan.CatchUp.ALL)
    assert (other.overlap, other.vars) == (plan.Overlap.CANCEL, {"a": 1.5})


def test_push_accepts_all_its_filters() -> None:
    """Branches, tags and paths can be included and excluded; a text is the same as a list of one."""
    on = "{push: {branches: main, tags: ['v*', '!v0*'], paths-ignore: [docs/**]}}"
    triggers = compiled(f"on: {on}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}").triggers
    assert triggers.push == plan.PushTrigger(branches=("main",), tags=("v*", "!v0*"), paths_ignore=("docs/**",))


@pytest.mark.parametrize("event", sorted(GITHUB_EVENTS))
def test_a_github_only_event_is_an_error_with_a_clear_message(event: str) -> None:
    """Ignoring the event would silently produce a workflow that never runs."""
    for on in (event, f"[push, {event}]", f"{{{event}: {{types: [opened]}}}}"):
        text = f"on: {on}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}"
        (error,) = compile_workflow("w.yml", text.encode()).diagnostics
        assert error.code == "WF113"
        assert f'"{event}" does not exist here' in error.message
        assert error.suggestion == GITHUB_EVENTS[event]


def test_manual_is_workflow_dispatch() -> None:
    """The alias has the same inputs."""
    for name in ("manual", "workflow_dispatch"):
        text = f"on: {{{name}: {{inputs: {{n: {{type: number, default: 2}}}}}}}}"
        result = compiled(f"{text}\njobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}")
        assert result.triggers == plan.Triggers(dispatch=True)
        assert result.inputs == (plan.InputSpec(name="n", type=plan.InputType.NUMBER, default=2),)


def test_top_level_inputs_allow_a_manual_start() -> None:
    """The shorthand adds `workflow_dispatch` to the triggers in `on`."""
    result = compiled("on: push\ninputs: {who: }\njobs: {j: {runs-on: g, steps: [{run: x}]}}")
    assert result.triggers.dispatch
    assert result.inputs == (plan.InputSpec(name="who"),)


def test_vars_keep_the_order_of_the_file() -> None:
    """A variable may refer to earlier ones, so a plan must not sort them."""
    text = "vars: {b: 1, a: '${{ vars.b }}', c: [1.50, {x: 2}]}\njobs: {j: {runs-on: g, steps: [{run: x}]}}"
    assert list(compiled(text).vars.items()) == [("b", 1), ("a", "${{ vars.b }}"), ("c", [1.5, {"x": 2}])]


def test_a_job_has_all_its_keys() -> None:
    """Minutes remain numbers or expressions, and conditions remain text."""
    text = """
timeout-minutes: 90
jobs:
  a: {runs-on: g, steps: [{run: x}]}
  b:
    name: B ${{ needs.a.result }}
    runs-on: {group: "${{ git.branch }}"}
    needs: a
    if: needs.a.outputs.ok
    timeout-minutes: ${{ vars.minutes }}
    start-timeout-minutes: 0.5
    continue-on-error: ${{ vars.lax }}
    env: {A: '${{ env.B }}'}
    outputs: {x: '${{ steps.s.outputs.x }}'}
    steps: [{id: s, run: x}]
"""
    result = compiled(text)
    assert result.timeout_ms == 90 * 60_000
    job = result.jobs[1]
    assert job.name == "B ${{ needs.a.result }}"
    assert job.group == "${{ git.branch }}"
    assert job.needs == ("a",)
    assert job.condition == "needs.a.outputs.ok"
    assert job.timeout_minutes == "${{ vars.minutes }}"
    assert job.start_timeout_ms == 30_000
    assert job.continue_on_error == "${{ vars.lax }}"
    assert job.env == {"A": "${{ env.B }}"}
    assert job.outputs == {"x": "${{ steps.s.outputs.x }}"}
    assert job.line == 5


def test_a_step_has_all_its_keys() -> None:
    """Durations become milliseconds, and the alias of the retry key has the same meaning."""
    built = step(
        "{id: s, run: 'make', shell: sh, if: true, env: {A: 1.20}, working-directory: sub, timeout-minutes: 5, "
        "retry-strategy: {max-attempts: 3, initial-interval: 1s, backoff-coefficient: 3, max-interval: 1h30m, "
        "jitter: 0, on: [failure, exit:75], never-on: exit:1}, on-lost: retry, stop: {signal: int, grace: 500ms}, "
        "continue-on-error: true}"
    )
    assert built == plan.StepPlan(
        id=StepId("s"),
        is_named=True,
        name="Run make",
        node="shell",
        params={"run": "make", "shell": "sh"},
        env={"A": "1.20"},
        condition="true",
        working_directory="sub",
        timeout_minutes=5.0,
        continue_on_error=True,
        retry=plan.RetryPolicy(
            max_attempts=3,
            initial_interval_ms=1_000,
            backoff_coefficient=3.0,
            max_interval_ms=5_400_000,
            jitter=0.0,
            on=("failure", "exit:75"),
            never_on=("exit:1",),
        ),
        on_lost=plan.OnLost.RETRY,
        stop=plan.StopPolicy(signal="SIGINT", grace_ms=500),
        line=1,
    )


def test_an_expression_in_a_script_becomes_an_environment_variable() -> None:
    """Its value is always treated as data; both ways to write a script behave the same."""
    for text in ("{run: 'echo ${{ git.ref }}'}", "{uses: shell, with: {run: 'echo ${{ git.ref }}'}}"):
        built = step(text)
        assert built.params == {"run": "echo ${WF_EXPR_1}"}
        assert built.env == {"WF_EXPR_1": "${{ git.ref }}"}


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("bash", "cargo test ${{ matrix.flags }}"),
        ("bash", "cat <<'EOF'\n${{ matrix.flags }} ${{ matrix.extra }}\nEOF"),
        ("bash", "echo $((${{ run.number }} + ${{ strategy.job-index }}))"),
        ("python", "print('${{ matrix.flags }}', '${{ git.sha }}', ${{ matrix.flags == '' && 1 || 2 }})"),
    ],
)
def test_values_that_strangers_cannot_choose_are_pasted(shell: str, script: str) -> None:
    """The values of a matrix are the author's own text: they mean what they mean on GitHub, in any position of any language."""
    matrix = "{flags: ['--all --release', ''], include: [{flags: '', extra: 'a;b'}]}"
    built = compiled(
        f"jobs: {{j: {{runs-on: g, strategy: {{matrix: {matrix}}}, steps: [{{shell: {shell}, run: {json.dumps(script)}}}]}}}}"
    )

    assert built.jobs[0].steps[0].params["run"] == script
    assert built.jobs[0].steps[0].env == {}


def test_values_of_a_matrix_from_outside_are_data() -> None:
    """A stranger may choose them when the run starts."""
    built = compiled(
        "inputs: {list: {type: json}}\n"
        "jobs: {j: {runs-on: g, strategy: {matrix: {x: '${{ inputs.list }}'}}, steps: [{run: 'echo ${{ matrix.x }}'}]}}"
    )

    assert built.jobs[0].steps[0].params["run"] == "echo ${WF_EXPR_1}"


def test_unsafe_interpolation_keeps_the_script_unchanged() -> None:
    """The author has explicitly asked for the value to be pasted."""
    built = step("{run: 'echo ${{ run.id }}', unsafe-interpolation: true}")
    assert built.params == {"run": "echo ${{ run.id }}"}
    assert built.env == {}


def test_a_step_without_a_name_is_called_by_its_script_or_node() -> None:
    """An expression in a name would be rendered, so a script's name has an ellipsis in its place."""
    assert step("{run: 'echo hi'}").name == "Run echo hi"
    assert step("{run: 'echo ${{ run.id }} x'}").name == "Run echo … x"
    assert step(f"{{run: '{'x' * 100}'}}").name == "Run " + "x" * 60 + "..."
    assert step("{uses: log@v1, with: {message: x}}").name == "log"


def test_numbers_become_text_for_text_parameters() -> None:
    """They are taken as they are spelled in the file."""
    assert step("{uses: log, with: {message: 1.20}}").params == {"message": "1.20"}
    assert step("{uses: sleep, with: {duration: 5}}").params == {"duration": 5}


def test_a_node_can_be_named_by_alias_and_version() -> None:
    """The plan contains the node's own name and version."""
    assert step("{uses: exec/shell@v1, with: {run: x}}").node == "shell"


def test_names_in_expressions_are_case_insensitive() -> None:
    """GitHub compares them in the same way."""
    assert step("{id: One, run: x}, {run: 'echo ${{ STEPS.one.outputs.x }}'}").id == "2"


def test_anchors_and_aliases_are_supported() -> None:
    """Aliases and merge keys are ordinary YAML."""
    built = compiled(
        "jobs:\n  j:\n    runs-on: g\n    steps:\n"
        "      - &base {run: a, env: {A: x}}\n      - *base\n      - {<<: *base, run: b}\n"
    )
    assert [(each.params["run"], each.env) for each in built.jobs[0].steps] == [
        ("a", {"A": "x"}),
        ("a", {"A": "x"}),
        ("b", {"A": "x"}),
    ]


def test_a_start_may_set_vars_of_a_file_without_declarations() -> None:
    """Only a file with `vars` restricts which variables a start may set. The group of a job must be declared."""
    assert (
        compiled("jobs: {j: {runs-on: g, name: '${{ vars.name }}', steps: [{run: x}]}}").jobs[0].name
        == "${{ vars.name }}"
    )
