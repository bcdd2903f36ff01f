"""An example for each code of the language: a minimal file that causes it.

The cause and next action of each code are in docs/errors.md, with all other codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from waterflowd.dsl.models.model import EXAMPLE_JOBS
from waterflowd.dsl.reporting import codes
from waterflowd.expr import errors

#: Codes that occur during a run or in the daemon: no file causes them.
RUNTIME_CODES = frozenset({codes.RENDERED_VALUE, codes.LARGE_OUTPUTS, codes.COMPILER_STOPPED, errors.WRONG_VALUE})


@dataclass(frozen=True)
class Example:
    """A file that causes a code, and how the reference shows it."""

    #: The file as shown.
    text: str
    #: The file itself, if it differs.
    content: bytes = b""
    #: What the shown text leaves out.
    note: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


def _step(lines: str) -> Example:
    text = lines.strip("\n").replace("\n", "\n        ")
    return Example(f"jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - {text}\n")


def _top(lines: str) -> Example:
    return Example(f"{lines}\n{EXAMPLE_JOBS}")


def _job(lines: str) -> Example:
    text = lines.strip("\n").replace("\n", "\n    ")
    return Example(f"jobs:\n  build:\n    runs-on: web-servers\n    {text}\n    steps:\n      - run: make\n")


def _repeated(before: str, line: str, count: int, note: str) -> Example:
    lines = [line.format(number) for number in range(count)]
    shortened = before + lines[0] + lines[1] + "# ...\n"
    return Example(shortened, (before + "".join(lines)).encode(), note)


_SEVENTEEN = ", ".join(str(number) for number in range(1, 18))

EXAMPLES: dict[str, Example] = {
    codes.ENCODING: Example(EXAMPLE_JOBS, EXAMPLE_JOBS.encode("utf-16"), "Saved as UTF-16."),
    codes.SYNTAX: Example("jobs:\n  build:\n    runs-on: [web-servers\n    steps:\n      - run: make\n"),
    codes.BOUND: _job(f"strategy:\n  matrix:\n    a: [{_SEVENTEEN}]\n    b: [{_SEVENTEEN}]"),
    codes.UNKNOWN_KEY: _job("time-out-minutes: 5"),
    codes.UNKNOWN_JOB: _job("needs: tests"),
    codes.MISSING_KEY: Example("jobs:\n  build:\n    steps:\n      - run: make\n"),
    codes.WRONG_VALUE: _step("run: make\nretry: {max-attempts: 3, initial-interval: 5}"),
    codes.DUPLICATE_KEY: _top("name: a\nname: b"),
    codes.CYCLE: Example(
        "jobs:\n  build: {needs: test, runs-on: web-servers, steps: [{run: make}]}\n"
        "  test: {needs: build, runs-on: web-servers, steps: [{run: make test}]}\n"
    ),
    codes.WRONG_ID: _step("id: my step\nrun: make"),
    codes.WRONG_INPUT: _top("inputs:\n  count: {type: number, default: many}"),
    codes.GITHUB_ONLY: _top("on: pull_request"),
    codes.UNKNOWN_NODE: _step("uses: sleeep\nwith: {duration: 5s}"),
    codes.WRONG_PARAMETER: _step("uses: log\nwith: {mesage: hello}"),
    codes.EXCLUSIVE_KEYS: _step("run: make\nuses: log"),
    codes.UNKNOWN_TRIGGER: _top("on: puhs"),
    codes.UNSUPPORTED_YAML: _top("name: !!python/object:os.system x"),
    codes.MORE_ERRORS: _repeated(EXAMPLE_JOBS, "key-{0}: x\n", 120, "With 120 lines of this kind."),
    errors.SYNTAX: _step("run: echo ${{ git sha }}"),
    errors.BOUND: Example(
        _step("run: echo ${{ 'aaa...' }}").text,
        _step("run: echo ${{ '" + "a" * 9_000 + "' }}").text.encode(),
        "With 9,000 letters.",
    ),
    errors.UNKNOWN_CONTEXT: _step("run: echo ${{ input.version }}"),
    errors.UNKNOWN_FUNCTION: _step("run: echo ${{ uper('a') }}"),
    errors.WRONG_ARITY: _step("run: echo ${{ upper() }}"),
    errors.UNKNOWN_NAME: _step("run: echo ${{ inputs.version }}"),
    errors.UNTERMINATED: _step("run: echo ${{ git.sha"),
    errors.UNSAFE_EXPRESSION: _step("shell: python\nrun: print('${{ git.branch }}')"),
    errors.NOT_HERE: _step("run: echo ${{ loop.number }}"),
    codes.TAB: Example("jobs:\n  build:\n\truns-on: web-servers\n    steps:\n      - run: make\n"),
    codes.OUTSIDE_PATH: _step("run: make\nworking-directory: ../other"),
    codes.LOST_NEWLINES: Example("jobs:  build:    runs-on: web-servers    steps:      - run: make"),
    codes.WRONG_CALL: Example("jobs:\n  build:\n    uses: ./workflows/nowhere.yml\n"),
    codes.WRONG_SECRET: _step("env: {HAS: \"${{ secrets.TOKEN != '' }}\"}\nrun: make"),
    codes.NEVER_RUNS: _step("if: false\nrun: make"),
    codes.ALWAYS_NULL: Example(
        "jobs:\n  build:\n    runs-on: web-servers\n    outputs: {version: '1'}\n    steps:\n      - run: make\n"
        "  deploy:\n    needs: build\n    runs-on: web-servers\n"
        '    steps:\n      - run: ./deploy.sh "${{ needs.build.outputs.verison }}"\n'
    ),
    codes.NO_EFFECT: _step("run: make\nretry: {max-attempts: 1}"),
    codes.SERVER_ONLY: _step("if: startsWith(github.workspace, '/srv')\nrun: make"),
    codes.UNSEEN_NODE: _step("uses: shop/greet\nwith: {who: Ada}"),
    codes.UNSAFE_RETRY: _step(
        "uses: http/request\nwith: {url: 'https://example.com/orders', method: POST}\nretry: {max-attempts: 3}"
    ),
}
