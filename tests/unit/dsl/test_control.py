"""Nested steps: what they compile to, which names they can use, and which mistakes are reported."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl import models
from waterflowd.dsl.models.model import keys
from waterflowd.model.plan import BlockPlan, StepPlan

RUN = "{run: x}"


def test_a_condition_has_two_blocks(language: Language) -> None:
    """The block for `else` exists only if the file has one."""
    step, other = language.steps(
        "{id: c, uses: condition, with: {if: run.number > 1, then: [{id: a, run: x}], else: [{id: a, run: y}]}}, "
        "{uses: condition, with: {if: 'true', then: [{run: z}]}}"
    )
    assert (step.node, step.params) == ("condition", {"if": "run.number > 1"})
    assert [block.name for block in step.blocks] == ["then", "else"]
    assert [block.steps[0].params["run"] for block in step.blocks] == ["x", "y"]
    assert [block.name for block in other.blocks] == ["then"]


def test_a_loop_has_one_block_and_its_items(language: Language) -> None:
    """The body can use the item and the position in the loop."""
    (step,) = language.steps(
        "{id: l, uses: loop, with: {items: [1, {a: b}], as: host, max-parallel: 2, steps: "
        "[{id: a, run: 'echo ${{ host.a }} ${{ loop.index }}/${{ loop.total }}'}, {run: 'echo ${{ steps.a.outcome }}'}]}}"
    )
    assert step.params == {"items": [1, {"a": "b"}], "as": "host", "max-parallel": 2}
    (block,) = step.blocks
    assert (block.name, [inner.id for inner in block.steps]) == ("steps", ["a", "2"])


def test_a_loop_may_have_a_while_condition(language: Language) -> None:
    """The condition can use the environment that earlier iterations wrote, and the number of iterations."""
    (step,) = language.steps(
        "{uses: loop, with: {while: env.MORE && loop.number < 5, max-iterations: 10, steps: "
        "[{id: a, run: 'echo ${{ loop.number }}'}]}}"
    )
    assert step.params == {"while": "env.MORE && loop.number < 5", "max-iterations": 10}


def test_parallel_has_a_block_for_each_branch(language: Language) -> None:
    """Branches are numbered from 1, and a branch of one step needs no list."""
    (step,) = language.steps("{uses: parallel, with: {branches: [[{run: a}, {run: b}], {run: c}]}}")
    assert [(block.name, len(block.steps)) for block in step.blocks] == [("1", 2), ("2", 1)]
    assert step.params == {}
    (step,) = language.steps("{uses: parallel, with: {branches: [{run: a}], max-parallel: 2}}")
    assert step.params == {"max-parallel": 2}


def test_an_approval_keeps_its_parameters(language: Language) -> None:
    """They are kept as written; a timeout remains text."""
    (step,) = language.steps(
        "{uses: approval, with: {approvers: [ann, bob], minimum: 2, message: 'v${{ run.number }}', timeout: 2d, "
        "default: approve}}"
    )
    assert step == StepPlan(
        id=step.id,
        name="approval",
        node="approval",
        params={
            "approvers": ["ann", "bob"],
            "minimum": 2,
            "message": "v${{ run.number }}",
            "timeout": "2d",
            "default": "approve",
        },
        line=2,
    )
    assert language.steps("{uses: approval, with: {message: go}}")[0].params == {"message": "go"}
    assert language.steps("{uses: approval}, {uses: fail}")[0].params == {}, "it can do without any"


def test_inner_steps_are_steps(language: Language) -> None:
    """They support retries, scripts with data, defaults and their own nested steps."""
    (step,) = language.steps(
        "{uses: loop, env: {A: '${{ secrets.A }}'}, with: {items: '${{ range(3) }}', steps: [{uses: condition, with: "
        "{if: item == 1, then: [{run: 'echo ${{ item }}', retry: {max-attempts: 2}}]}}]}}",
        top="defaults: {run: {shell: sh, working-directory: sub}}",
    )
    inner = step.blocks[0].steps[0].blocks[0].steps[0]
    assert inner.params == {"run": "echo ${WF_EXPR_1}", "shell": "sh"}
    assert (inner.working_directory, inner.secrets) == ("sub", ("A",))
    assert inner.retry is not None
    assert step.working_directory is None


def test_earlier_outer_steps_are_visible_inside(language: Language) -> None:
    """Only steps that have already run are visible."""
    (_, step) = language.steps(
        "{id: a, run: x}, {uses: parallel, with: {branches: [{run: 'echo ${{ steps.a.outcome }}'}]}}"
    )
    assert isinstance(step.blocks[0], BlockPlan)


@pytest.mark.parametrize(
    ("steps", "code", "words"),
    [
        ("{uses: condition}", "WF115", "requires parameters"),
        ("{uses: condition, with: {then: [{run: x}]}}", "WF105", "if"),
        ("{uses: condition, with: {if: 'true'}}", "WF105", "then"),
        ("{uses: condition, with: {if: 'true', then: []}}", "WF106", "at least one"),
        ("{uses: condition, with: {if: 'true', thne: [], then: [{run: x}]}}", "WF103", 'did you mean "then"'),
        ("{uses: condition, with: {if: 'a +', then: [{run: x}]}}", "WF120", ""),
        ("{uses: condition, with: {if: 'true', then: [{runn: x}]}}", "WF103", 'did you mean "run"'),
        ("{uses: condition, with: {if: 'true', then: [{run: 'x ${{ inputs.y }}'}]}}", "WF125", "input"),
        ("{uses: loop, with: {steps: [{run: x}]}}", "WF115", "items"),
        ("{uses: loop, with: {items: 3, steps: [{run: x}]}}", "WF115", "range(3)"),
        ("{uses: loop, with: {items: [1]}}", "WF105", "steps"),
        ("{uses: loop, with: {items: [1], while: 'true', steps: [{run: x}]}}", "WF116", "not both"),
        ("{uses: loop, with: {while: 'true', steps: [{run: x}]}}", "WF115", "max-iterations"),
        ("{uses: loop, with: {items: [1], max-iterations: 2, steps: [{run: x}]}}", "WF116", "while"),
        ("{uses: loop, with: {while: 'true', max-iterations: 2, as: a, steps: [{run: x}]}}", "WF116", "items"),
        ("{uses: loop, with: {items: [1], as: steps, steps: [{run: x}]}}", "WF109", "a context"),
        ("{uses: loop, with: {items: [1], as: a b, steps: [{run: x}]}}", "WF109", "letters"),
        (
            "{uses: loop, with: {items: [1], steps: [{uses: loop, with: {items: [2], steps: [{run: x}]}}]}}",
            "WF109",
            "enclosing",
        ),
        ("{run: 'echo ${{ item }}'}", "WF122", "item"),
        ("{run: 'echo ${{ loop.index }}'}", "WF129", "loop"),
        ("{uses: parallel, with: {branches: []}}", "WF106", "at least one"),
        ("{uses: parallel, with: {branches: [[]]}}", "WF106", "at least one"),
        ("{uses: parallel, with: {branches: 3}}", "WF106", "a list"),
        ("{uses: approval, with: {minimum: 3, approvers: [a]}}", "WF115", "lists only 1"),
        ("{uses: approval, with: {minimum: 21}}", "WF106", "to 20"),
        ("{uses: approval, with: {default: approve}}", "WF116", "timeout"),
        ("{uses: approval, with: {timeout: 5}}", "WF106", "5s"),
        ("{uses: approval, with: {message: x}, timeout-minutes: 5}", "WF116", "timeout"),
        ("{uses: approval, with: {message: x}, retry: {max-attempts: 2}}", "WF116", "retried"),
        ("{uses: sleep, with: {duration: 1s}, shell: sh}", "WF116", "run a script"),
        ("{uses: sleep, with: {duration: 1s}, on-lost: retry}", "WF116", "run on a server"),
        ("{uses: parallel, with: {branches: [{run: x}]}, working-directory: a}", "WF116", "run in a directory"),
        ("{uses: parallel, with: {branches: [{run: x}]}, stop: {grace: 1s}}", "WF116", "no process"),
        ("{id: a, run: x}, {uses: parallel, with: {branches: [{id: a, run: x}]}}", "WF109", "already used"),
        ("{uses: parallel, with: {branches: [{id: a, run: x}]}}, {id: a, run: x}", "WF109", "already used"),
        (
            "{id: p, uses: parallel, with: {branches: [{id: a, run: x}]}}, {run: 'echo ${{ steps.a.outcome }}'}",
            "WF129",
            "$WATERFLOW_ENV",
        ),
        (
            "{id: l, uses: loop, with: {items: [1], steps: [{id: a, run: x}]}}, {run: 'echo ${{ steps.a.outcome }}'}",
            "WF129",
            "steps.l.outputs.results",
        ),
        (
            "{uses: loop, with: {items: [1], steps: [{id: a, run: x}]}}, {run: 'echo ${{ steps.a.outcome }}'}",
            "WF129",
            "an id",
        ),
        (
            "{uses: loop, with: {while: steps.a.outputs.x, max-iterations: 2, steps: [{id: a, run: x}]}}",
            "WF129",
            "use env",
        ),
        (
            "{uses: parallel, with: {branches: [{id: a, run: x}, {run: 'echo ${{ steps.a.outcome }}'}]}}",
            "WF125",
            "step",
        ),
        ("{id: p, uses: parallel, with: {branches: [{run: 'echo ${{ steps.p.outcome }}'}]}}", "WF129", "not run yet"),
    ],
)
def test_a_mistake_in_inner_steps_has_its_code(language: Language, steps: str, code: str, words: str) -> None:
    """Each mistake is one error that says what to do."""
    error = language.error(f"jobs: {{j: {{runs-on: g, steps: [{steps}]}}}}")
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


def test_an_inner_error_has_its_location(language: Language) -> None:
    """The error has the exact position at any depth."""
    text = """\
