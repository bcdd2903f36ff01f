"""Errors: each mistake has a code, a location and a next action, and all of them are reported at once."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.dsl import Diagnostic, compile_workflow
from waterflowd.dsl.reporting.report import ERRORS_MAX


def errors_of(text: str) -> list[Diagnostic]:
    compiled = compile_workflow("w.yml", text.encode())
    assert compiled.plan is None
    return compiled.diagnostics


def workflow(job: str = "", steps: str = "{run: x}", top: str = "") -> str:
    """Returns a workflow that is valid except for the given part."""
    return f"{top}\njobs:\n  j:\n    runs-on: g\n    steps: [{steps}]\n{job}"


def only_error(text: str) -> Diagnostic:
    (error,) = errors_of(text)
    return error


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (workflow(top="desription: x"), "WF103", 'did you mean "description"'),
        (workflow(job="    steps_: 1"), "WF103", 'did you mean "steps"'),
        (workflow(steps="{runn: x}"), "WF103", 'did you mean "run"'),
        (workflow(steps="{run: x, timeout: 5}"), "WF113", "timeout-minutes"),
        (workflow(job="    image: x"), "WF103", "known keys"),
        (workflow(job="    needs: biuld\n  build: {runs-on: g, steps: [{run: x}]}"), "WF104", 'did you mean "build"'),
        (workflow(job="    needs: other"), "WF104", "no other job"),
        ("jobs: {j: {steps: [{run: x}]}}", "WF105", "runs-on"),
        ("jobs: {j: {runs-on: g}}", "WF105", "steps"),
        ("name: x", "WF105", "jobs"),
        ("jobs: {}", "WF106", "at least one"),
        ("jobs: ", "WF106", "a mapping, not nothing"),
        ("jobs: {j: {runs-on: g, steps: []}}", "WF106", "at least one"),
        ("jobs: {j: {runs-on: [a, b], steps: [{run: x}]}}", "WF106", "one group"),
        ("jobs: {j: {runs-on: 'a b', steps: [{run: x}]}}", "WF106", "not a valid group name"),
        ("jobs: {j: hello}", "WF106", "a mapping"),
        (workflow(job="    timeout-minutes: 0"), "WF106", "more than 0"),
        (workflow(job="    timeout-minutes: soon"), "WF106", "a number"),
        (workflow(job="    continue-on-error: maybe"), "WF106", "true or false"),
        (workflow(job="    env: {A: [1]}"), "WF106", "text"),
        (workflow(job="    env: {A B: x}"), "WF106", "environment variable"),
        (workflow(top="env: {WF_EXPR_1: x}"), "WF106", "reserved for"),
        (workflow(top="timeout-minutes: ${{ vars.x }}"), "WF106", "a number"),
        (workflow(steps="{run: ''}"), "WF106", "empty"),
        (workflow(steps="{run: x, retry: {max-attempts: 0}}"), "WF106", "from 1"),
        (workflow(steps="{run: x, retry: {max-attempts: 2, initial-interval: 5}}"), "WF106", "did you mean 5s?"),
        (workflow(steps="{run: x, retry: {max-attempts: 2, jitter: 2}}"), "WF106", "from 0 to 1"),
        (workflow(steps="{run: x, retry: {max-attempts: 2, on: exit:300}}"), "WF106", "exit:N"),
        (workflow(steps="{run: x, retry: {}}"), "WF105", "max-attempts"),
        (workflow(steps="{run: x, on-lost: retyr}"), "WF106", 'did you mean "retry"'),
        (workflow(steps="{run: x, stop: {signal: SIGFOO}}"), "WF106", "SIGTERM"),
        (workflow(top="on: "), "WF106", "on is empty"),
        (workflow(top="on: []"), "WF106", "on is empty"),
        (workflow(top="on: {push: {branches: ['!x']}}"), "WF106", "nothing ever matches"),
        (workflow(job="    needs: j"), "WF108", "j -> j"),
        ("jobs: {'a b': {runs-on: g, steps: [{run: x}]}}", "WF109", 'for example "a-b"'),
        ("jobs: {%s: {runs-on: g, steps: [{run: x}]}}" % ("a" * 101), "WF109", "100"),
        (workflow(job="  J: {runs-on: g, steps: [{run: x}]}"), "WF109", "without case"),
        (workflow(steps="{id: a, run: x}, {id: a, run: x}"), "WF109", "already used"),
        (workflow(steps="{id: 1a, run: x}"), "WF109", "must begin with"),
        (workflow(top="inputs: {n: {type: number, default: many}}"), "WF110", "a number"),
        (workflow(top="inputs: {n: {type: choice}}"), "WF110", "options"),
        (workflow(top="inputs: {n: {options: [a]}}"), "WF110", "type choice"),
        (workflow(top="inputs: {n: {type: choice, options: [a], default: b}}"), "WF110", "one of a"),
        (workflow(top="inputs: {n: {pattern: '('}}"), "WF110", "regular expression"),
        (workflow(top="inputs: {n: {type: json, pattern: a}}"), "WF110", "type string"),
        (workflow(top="inputs: {n: {default: '${{ run.id }}'}}"), "WF110", "not an expression"),
        (workflow(top="inputs: {n: {type: strin}}"), "WF106", 'did you mean "string"'),
        (workflow(top="permissions: x"), "WF113", "configuration"),
        (workflow(job="    permissions: {contents: read}"), "WF113", "configuration"),
        (workflow(top="on: {schedule: '0 25 * * *'}"), "WF106", '(hour) cannot be "25"'),
        (workflow(top="on: {schedule: {cron: '0 0 30 2 *'}}"), "WF106", "never matches"),
        (workflow(top="on: {schedule: [{cron: '@dayly'}]}"), "WF106", 'did you mean "@daily"?'),
        (
            workflow(top="on: {schedule: [{cron: '@daily', timezone: berlin}]}"),
            "WF106",
            'did you mean "Europe/Berlin"?',
        ),
        (workflow(top="on: {schedule: [{timezone: UTC}]}"), "WF105", "add cron"),
        (workflow(top="on: schedule"), "WF106", "expected a cron expression"),
        (workflow(top="on: {schedule: []}"), "WF106", "expected at least one entry"),
        (workflow(top="on: {schedule: ['@daily', '0 0 * * *']}"), "WF116", "the same times as schedule[0]"),
        (workflow(top="on: {schedule: [{cron: '@daily', overlap: skp}]}"), "WF106", 'did you mean "skip"?'),
        (workflow(top="on: {schedule: [{cron: '@daily', vars: {a: '${{ x }}'}}]}"), "WF106", "write a plain value"),
        (
            workflow(top="vars: {level: 1}\non: {schedule: [{cron: '@daily', vars: {levl: 2}}]}"),
            "WF103",
            'did you mean "level"?',
        ),
        (
            workflow(top="on: {push: {tags: [v1], tags-ignore: [v2]}}"),
            "WF116",
            "tags and tags-ignore cannot be combined",
        ),
        (workflow(top="on: {push: {branches: [a], branches-ignore: [b]}}"), "WF116", "cannot be combined"),
        (workflow(top="on: {push: {tags: ['!v1']}}"), "WF106", "only exceptions"),
        (workflow(steps="{uses: workflow/run, with: {workflow: x.yml}}"), "WF135", "compiled without one"),
        (workflow(steps="{uses: script}"), "WF115", "either path or content"),
        (workflow(steps="{uses: exec/script, with: {path: a, content: b}}"), "WF115", "either path or content"),
        (workflow(steps="{uses: script, with: {content: 'echo ${{ run.id }}'}}"), "WF128", "through args or env"),
        (
            workflow(steps="{uses: script, with: {path: a, interpreter: '${{ run.id }}'}}"),
            "WF128",
            "through args or env",
        ),
        (workflow(steps="{uses: ./steps/deploy}"), "WF135", "without its repository"),
        ("jobs: {j: {uses: ./other.yml}}", "WF135", "without its repository"),
        (workflow(top="env: {A: '${{ matrix.x }}'}"), "WF129", "belongs to a job"),
        (
            workflow(steps='{run: "echo ${{ hashFiles(inputs.x) }}"}', top="inputs: {x: {}}"),
            "WF106",
            "string literals only",
        ),
        (workflow(steps="{run: \"echo ${{ hashFiles('../x') }}\"}"), "WF106", "out of the repository"),
        (workflow(top="on: pull_request"), "WF113", "use push"),
        (workflow(job="    container: [x]"), "WF106", "name of an image"),
        (workflow(job="    container: {env: {A: b}}"), "WF105", "image"),
        (workflow(job="    container: '${{ secrets.IMAGE }}'"), "WF129", "secrets are only available"),
        (workflow(job="    services: {'a b': x}"), "WF109", "host name"),
        (workflow(job=f"    services: {{{', '.join(f's{n}: x' for n in range(21))}}}"), "WF102", "limit is 20"),
        (workflow(steps="{uses: job/containers}"), "WF114", "unknown node"),
        (workflow(steps="{uses: actions/setup-go@v5}"), "WF113", "servers keep their tools"),
        (workflow(steps="{uses: 'docker://alpine'}"), "WF113", "docker run"),
        (workflow(steps="{run: 'echo ${{ github.token }}'}"), "WF113", "secrets.NAME"),
        (workflow(steps="{uses: slep}"), "WF114", 'did you mean "sleep"'),
        (workflow(steps="{uses: log@v9, with: {message: x}}"), "WF114", "no version"),
        (workflow(steps="{uses: log, with: {mesage: x, message: y}}"), "WF115", 'did you mean "message"'),
        (workflow(steps="{uses: log}"), "WF115", "message"),
        (workflow(steps="{uses: log, with: {message: [x]}}"), "WF115", "message: expected text, not a list"),
        (workflow(steps="{uses: shell, with: {run: x, env: {}}}"), "WF115", "key of the step"),
        (workflow(steps="{uses: sleep}"), "WF115", "duration or until"),
        (workflow(steps="{uses: sleep, with: {duration: 1s, until: 0}}"), "WF115", "either duration or until"),
        (workflow(steps="{uses: sleep, with: {duration: soon}}"), "WF115", "30s"),
        (workflow(steps="{uses: sleep, with: {until: tomorrow}}"), "WF115", "instant"),
        (workflow(steps="{uses: fail, with: {exit-code: 0}}"), "WF115", "exit-code"),
        (workflow(steps="{run: x, uses: log}"), "WF116", "not both"),
        (workflow(steps="{name: x}"), "WF116", "run or uses"),
        (workflow(steps="{run: x, with: {}}"), "WF116", "with is only valid with uses"),
        (workflow(steps="{uses: log, with: {message: x}, shell: sh}"), "WF116", "shell"),
        (workflow(steps="{run: x, retry: {max-attempts: 2}, retry-strategy: {max-attempts: 2}}"), "WF116", "alias"),
        (workflow(top="on: {manual: , workflow_dispatch: }"), "WF116", "alias"),
        (workflow(top="inputs: {a: }\non: {manual: {inputs: {b: }}}"), "WF116", "declared twice"),
        (workflow(top="on: schdule"), "WF117", 'did you mean "schedule"'),
        (workflow(steps="{run: x, working-directory: ../..}"), "WF132", "inside"),
        (workflow(steps="{run: x, working-directory: /}"), "WF132", "absolute"),
        (workflow(steps="{run: x, if: 'a ='}"), "WF120", ""),
        (workflow(steps="{run: 'echo ${{ inptus.x }}'}"), "WF122", 'did you mean "inputs"'),
        (workflow(steps="{run: 'echo ${{ success() }}'}"), "WF123", "outside of"),
        (workflow(steps="{run: 'echo ${{ len() }}'}"), "WF124", "len"),
        (workflow(steps="{run: 'echo ${{ inputs.x }}'}"), "WF125", "input"),
        (workflow(top="vars: {image: x}", steps="{run: 'echo ${{ vars.imgae }}'}"), "WF125", 'did you mean "image"'),
        (workflow(steps="{run: 'echo ${{ needs.x }}'}"), "WF125", "needs"),
        (workflow(steps="{run: 'echo ${{ run.id'}"), "WF127", "closing"),
        (workflow(steps="{run: 'x = ${{ git.ref }}', shell: python}"), "WF128", "env:"),
        (workflow(steps="{run: '${{ steps.b.outcome }}'}, {id: b, run: x}"), "WF129", "not run yet"),
        (workflow(steps="{id: a, run: x, if: steps.a.outcome}"), "WF129", "not run yet"),
        (workflow(job="    if: needs.k.result\n  k: {runs-on: g, steps: [{run: x}]}"), "WF129", "not in the needs"),
        ("jobs: {j: {runs-on: '${{ steps.x }}', steps: [{run: x}]}}", "WF129", "available here"),
        ("jobs: {j: {runs-on: '${{ needs.x }}', steps: [{run: x}]}}", "WF125", "needs"),
        (workflow(top="vars: {a: '${{ vars.b }}', b: 1}"), "WF129", "further down"),
        (workflow(steps="{id: a, run: x}", job="    env: {A: '${{ steps.a.outputs.x }}'}"), "WF129", "cannot be used"),
    ],
)
def test_a_mistake_has_its_code_and_a_next_action(text: str, code: str, words: str) -> None:
    """Each mistake is one error, and its text or suggestion says what to do."""
    error = only_error(text)
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"
    assert text.splitlines()[error.line - 1].strip()
    assert error.snippet


def test_the_location_is_the_wrong_character() -> None:
    """Errors in values point at the value, in keys at the key, and in expressions at a position within the text."""
    text = """\
