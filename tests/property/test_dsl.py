"""For any file, the result is a plan or diagnostics with locations, and compiling again gives the same result."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waterflow_agent.display import escape_for_display
from waterflowd.dsl import Compiled, compile_from_files, compile_workflow, render_diagnostic
from waterflowd.dsl.reporting.snippets import snippet
from waterflowd.model import plan

_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BASE = """\
name: everything
on:
  push: {branches: [main]}
  manual: {inputs: {who: {default: x}, n: {type: number}}}
  webhook: {secret: HOOK}
  workflow_run: {workflows: [other], conclusions: [success]}
  workflow_call: {inputs: {who: }, outputs: {x: "${{ jobs.build.outputs.x }}"}, secrets: {TOKEN: {required: true}}}
concurrency: {group: "all-${{ git.branch }}", queue: latest}
defaults: {run: {shell: bash, working-directory: sub}}
vars: {a: 1, b: "${{ vars.a }}"}
env: {A: 1.20}
jobs:
  build: &job
    runs-on: ${{ vars.a }}-servers
    if: always() && inputs.n > 1
    outputs: {x: "${{ steps.one.outputs.x }}"}
    steps:
      - id: one
        run: |
          echo "${{ inputs.who }}"
        retry: {max-attempts: 3, on: [failure, exit:75]}
      - uses: sleep
        with: {duration: 2s}
      - id: each
        uses: loop
        with:
          items: ["${{ inputs.who }}", b]
          as: host
          steps:
            - uses: condition
              with:
                if: host == loop.index
                then: [{run: "echo ${{ host }} ${{ steps.one.outcome }}", env: {T: "${{ secrets.T }}"}}]
                else: [{uses: parallel, with: {branches: [{run: a}, [{run: b}, {run: c}]]}}]
      - uses: approval
        with: {approvers: [a, b], minimum: 2, timeout: 2d, default: reject}
      - uses: ./steps/s
        with: {to: "${{ steps.each.outputs.results }}"}
  deploy: {<<: *job, needs: build}
  many:
    runs-on: {group: web, target: each, batch: [1, 25%], max-failures: 10%, offline: wait, wait-minutes: 1}
    needs: build
    strategy: {matrix: {a: [1, 2.50], b: "${{ fromJSON(needs.build.outputs.x) }}", include: [{c: 1}]}, max-parallel: 2}
    environment: {name: prod, approvers: [a]}
    concurrency: x
    retry: {max-attempts: 2}
    checkout: ["a/**"]
    steps: [{run: "echo ${{ matrix.a }} ${{ strategy.job-index }}"}]
  call:
    uses: ./lib/c.yml
    needs: many
    if: needs.many.servers['a'].result == 'success'
    with: {who: x}
    secrets: {TOKEN: "${{ secrets.TOKEN }}"}
"""

CALLEE = """on:
  workflow_call: {inputs: {who: {required: true}}, secrets: {TOKEN: }, outputs: {o: "${{ jobs.j.result }}"}}