jobs:
  j:
    runs-on: g
    steps:
      - uses: loop
        with:
          items: [1]
          steps:
            - uses: condition
              with:
                if: item
                then:
                  - run: |
                      echo ${{ item }}
                      echo ${{ itme }}
"""
    error = language.error(text)
    assert (error.code, error.line, error.column) == ("WF122", 15, 32)
    assert 'did you mean "item"' in error.suggestion


def nested(levels: int) -> str:
    step = "{run: x}"
    for _ in range(levels):
        step = f"{{uses: condition, with: {{if: run.id, then: [{step}]}}}}"
    return f"jobs: {{j: {{runs-on: g, steps: [{step}]}}}}"


def test_blocks_nest_up_to_a_limit(language: Language) -> None:
    """The limit is 16 levels, including the job's own."""
    assert language.plan(nested(15)).jobs
    assert language.error(nested(16)).code == "WF102"


def test_inner_steps_count(language: Language) -> None:
    """A file may have 10,000 steps, at all levels together."""
    lists = ", ".join([f"{{uses: parallel, with: {{branches: [[{', '.join([RUN] * 900)}]]}}}}"] * 12)
    error = language.error(f"jobs: {{j: {{runs-on: g, steps: [{lists}]}}}}")
    assert (error.code, "10,000" in error.message) == ("WF102", True)


