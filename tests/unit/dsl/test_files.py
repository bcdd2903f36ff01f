"""Other files: reusable workflows, composite steps, and how the compiler requests them."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.dsl import compile_from_files, compile_workflow
from waterflowd.dsl.compile import MissingFiles
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.model.plan import InputSpec, InputType, StepPlan

CALLEE = """\
name: Build it
on:
  workflow_call:
    inputs:
      who: {required: true}
      count: {type: number, default: 2}
    outputs:
      made: ${{ jobs.build.outputs.made }}
      more: {description: x, value: '${{ jobs.build.result }}'}
    secrets:
      TOKEN: {required: true}
      OTHER:
timeout-minutes: 30
vars: {a: "${{ inputs.who }}"}
env: {E: x}
jobs:
  build:
    runs-on: g
    outputs: {made: '${{ steps.s.outputs.made }}'}
    steps:
      - {id: s, run: 'echo ${{ inputs.count }}', env: {T: '${{ secrets.TOKEN }}'}}
"""

CALLER = """\
jobs:
  first:
    uses: ./lib/build.yml
    with: {who: "${{ vars.who }}"}
    secrets: {TOKEN: '${{ secrets.FORGE }}'}
  second:
    runs-on: g
    needs: first
    steps: [{run: 'echo ${{ needs.first.outputs.made }}'}]
"""

FILES = {"lib/build.yml": CALLEE}

STEP = """\
name: Deploy
description: Deploys
inputs:
  to: {type: choice, options: [dev, prod], required: true}
  fast: {type: boolean}
outputs:
  url: {value: '${{ steps.go.outputs.url }}'}
steps:
  - {id: go, run: 'deploy "${{ inputs.to }}"', if: "!inputs.fast"}
  - run: echo ${{ steps.go.outcome }}