jobs: {j: {runs-on: g, steps: [{run: "echo ${{ inputs.who }}", env: {T: "${{ secrets.TOKEN }}"}}]}}
"""
STEP = """inputs: {to: {type: json}}
outputs: {o: "${{ steps.a.outputs.o }}"}
steps: [{id: a, run: "echo ${{ toJSON(inputs.to) }}"}]
"""
FILES: dict[str, bytes] = {"lib/c.yml": CALLEE.encode(), "steps/s/step.yml": STEP.encode()}

_words = st.sampled_from(
    [
        "jobs",
        "steps",
        "run",
        "uses",
        "with",
        "needs",
        "on",
        "push",
        "if",
        "env",
        "runs-on",
        "strategy",
        "matrix",
        "include",
        "concurrency",
        "environment",
        "secrets",
        "target",
        "batch",
        "items",
        "branches",
        "then",
        "webhook",
        "loop",
        "./lib/c.yml",
        "./steps/s",
        "${{ secrets.A }}",
        "${{ matrix.a }}",
        "<<",
        "${{ run.id }}",
        "${{",
    ]
) | st.text(max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)


def check(content: bytes, files: dict[str, bytes] = FILES) -> None:
    compiled = compile_workflow("w.yml", content, files)
    assert compiled == compile_workflow("w.yml", content, files)
    assert (compiled.plan is None) == bool(compiled.diagnostics)
    if compiled.plan is not None:
        decoded = plan.decode(compiled.plan)
        assert plan.encode(decoded) == compiled.plan
        assert decoded.jobs
    lines = content.decode("utf-8", "replace").count("\n") + content.count(b"\r") + 1
    for error in (*compiled.diagnostics, *compiled.warnings):
        assert 1 <= error.line <= (lines if error.path == "w.yml" else 1_000)
        assert error.column >= 1
        assert 1 <= error.caret <= len(error.snippet) + 1
        assert len(error.message) < 2_000
        assert all(escape_for_display(line, 10_000) == line for line in render_diagnostic(error).split("\n"))


@_SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_are_answered(content: bytes) -> None:
    """No input makes the compiler raise an exception."""
    check(content)


@_SETTINGS
@given(st.text(st.sampled_from("ab:- \n\t[]{}&*!|>'\"#%@,?${}<.~1"), max_size=120))
def test_any_yaml_like_text_is_answered(text: str) -> None:
    """Text that resembles YAML does not make the compiler raise an exception."""
    check(text.encode())


@_SETTINGS
@given(_values)
def test_any_structure_is_answered(value: object) -> None:
    """YAML of the wrong shape does not make the compiler raise an exception; every JSON value is YAML."""
    import json

    check(f"jobs: {json.dumps(value)}".encode())
    check(f"jobs: {{j: {json.dumps(value)}}}".encode())
    check(f"jobs: {{j: {{runs-on: g, steps: [{json.dumps(value)}]}}}}".encode())
    for key in (
        "runs-on",
        "strategy",
        "concurrency",
        "environment",
        "secrets",
        "with",
        "defaults",
        "retry",
        "checkout",
    ):
        check(f"jobs: {{j: {{runs-on: g, {key}: {json.dumps(value)}, steps: [{{run: x}}]}}}}".encode())
    for node in ("condition", "loop", "parallel", "approval", "sleep", "./steps/s"):
        check(f"jobs: {{j: {{runs-on: g, steps: [{{uses: {node}, with: {json.dumps(value)}}}]}}}}".encode())
    check(f"jobs: {{j: {{runs-on: g, strategy: {{matrix: {json.dumps(value)}}}, steps: [{{run: x}}]}}}}".encode())
    check(f"jobs: {{j: {{uses: ./lib/c.yml, with: {json.dumps(value)}, secrets: inherit}}}}".encode())
    check(f"{{on: {json.dumps(value)}, jobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}}}".encode())


@_SETTINGS
@given(st.data())
def test_a_damaged_workflow_is_answered(data: st.DataObject) -> None:
    """A valid file with a fragment removed or inserted still compiles, or has errors with locations inside it."""
    start = data.draw(st.integers(0, len(BASE)))
    end = data.draw(st.integers(start, min(len(BASE), start + 20)))
    inserted = data.draw(_words | st.sampled_from(["\n", ":", "- ", "  ", "'", "[", "*job", "\t"]))
    check((BASE[:start] + inserted + BASE[end:]).encode())


@_SETTINGS
@given(st.data())
def test_a_damaged_file_that_others_use_is_answered(data: st.DataObject) -> None:
    """Its errors have its own path, and a plan exists only if there are no errors."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    text = FILES[name].decode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    inserted = data.draw(_words | st.sampled_from(["\n", ":", "- ", "  ", "'", "[", "\t"]))
    check(BASE.encode(), FILES | {name: (text[:start] + inserted + text[end:]).encode()})


@_SETTINGS
@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from("abcde"), max_size=3), max_size=4), st.booleans()
)
def test_files_that_use_one_another_in_any_way_are_answered(graph: dict[str, list[str]], is_composite: bool) -> None:
    """Cycles, deep chains and missing files terminate; requesting files gives the same result as providing them."""
    files: dict[str, bytes | None] = {}
    for name, used in graph.items():
        uses = [f"{{uses: ./{other}.yml}}" for other in used]
        jobs = ", ".join(f"j{number}: {use}" for number, use in enumerate(uses))
        calls = f"on: workflow_call\njobs: {{{jobs or 'j: {runs-on: g, steps: [{run: x}]}'}}}"
        steps = f"steps: [{', '.join(uses) or '{run: x}'}]"
        files[f"{name}.yml"] = (steps if is_composite else calls).encode()
    first = "jobs: {j: {runs-on: g, steps: [{uses: ./a.yml}]}}" if is_composite else "jobs: {j: {uses: ./a.yml}}"
    compiled = compile_workflow("w.yml", first.encode(), files)
    assert (compiled.plan is None) == bool(compiled.diagnostics)
    known: dict[str, bytes | None] = {}
    while not isinstance(answer := compile_from_files("w.yml", first.encode(), known), Compiled):
        assert not known.keys() & set(answer.paths)
        known |= {path: files.get(path) for path in answer.paths}
    assert answer == compiled


@_SETTINGS
@given(st.text(max_size=400), st.integers(1, 500))
def test_a_snippet_is_bounded_and_printable(line: str, column: int) -> None:
    """The caret points into the snippet."""
    text, caret = snippet(line, column)
    assert escape_for_display(text) == text
    assert len(text) <= 1_300
    assert 1 <= caret <= len(text) + 1


def test_the_undamaged_files_compile() -> None:
    """The damaged files of the other tests must have been valid before."""
    compiled = compile_workflow("w.yml", BASE.encode(), FILES)
    assert not compiled.diagnostics
    assert not compiled.warnings