def test_the_records_of_the_nodes_name_the_same_parameters() -> None:
    """The documented parameters are the ones that are checked."""
    for name, model in models.CONTROL_FLOW.items():
        fields = node_schema.BUILT_IN[name].parameters.__struct_encode_fields__
        assert sorted(fields) == sorted(keys(model))


def test_unreachable_steps_are_a_warning(language: Language) -> None:
    """This covers conditions that are always false and steps that need such a step; conditions with variables are fine."""
    text = """
jobs:
  a: {runs-on: g, if: false, steps: [{run: x}]}
  b: {runs-on: g, needs: a, steps: [{run: x}]}
  c: {runs-on: g, needs: b, if: always(), steps: [{run: x, if: false && run.id}, {run: x, if: "1 > 2"}, {run: x, if: true}]}
  d: {runs-on: g, needs: b, steps: [{run: x}]}
"""
    found = [(warning.code, warning.line, warning.severity.value) for warning in language.warnings(text)]
    assert found == [("WF137", 3, "warning"), ("WF137", 4, "warning"), ("WF137", 5, "warning"), ("WF137", 6, "warning")]


@pytest.mark.parametrize(
    ("step", "is_warned"),
    [
        ("uses: http/request, with: {url: http://a, method: post}", True),
        ("uses: http/request, with: {url: http://a, method: PATCH, headers: {a: b}}", True),
        ("uses: http/request, with: {url: http://a, method: POST, headers: {Idempotency-Key: '${{ run.id }}'}}", False),
        ("uses: http/request, with: {url: http://a, method: PUT}", False),
        ("uses: http/request, with: {url: http://a}", False),
        ("uses: http/wait, with: {url: http://a}", False),
        ("uses: notify/webhook, with: {url: http://a, message: hello}", True),
    ],
)
def test_retrying_a_step_that_is_not_idempotent_is_a_warning(language: Language, step: str, *, is_warned: bool) -> None:
    """The first attempt may have done its work, with only its result lost."""
    text = f"jobs: {{j: {{runs-on: g, steps: [{{{step}, retry: {{max-attempts: 2}}}}]}}}}"
    assert [warning.code for warning in language.warnings(text)] == ["WF140"] * is_warned
    assert not language.warnings(
        text.replace("max-attempts: 2", "max-attempts: 1").replace("retry: {max-attempts: 1}", "")
    )


