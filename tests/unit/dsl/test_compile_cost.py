"""The time to compile a file grows with its size, not with its square. The cost is the number of executed lines, not time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import waterflowd
from tests.executed_lines import ExecutedLines
from waterflowd.dsl import compile_workflow
from waterflowd.dsl.building.steps import SECRETS_PER_STEP_MAX
from waterflowd.dsl.reading.reader import EXPRESSIONS_MAX
from waterflowd.expr import template

CODE = str(Path(waterflowd.__file__).parent)
JOB = "jobs: {j: {runs-on: g, steps: [{run: 'true'}]}}\n"
#: Two sizes that are a factor of four apart: the cost of the larger file may be a little more than four times as high.
SMALL, LARGE = 250, 1_000
FACTOR = 5.0


def lines_for(text: str) -> int:
    """Returns how many lines of the product compiling the text executes."""
    template._cached_template.cache_clear()
    with ExecutedLines(CODE) as lines:
        compile_workflow("w.yml", text.encode())
    return lines.count


def script(*lines: str) -> str:
    """Returns a workflow with one script, which holds an expression and so is scanned."""
    body = "".join(f"      {line}\n" for line in ("echo ${{ run.id }}", *lines))
    return f"jobs:\n j:\n  runs-on: g\n  steps:\n  - run: |\n{body}"


def mapping(key: str, entries: int, entry: Callable[[int], str]) -> str:
    """Returns a mapping of the file with this number of entries."""
    return f"{key}:\n" + "".join(f"  {entry(number)}\n" for number in range(entries))


def steps(entries: int, entry: Callable[[int], str]) -> str:
    """Returns a job with this number of steps."""
    return "jobs:\n j:\n  runs-on: g\n  steps:\n" + "".join(f"  - {{{entry(number)}}}\n" for number in range(entries))


def jobs(entries: int, more: Callable[[int], str]) -> str:
    """Returns this number of jobs; the lists of their needs make the file grow with the square of it."""
    return mapping("jobs", entries, lambda number: f"j{number}: {{runs-on: g, steps: [{{run: x}}], {more(number)}}}")


def needs(number: int) -> str:
    """Returns the needs of a job that needs all before it."""
    return f"needs: [{', '.join(f'j{other}' for other in range(number))}]"


SHAPES: dict[str, Callable[[int], str]] = {
    "one text of expressions": lambda size: "env: {A: '" + "${{ 1 }}" * size + "'}\n" + JOB,
    "one word of expressions": lambda size: script("echo " + "${{ run.id }}" * size),
    "one command of expressions": lambda size: script("echo " + "${{ run.id }} " * size),
    "a command for each expression": lambda size: script(*["echo ${{ run.number }}"] * size),
    "variables": lambda size: mapping("vars", size, lambda number: f"v{number}: ${{{{ {number} }}}}") + JOB,
    "variables that use the one before": lambda size: (
        mapping("vars", size, lambda number: f"v{number}: ${{{{ vars.v{number - 1} }}}}" if number else "v0: 1") + JOB
    ),
    "variables that use all": lambda size: (
        mapping("vars", size, lambda number: f"v{number}: {number}")
        + mapping("env", size, lambda number: f"E{number}: ${{{{ vars.v{number} }}}}")
        + JOB
    ),
    "named steps": lambda size: steps(size, lambda number: f"id: s{number}, run: 'true'"),
    "named steps that use the first": lambda size: steps(
        size, lambda number: f"id: s{number}, run: 'true', if: '{'steps.s0.outputs.x' if number else 'true'}'"
    ),
    "steps that use one that does not exist": lambda size: steps(
        size, lambda number: f"id: step-{number}, run: 'true', if: 'steps.stpe-{number}.outputs.x'"
    ),
    "exclusions of a matrix": lambda size: (
        f"jobs: {{j: {{runs-on: g, steps: [{{run: x}}], strategy: {{matrix: {{a: {list(range(size // 4))},"
        f" b: [1, 2, 3, 4], exclude: [{', '.join(f'{{a: {number}}}' for number in range(size // 4))}]}}}}}}}}"
    ),
    "included combinations": lambda size: (
        f"jobs: {{j: {{runs-on: g, steps: [{{run: x}}], strategy: {{matrix: {{a: {list(range(size // 4))},"
        f" b: [1, 2, 3, 4], include: [{', '.join(f'{{a: {number}, c: 1}}' for number in range(size // 4))}]}}}}}}}}"
    ),
    "here-documents without an end": lambda size: script(*["cat <<A", "$(cat <<B", "A"] * size),
    "here-documents of one pipeline": lambda size: script("a|" * size + "cat" + " <<A" * size, *["A"] * size),
    "options that take code": lambda size: script("bash" + " -c" * size),
    "eval of eval": lambda size: script("eval env " * size + "ls"),
    "substitutions 90 deep": lambda size: script("$(" * 90 + ";" * size),
    "the same error again and again": lambda size: 'env: {A: "' + "\\x24{{ nope }}" * size + '"}\n' + JOB,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cost_of_a_file_grows_with_its_size(shape: str) -> None:
    """A file that is four times as large takes about four times as long."""
    small, large = lines_for(SHAPES[shape](SMALL)), lines_for(SHAPES[shape](LARGE))
    assert large <= FACTOR * small, f"{small:,} lines, then {large:,}"


def test_the_cost_of_needs_grows_with_their_number() -> None:
    """With twice as many jobs that need all before them there are four times as many needs."""
    for more in (needs, lambda number: f"{needs(number)}, if: {'false' if number == 0 else 'true'}"):
        small, large = lines_for(jobs(60, more)), lines_for(jobs(120, more))
        assert large <= FACTOR * small, f"{small:,} lines, then {large:,}"


def test_a_file_with_too_many_expressions_is_refused_before_they_are_parsed() -> None:
    """50,000 of them, with aliases expanded, cost a few lines for each value of the file, and the error names the limit."""
    for text in (
        "env: {A: '" + "${{ 1 }}" * 50_000 + "'}\n" + JOB,
        "vars: {a: &a '" + "${{ 1 }}" * 1_000 + "', b: [" + "*a, " * 50 + "1]}\n" + JOB,
    ):
        (error,) = compile_workflow("w.yml", text.encode()).diagnostics
        assert error.code == "WF102"
        assert error.message == "the file has more than 10,000 expressions (with aliases expanded)"
        assert lines_for(text) < 10_000
    allowed = "env: {A: '" + "${{ 1 }}" * EXPRESSIONS_MAX + "'}\n" + JOB
    assert compile_workflow("w.yml", allowed.encode()).plan is not None


def test_the_secrets_of_a_step_are_bounded() -> None:
    """The plan holds them once for each step, so many of them would make it huge."""
    text = mapping("env", SECRETS_PER_STEP_MAX + 1, lambda number: f"S{number}: ${{{{ secrets.S{number} }}}}") + JOB
    (error,) = compile_workflow("w.yml", text.encode()).diagnostics
    assert (error.code, error.message) == ("WF102", "the step has 101 secrets in its environment; the limit is 100")


def test_a_file_that_is_used_often_counts_as_often() -> None:
    """The plan holds its content for each use."""
    files = {"s/step.yml": b"steps:\n- run: |\n    " + b"x" * (200 << 10)}
    uses = steps(100, lambda number: "uses: ./s")
    (error,) = compile_workflow("w.yml", uses.encode(), files).diagnostics
    assert error.code == "WF102"
    assert "16,777,216 bytes, counting each as often as it is used" in error.message
    assert compile_workflow("w.yml", steps(50, lambda number: "uses: ./s").encode(), files).plan is not None


def test_a_first_line_of_unclosed_expressions_costs_little() -> None:
    """The name of a step without one is made from the beginning of its script only."""
    name = "x" * 50_000 + "${{" * 10_000
    assert lines_for(script(name)) < 50_000
    assert compile_workflow("w.yml", steps(1, lambda number: "run: '" + "long " * 50_000 + "'").encode()).plan