jobs:
  j:
    runs-on: g
    needs: [k, biuld]
    stepps: []
    steps:
      - run: |
          echo "hi"

            echo ${{ inptus.x }} and ${{ nope() }}
      - run: "\\t\\"${{ a.b }}"
      - run: >-
          folded
          text ${{ c.d }}
      - if: steps.x.y && success()
        run: x
      - if: 'run.id == steps.z'
        run: x
  k: {runs-on: g, steps: [{run: x}]}
"""
    found = [(error.code, error.line, error.column) for error in errors_of(text)]
    assert found == [
        ("WF104", 4, 16),
        ("WF103", 5, 5),
        ("WF122", 10, 22),
        ("WF123", 10, 42),
        ("WF122", 11, 23),
        ("WF122", 14, 20),
        ("WF125", 15, 19),
        ("WF125", 17, 30),
    ]


def test_one_broken_key_hides_no_other_error() -> None:
    """Schema, graph and expressions are all checked, whatever other errors there are."""
    text = workflow(
        top="nope: 1", steps="5, {run: 'echo ${{ inptus.x }}', on-lost: x}, {foo: 1}", job="    needs: other"
    )
    assert [error.code for error in errors_of(text)] == ["WF103", "WF106", "WF122", "WF106", "WF103", "WF104"]


def test_a_dependency_cycle_is_shown_as_a_path() -> None:
    """Each cycle of jobs is one error."""
    text = "jobs:\n" + "".join(
        f"  {job}: {{runs-on: g, needs: {need}, steps: [{{run: x}}]}}\n"
        for job, need in zip("abcde", "bcaed", strict=True)
    )
    assert [error.message.partition(": ")[2] for error in errors_of(text)] == ["a -> b -> c -> a", "d -> e -> d"]


def test_a_broken_job_can_still_be_needed() -> None:
    """No second error is reported for the job that needs it."""
    assert only_error(workflow(job="    needs: k\n  k: hello")).code == "WF106"


def test_errors_are_sorted_and_bounded() -> None:
    """The last entry says how many more errors there are."""
    errors = errors_of(workflow(top="\n".join(f"key{number}: 1" for number in range(150))))
    endless = errors_of(workflow(top="\n".join(f"key{number}: 1" for number in range(5_000))))
    assert endless[-1].message == "at least 100 more errors are not shown"
    assert len(errors) == ERRORS_MAX + 1
    assert [error.line for error in errors] == sorted(error.line for error in errors)
    assert errors[-1].code == "WF119"
    assert errors[-1].message == "50 more errors are not shown"


def test_too_many_jobs_or_steps_are_an_error() -> None:
    """The limits are 256 jobs, 1,000 steps in a job, and 10,000 steps in total."""
    jobs = "".join(f"  j{number}: {{runs-on: g, steps: [{{run: x}}]}}\n" for number in range(257))
    assert only_error(f"jobs:\n{jobs}").code == "WF102"
    assert only_error(workflow(steps=", ".join(["{run: x}"] * 1_001))).code == "WF102"


def test_all_unsafe_positions_of_a_script_are_reported() -> None:
    """Each position has the lines that fix it."""
    text = workflow(steps="{run: 'a(${{ git.ref }}, ${{ git.branch }})', shell: python}")
    errors = errors_of(text)
    assert [error.code for error in errors] == ["WF128", "WF128"]
    assert "BRANCH: ${{ git.branch }}" in errors[1].suggestion


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{uses: set-outputs, with: {outputs: [{a: '${{ git.sha }}'}]}}", "outputs: expected a mapping, not a list"),
        ("{uses: shell, with: {run: x, args: {a: '${{ git.sha }}'}}}", "args: expected a list, not a mapping"),
        ("{uses: shell, with: {run: x, args: ['${{ git.sha }}', [b]]}}", "args: expected text, not a list"),
    ],
)
def test_known_parts_of_a_parameter_with_expressions_are_checked(language: Language, step: str, message: str) -> None:
    """A list is not a mapping, whatever the expressions in it evaluate to."""
    assert language.error(f"jobs: {{j: {{runs-on: g, steps: [{step}]}}}}").message == message