def test_keys_without_effect_are_a_warning(language: Language) -> None:
    """Examples are a retry policy with one attempt, and a step timeout that is longer than the job's."""
    text = "jobs: {j: {runs-on: g, steps: [{run: x, retry: {max-attempts: 1}}, {run: x, timeout-minutes: 600}]}}"
    assert [warning.code for warning in language.warnings(text)] == ["WF139", "WF139"]
    text = "jobs: {j: {runs-on: g, timeout-minutes: 900, steps: [{run: x, timeout-minutes: 600}]}}"
    assert not language.warnings(text)


def test_a_field_that_no_step_has_is_a_warning(language: Language) -> None:
    """Such a field would always be null."""
    text = "jobs: {j: {runs-on: g, steps: [{id: a, run: x}, {run: x, if: steps.a.outcom == 'success'}]}}"
    (warning,) = language.warnings(text)
    assert (warning.code, warning.suggestion) == ("WF138", 'did you mean "outcome"?')


def test_output_is_bounded_in_bytes(language: Language) -> None:
    """The limit is a number of bytes or a number with a unit."""
    steps = language.steps("{run: x, output-max-bytes: 2MiB}, {run: x, output-max-bytes: 4096}, {run: x}")
    assert [step.output_bytes_max for step in steps] == [2 << 20, 4096, None]
    error = language.error("jobs: {j: {runs-on: g, steps: [{run: x, output-max-bytes: 2MB}]}}")
    assert (error.code, "16MiB" in error.message) == ("WF106", True)


def test_defaults_apply_only_to_scripts(language: Language) -> None:
    """A step's value overrides the job's, and that the workflow's."""
    text = """
defaults: {run: {shell: sh, working-directory: top}}
jobs:
  j:
    runs-on: g
    defaults: {run: {working-directory: "sub/${{ env.X }}"}}
    steps:
      - run: x
      - {run: x, shell: bash, working-directory: own}
      - {uses: log, with: {message: x}}
"""
    first, second, third = language.plan(text).jobs[0].steps
    assert (first.params["shell"], first.working_directory) == ("sh", "sub/${{ env.X }}")
    assert (second.params["shell"], second.working_directory) == ("bash", "own")
    assert third.working_directory is None
    assert language.error(text.replace("top", "/top")).code == "WF132"


def test_the_default_shell_determines_whether_expressions_are_safe(language: Language) -> None:
    """Scripts for other interpreters cannot contain expressions."""
    text = "defaults: {run: {shell: python}}\njobs: {j: {runs-on: g, steps: [{run: 'print(${{ git.ref }})'}]}}"
    assert language.error(text).code == "WF128"


def test_unsafe_interpolation_is_marked_in_the_plan(language: Language) -> None:
    """The plan shows reviewers where values are pasted."""
    steps = language.steps("{run: 'x ${{ run.id }}', unsafe-interpolation: true}, {run: x, unsafe-interpolation: true}")
    assert [step.is_unsafe for step in steps] == [True, False]


def test_branches_and_items_are_limited(language: Language) -> None:
    """The limits are 100 branches and 10,000 items; one more is an error that names the limit."""
    for count, code in ((100, None), (101, "WF106")):
        branches = ", ".join(["{run: x}"] * count)
        text = f"jobs: {{j: {{runs-on: g, steps: [{{uses: parallel, with: {{branches: [{branches}]}}}}]}}}}"
        assert language.plan(text).jobs if code is None else language.error(text).code == code
    for count in (10_000, 10_001):
        items = ", ".join(["1"] * count)
        text = f"jobs: {{j: {{runs-on: g, steps: [{{uses: loop, with: {{items: [{items}], steps: [{{run: x}}]}}}}]}}}}"
        if count == 10_000:
            assert language.plan(text).jobs
        else:
            assert "the limit is 10,000" in language.error(text).message