"""
USER = "jobs: {j: {runs-on: g, steps: [{id: d, uses: ./steps/deploy, with: {to: dev}}, {run: 'x ${{ steps.d.outputs.url }}'}]}}"


def called(call: str, callee: str = CALLEE) -> tuple[str, dict[str, str]]:
    return f"jobs: {{j: {{uses: ./lib/build.yml, {call}}}}}", {"lib/build.yml": callee}


def test_a_call_becomes_a_part_of_the_plan(language: Language) -> None:
    """The plan contains the declared inputs and the passed values."""
    job = language.plan(CALLER, FILES).jobs[0]
    call = job.call
    assert call is not None
    assert (call.path, call.name) == ("lib/build.yml", "Build it")
    assert call.inputs == (
        InputSpec(name="who", required=True),
        InputSpec(name="count", type=InputType.NUMBER, default=2),
    )
    assert call.arguments == {"who": "${{ vars.who }}"}
    assert call.secrets == {"TOKEN": "FORGE"}
    assert call.outputs == {"made": "${{ jobs.build.outputs.made }}", "more": "${{ jobs.build.result }}"}
    assert (call.vars, call.env) == ({"a": "${{ inputs.who }}"}, {"E": "x"})
    assert [inner.id for inner in call.jobs] == ["build"]
    assert call.jobs[0].steps[0].secrets == ("TOKEN",)
    assert (job.group, job.steps, job.timeout_minutes) == ("", (), 30.0)


def test_all_secrets_can_be_inherited(language: Language) -> None:
    """They keep their names."""
    text, files = called("with: {who: x}, secrets: inherit")
    call = language.plan(text, files).jobs[0].call
    assert call is not None
    assert call.secrets is None


def test_a_call_may_have_a_matrix(language: Language) -> None:
    """The inputs in `with` can use the matrix."""
    text, files = called(
        "strategy: {matrix: {a: [1, 2]}}, with: {who: '${{ matrix.a }}'}, secrets: inherit, timeout-minutes: 5"
    )
    job = language.plan(text, files).jobs[0]
    assert job.strategy is not None
    assert job.timeout_minutes == 5


def test_top_level_inputs_apply_to_callers_too(language: Language) -> None:
    """The shorthand declares both kinds of inputs."""
    callee = "on: workflow_call\ninputs: {n: {type: number}}\njobs: {j: {runs-on: g, steps: [{run: x}]}}"
    text, files = called("with: {n: 3}", callee)
    call = language.plan(text, files).jobs[0].call
    assert call is not None
    assert call.arguments == {"n": 3}


def test_errors_of_a_file_used_twice_are_reported_once(language: Language) -> None:
    """The error has the path and the line of the file that contains it."""
    text = "jobs: {a: {uses: ./lib/b.yml}, b: {uses: ./lib/b.yml}}"
    error = language.error(text, {"lib/b.yml": "on: workflow_call\njobs:\n  j: {runs-on: g, steps: [{runn: x}]}"})
    assert (error.code, error.path, error.line) == ("WF103", "lib/b.yml", 3)


def test_errors_of_all_files_are_reported_together() -> None:
    """Errors of the first file are listed first."""
    text = "nme: x\njobs: {a: {uses: ./lib/b.yml}}"
    files = {"lib/b.yml": b"on: workflow_call\nnope: 1\njobs: {j: {runs-on: g, steps: [{run: x}]}}"}
    found = [(e.path, e.line, e.code) for e in compile_workflow("workflows/w.yml", text.encode(), files).diagnostics]
    assert found == [("workflows/w.yml", 1, "WF103"), ("lib/b.yml", 2, "WF103")]


@pytest.mark.parametrize(
    ("call", "callee", "code", "words"),
    [
        ("secrets: inherit", CALLEE, "WF110", "requires the input"),
        ("with: {who: x, cuont: 3}, secrets: inherit", CALLEE, "WF110", 'did you mean "count"'),
        ("with: {who: x, count: many}, secrets: inherit", CALLEE, "WF110", "a number"),
        ("with: {who: x}", CALLEE, "WF136", "does not pass"),
        ("with: {who: x}, secrets: {TOKEN: x}", CALLEE, "WF136", "reference to one secret"),
        (
            "with: {who: x}, secrets: {TOKEN: '${{ secrets.A }}', B: '${{ secrets.B }}'}",
            CALLEE,
            "WF136",
            "does not declare",
        ),
        ("with: {who: x}, secrets: {TOKEN: '${{ secrets.GITHUB_TOKEN }}'}", CALLEE, "WF113", "no GITHUB_TOKEN"),
        (
            "name: x",
            "on: workflow_call\njobs: {j: {runs-on: g, steps: [{run: x, env: {A: '${{ secrets.B }}'}}]}}",
            "WF136",
            "declare it there",
        ),
        ("with: {who: '${{ secrets.A }}'}, secrets: inherit", CALLEE, "WF129", "under secrets"),
        ("with: {who: x}, secrets: all", CALLEE, "WF106", "inherit"),
        ("with: {who: x}, secrets: inherit, runs-on: g", CALLEE, "WF116", "uses"),
        ("with: {who: x}, secrets: inherit, env: {A: b}", CALLEE, "WF116", "with"),
        ("with: {who: x}, secrets: inherit, retry: {max-attempts: 2}", CALLEE, "WF116", "uses"),
        ("name: x", "jobs: {j: {runs-on: g, steps: [{run: x}]}}", "WF135", "workflow_call"),
        ("name: x", CALLEE.replace("timeout-minutes: 30", "concurrency: '${{ inputs.x }}'"), "WF135", "concurrency"),
    ],
)
def test_a_call_that_does_not_fit_is_an_error(
    language: Language, call: str, callee: str, code: str, words: str
) -> None:
    """The call is checked against the declarations of the called file."""
    text, files = called(call, callee)
    found = [error for error in language.compiled(text, files).diagnostics if error.code == code]
    assert found
    assert words in f"{found[0].message} {found[0].suggestion}"


@pytest.mark.parametrize(
    ("uses", "code", "words"),
    [
        ("./lib/none.yml", "WF135", "does not exist"),
        ("./lib", "WF135", ".yml"),
        ("../lib/a.yml", "WF135", "root of the repository"),
        ("./lib/../../a.yml", "WF135", "root of the repository"),
        ("/etc/passwd.yml", "WF135", "root"),
        ("org/repo/.github/workflows/a.yml@main", "WF113", "into this repository"),
        ("./workflows/w.yml", "WF135", "cycle: workflows/w.yml -> workflows/w.yml"),
    ],
)
def test_a_file_that_cannot_be_called_is_an_error(language: Language, uses: str, code: str, words: str) -> None:
    """The compiler does not guess another file."""
    error = language.error(f"jobs: {{j: {{uses: '{uses}'}}}}", {})
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


def chain(length: int, last: str) -> dict[str, str]:
    """Returns the files `1.yml` to `length.yml`, each calling the next; the last one has the content `last`."""
    middle = "on: workflow_call\njobs: {{j: {{uses: ./{}.yml}}}}"
    return {f"{n}.yml": middle.format(n + 1) for n in range(1, length)} | {f"{length}.yml": last}


LEAF = "on: workflow_call\njobs: {j: {runs-on: g, steps: [{run: x}]}}"


def test_calls_nest_up_to_a_limit(language: Language) -> None:
    """The limit is four levels below the first file."""
    text = "jobs: {j: {uses: ./1.yml}}"
    assert language.plan(text, chain(4, LEAF)).jobs
    error = language.error(text, chain(5, LEAF))
    assert (error.code, error.path, "4 levels deep" in error.message) == ("WF135", "4.yml", True)


def test_the_nesting_limit_does_not_depend_on_the_order_of_compilation(language: Language) -> None:
    """A file that compiles near the top may be too deep in another place."""
    files = chain(4, LEAF) | {"a.yml": "on: workflow_call\njobs: {j: {uses: ./1.yml}}"}
    assert language.error("jobs: {b: {uses: ./1.yml}, j: {uses: ./a.yml}}", files).code == "WF135"


def test_a_cycle_of_calls_is_an_error_where_it_closes(language: Language) -> None:
    """The error shows the whole cycle."""
    files = {
        "a.yml": "on: workflow_call\njobs: {j: {uses: ./b.yml}}",
        "b.yml": "on: workflow_call\njobs: {j: {uses: ./a.yml}}",
    }
    error = language.error("jobs: {j: {uses: ./a.yml}}", files)
    assert (error.path, error.message.partition(": ")[2]) == ("b.yml", "a.yml -> b.yml -> a.yml")


def test_exponential_calls_exceed_a_limit(language: Language) -> None:
    """Each file calls the next one many times."""
    many = "on: workflow_call\njobs:\n" + "".join(f"  j{n}: {{uses: ./%s.yml}}\n" for n in range(100))
    files = {"1.yml": many.replace("%s", "2"), "2.yml": many.replace("%s", "3"), "3.yml": LEAF}
    errors = language.compiled("jobs: {j: {uses: ./1.yml}}", files).diagnostics
    assert [error.code for error in errors] == ["WF102"]
    steps = ", ".join("{uses: ./s/%s.yml}" for _ in range(100))
    composites = {"s/1.yml": f"steps: [{steps.replace('%s', '2')}]", "s/2.yml": f"steps: [{steps.replace('%s', '3')}]"}
    composites["s/3.yml"] = "steps: [{run: x}]"
    errors = language.compiled(
        "jobs: {j: {runs-on: g, steps: [{uses: ./s/1.yml}, {uses: ./s/1.yml}]}}", composites
    ).diagnostics
    assert [error.code for error in errors] == ["WF102"]


def test_a_composite_step_becomes_a_block(language: Language) -> None:
    """It contains the passed values and the declared inputs, so that the engine can fill in and check the rest."""
    job = language.plan(USER, {"steps/deploy/step.yml": STEP}).jobs[0]
    step = job.steps[0]
    assert (step.node, step.params) == ("composite", {"to": "dev"})
    assert [spec.name for spec in step.inputs] == ["to", "fast"]
    assert step.outputs == {"url": "${{ steps.go.outputs.url }}"}
    (block,) = step.blocks
    assert block.name == "steps"
    assert block.steps[0] == StepPlan(
        id=block.steps[0].id,
        is_named=True,
        name='Run deploy "…"',
        node="shell",
        params={"run": 'deploy "${WF_EXPR_1}"'},
        env={"WF_EXPR_1": "${{ inputs.to }}"},
        condition="!inputs.fast",
        line=9,
    )


def test_a_github_composite_action_is_accepted(language: Language) -> None:
    """The file has `runs.using: composite` and outputs with descriptions."""
    action = """\
name: x
description: y
inputs: {to: {description: where, default: dev}}
outputs: {url: {description: z, value: '${{ steps.a.outputs.url }}'}}
runs:
  using: composite
  steps: [{id: a, run: 'echo ${{ inputs.to }}', shell: bash}]
"""
    text = "jobs: {j: {runs-on: g, steps: [{uses: ./.github/actions/x}]}}"
    step = language.plan(text, {".github/actions/x/action.yml": action}).jobs[0].steps[0]
    assert [(spec.name, spec.default) for spec in step.inputs] == [("to", "dev")]
    node = action.replace("composite", "node20")
    assert language.error(text, {".github/actions/x/action.yml": node}).code == "WF106"


def test_secrets_of_a_composite_step_reach_its_inner_steps(language: Language) -> None:
    """They are passed in the environment of the step that uses it, or as an input."""
    text = (
        "jobs: {j: {runs-on: g, steps: [{uses: ./s.yml, env: {T: '${{ secrets.T }}'}, with: {u: '${{ secrets.U }}'}}]}}"
    )
    step = language.plan(text, {"s.yml": "inputs: {u: }\nsteps: [{run: 'echo $T ${{ inputs.u }}'}]"}).jobs[0].steps[0]
    assert step.blocks[0].steps[0].secrets == ("T", "U")


@pytest.mark.parametrize(
    ("step", "content", "code", "words"),
    [
        ("with: {to: dev, x: 1}", STEP, "WF110", "no input"),
        ("with: {to: stage}", STEP, "WF110", "one of"),
        ("name: x", STEP, "WF110", "requires the input"),
        ("with: {to: '${{ secrets.A || 1 }}'}", STEP, "WF136", "alone"),
        ("with: {to: dev}, shell: sh", STEP, "WF116", "run a script"),
        ("with: {to: dev}, retry: {max-attempts: 2}", STEP, "WF116", "retried"),
        ("name: x", "steps: [{run: 'x ${{ vars.a }}'}]", "WF129", "declare an input"),
        ("name: x", "steps: [{run: 'x ${{ secrets.a }}'}]", "WF129", "declare an input"),
        ("name: x", "steps: [{run: 'x ${{ inputs.a }}'}]", "WF125", "input"),
        ("name: x", "steps: []", "WF106", "at least one"),
        ("name: x", "name: x", "WF105", "steps"),
        ("name: x", "steps: [{run: x}]\nbranding: {}", "WF113", "remove"),
        ("name: x", "steps: [{run: x}]\nruns: {using: composite, steps: [{run: x}]}", "WF116", "both"),
        ("name: x", "steps: [{run: x}]\noutputs: {a: '${{ steps.b.outputs.c }}'}", "WF125", "step"),
        ("name: x", "steps: [{uses: ./steps/deploy}]", "WF135", "cycle"),
        ("name: x", "- a", "WF101", "a list"),
    ],
)
def test_a_mistake_in_a_composite_step_has_its_code(
    language: Language, step: str, content: str, code: str, words: str
) -> None:
    """The error is reported in the file that contains the mistake."""
    text = f"jobs: {{j: {{runs-on: g, steps: [{{uses: ./steps/deploy, {step}}}]}}}}"
    error = language.error(text, {"steps/deploy/step.yml": content})
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


def test_a_missing_composite_step_is_an_error(language: Language) -> None:
    """The message says where the file should be."""
    error = language.error(USER, {})
    assert (error.code, "steps/deploy/step.yml" in error.suggestion) == ("WF135", True)


def test_composite_steps_nest_up_to_a_limit(language: Language) -> None:
    """They may be nested as deeply as blocks, at any level."""
    files = {f"{n}.yml": f"steps: [{{uses: ./{n + 1}.yml}}]" for n in range(1, 40)} | {"40.yml": "steps: [{run: x}]"}
    text = "jobs: {j: {runs-on: g, steps: [{uses: ./1.yml}]}}"
    assert {error.code for error in language.compiled(text, files).diagnostics} == {"WF102"}
    files |= {"14.yml": "steps: [{run: x}]"}
    assert language.plan(text, files).jobs


def test_the_result_names_the_files_that_it_depends_on(language: Language) -> None:
    """Missing files are included, because adding one changes the result."""
    assert language.compiled(CALLER, FILES).files == ["lib/build.yml"]
    found = language.compiled(USER, {"steps/deploy/action.yml": STEP}).files
    assert found == ["steps/deploy/step.yml", "steps/deploy/step.yaml", "steps/deploy/action.yml"]


def test_missing_files_are_requested_until_all_are_known() -> None:
    """The result is the same as with all files available from the start."""
    files = {path: content.encode() for path, content in chain(3, LEAF).items()}
    text = b"jobs: {j: {uses: ./1.yml}}"
    known: dict[str, bytes | None] = {}
    rounds = 0
    while isinstance(answer := compile_from_files("w.yml", text, known), MissingFiles):
        rounds += 1
        known |= {path: files.get(path) for path in answer.paths}
    assert isinstance(answer, Compiled)
    assert answer == compile_workflow("w.yml", text, files)
    assert rounds == 3


def test_a_file_that_is_too_large_has_its_own_error(language: Language) -> None:
    """The file is not read."""
    error = language.error("jobs: {j: {uses: ./a.yml}}", {"a.yml": "#" * (2 << 20)})
    assert (error.code, error.path) == ("WF102", "a.yml")


def test_files_have_a_total_limit(language: Language) -> None:
    """Their number and total size are limited; each error has the path of its file."""
    step = "steps: [{run: x}]\n" + "#" * 1_000_000
    uses = ", ".join(f"{{uses: ./{n}.yml}}" for n in range(6))
    errors = language.compiled(
        f"jobs: {{j: {{runs-on: g, steps: [{uses}]}}}}", dict.fromkeys((f"{n}.yml" for n in range(6)), step)
    ).diagnostics
    assert [(error.code, error.path) for error in errors] == [("WF102", "4.yml"), ("WF102", "5.yml")]
    uses = ", ".join(f"{{uses: ./{n}}}" for n in range(26))
    found = language.compiled(f"jobs: {{j: {{runs-on: g, steps: [{uses}]}}}}", {}).diagnostics
    assert "WF102" in {error.code for error in found}
