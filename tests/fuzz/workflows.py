"""A mutational fuzzer for workflow files: bytes, lines, keys, values, nesting, anchors.

    python -m tests.fuzz.workflows SECONDS [SEED]

It mutates and joins valid workflows (the examples, and `workflow_corpus/`, which also contains earlier findings), both as
bytes and as trees of values, and stops at the first finding with the input and its seed.

These rules hold for every input (`examine`): the result is either a plan or errors, never both and never an exception. The
same file gives the same result. Each error and warning has an existing code, a message that says what was expected, and a
location inside the file, and can be displayed. The JSON Schema accepts whatever compiles. No input takes longer than
`SECONDS_MAX` (a hang ends the process with a traceback).
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.unit.dsl import schemas
from waterflowd.dsl import Compiled, Diagnostic, compile_workflow, render_diagnostic
from waterflowd.dsl.reporting.codes import CODES
from waterflowd.model import plan as plans

CORPUS = Path(__file__).parent / "workflow_corpus"
EXAMPLES = Path(__file__).parents[2] / "examples"
#: Processor time for one input; a busy machine is not a finding.
SECONDS_MAX = 20
#: Longer inputs only cost time; long repetitions reach the limits (`_repeated`).
BYTES_MAX = 60_000
#: Messages that do not say what was expected.
UNEXPLAINED = ("something else", "Traceback", "object at 0x", "pydantic", "msgspec", "Input should")

CALLEE = b"""on:
  workflow_call: {inputs: {who: {required: true}}, secrets: {TOKEN: }, outputs: {o: "${{ jobs.j.result }}"}}
jobs: {j: {runs-on: g, steps: [{run: "echo ${{ inputs.who }}", env: {T: "${{ secrets.TOKEN }}"}}]}}
"""
STEP = b"""inputs: {to: {type: json}}
outputs: {o: "${{ steps.a.outputs.o }}"}
steps: [{id: a, run: "echo ${{ toJSON(inputs.to) }}"}]
"""
FILES: dict[str, bytes] = {"lib/c.yml": CALLEE, "steps/s/step.yml": STEP}

#: Bytes that mutations insert: some are special in YAML or in the language, others are arbitrary.
PIECES: list[bytes] = [
    *(
        b": ",
        b"- ",
        b"? ",
        b"\n",
        b"\n  ",
        b"\n      ",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"#",
        b" #",
        b"|\n",
        b">-\n",
        b"|2+\n",
        b"'",
        b'"',
    ),
    *(
        b"&a ",
        b"*a",
        b"*a ",
        b"<<: *a\n",
        b"<<: [*a, *a]\n",
        b"!!str ",
        b"!!int ",
        b"!!binary ",
        b"!x ",
        b"%YAML 1.1\n---\n",
        b"---\n",
    ),
    *(
        b"...\n",
        b"\t",
        b"\r",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xed\xa0\x80",
    ),
    *(
        b"\x1b[31m",
        b"\xf0\x9f\x98\x80",
        b"\xcc\x81",
        b"~",
        b"null",
        b"true",
        b".inf",
        b".nan",
        b"0x1F",
        b"0o17",
        b"1e999",
        b"1_000",
        b"012",
    ),
    *(
        b"12:30:45",
        b"2030-01-01",
        b"99999999999999999999",
        b"=",
        b"@",
        b"`",
        b"\\",
        b'"\\x1b"',
        b"${{",
        b"}}",
        b"${{ inputs.a }}",
    ),
    *(
        b"${{ secrets.A }}",
        b"${{ matrix.a }}",
        b"${{ steps.a.outputs.b }}",
        b"${{ github.sha }}",
        b"jobs:",
        b"steps:",
        b"uses: ",
        b"with: ",
    ),
    *(
        b"uses: loop",
        b"uses: ./steps/s",
        b"uses: ./lib/c.yml",
        b"needs: ",
        b"on: ",
        b"if: ",
        b"run: ",
        b"strategy: ",
        b"environment: ",
    ),
]
#: Values that mutations insert into trees.
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        2**63,
        -(2**70),
        1e300,
        "",
        " ",
        "x",
        "1s",
        "25%",
        "a b",
        "é",
        "\u202e",
        "${{ inputs.a }}",
        "${{",
    ),
    *(
        "always()",
        "each",
        "inherit",
        "./steps/s",
        "./lib/c.yml",
        "loop",
        "sleep",
        "shell@v1",
        "push",
        "exit:75",
        "@daily",
        "0 3 * * *",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        [None],
        {"": 1},
        {"a": {"b": {"c": []}}},
        [1, "25%", "100%"],
        {"run": "x"},
        {"uses": "log", "with": {"message": "m"}},
    ),
]
KEYS: list[str] = [
    *(
        "jobs",
        "on",
        "steps",
        "run",
        "uses",
        "with",
        "needs",
        "if",
        "env",
        "vars",
        "inputs",
        "outputs",
        "secrets",
        "strategy",
        "matrix",
    ),
    *(
        "include",
        "exclude",
        "runs-on",
        "group",
        "target",
        "batch",
        "retry",
        "max-attempts",
        "stop",
        "environment",
        "concurrency",
        "items",
    ),
    *(
        "while",
        "then",
        "else",
        "branches",
        "schedule",
        "cron",
        "webhook",
        "workflow_run",
        "workflow_call",
        "push",
        "default",
        "type",
        "<<",
    ),
    *("", " ", "é", "x" * 200, "container", "timeout", "1", "true", "null", "\u202e"),
]


class Finding(Exception):
    """A violation of a rule; the cause is the exception, if there is one."""


def examine(content: bytes) -> Compiled:
    """Compiles a file twice and checks the results; raises Finding."""
    started = time.process_time()
    try:
        compiled = compile_workflow("w.yml", content, FILES)
        again = compile_workflow("w.yml", content, FILES)
        decoded = None if compiled.plan is None else plans.decode(compiled.plan)
    # Any exception is a finding.
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error
    if (took := time.process_time() - started) > SECONDS_MAX:
        raise Finding(f"it took {took:.0f} s")
    if compiled != again:
        raise Finding("two compilations differ")
    if (compiled.plan is None) != bool(compiled.diagnostics):
        raise Finding("both a plan and errors, or neither")
    if decoded is not None and (plans.encode(decoded) != compiled.plan or not decoded.jobs):
        raise Finding("the plan is not what its bytes say, or holds no job")
    for found in (*compiled.diagnostics, *compiled.warnings):
        _explained(found, content)
    if compiled.plan is not None and (wrong := schemas.complaints(content.decode("utf-8-sig"))):
        raise Finding(f"the schema refuses what compiles: {wrong}")
    return compiled


def _explained(found: Diagnostic, content: bytes) -> None:
    own = content if found.path == "w.yml" else FILES.get(found.path)
    if own is None:
        raise Finding(f"an error of a file that does not exist: {found}")
    lines = own.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    if not (1 <= found.line <= lines and found.column >= 1 and 1 <= found.caret <= len(found.snippet) + 1):
        raise Finding(f"a place outside of the file: {found}")
    if found.code not in CODES:
        raise Finding(f"a code that does not exist: {found}")
    if not found.message.strip() or len(found.message) > 2_000 or any(word in found.message for word in UNEXPLAINED):
        raise Finding(f"a message that explains nothing: {found}")
    displayed = render_diagnostic(found)
    if not all(character.isprintable() or character == "\n" for character in displayed):
        raise Finding(f"something that cannot be shown: {displayed!r}")


def corpus() -> list[bytes]:
    """Returns the examples and the stored inputs, ordered by name."""
    kept = sorted(CORPUS.iterdir()) if CORPUS.exists() else []
    return [file.read_bytes() for file in (*sorted(EXAMPLES.glob("*.yml")), *kept)]


def mutations(inputs: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yields mutated inputs without end; `inputs` may grow meanwhile."""
    trees = [tree for content in inputs if (tree := _tree(content)) is not None]
    while True:
        if chance.random() < 0.5:
            content = chance.choice(inputs)
            for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
                content = chance.choice(_OF_BYTES)(content, inputs, chance)[:BYTES_MAX]
            yield content
        else:
            tree = json.loads(json.dumps(chance.choice(trees)))
            for _ in range(chance.choice((1, 1, 2, 3, 8))):
                tree = _of_tree(tree, trees, chance)
            yield _written(tree, chance)


def _tree(content: bytes) -> Any:
    try:
        tree = yaml.load(content, yaml.BaseLoader)
    except yaml.YAMLError:
        return None
    return tree if isinstance(tree, dict) else None


def _written(tree: Any, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    text: str = yaml.safe_dump(
        tree, sort_keys=False, allow_unicode=True, default_flow_style=chance.choice((None, False))
    )
    return text.encode("utf-8", "surrogatepass")


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Returns every container of a tree with each of its keys or positions."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        entries = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, value in entries:
            found.append((part, key))
            waiting.append(value)
    return found


def _of_tree(tree: Any, trees: list[Any], chance: random.Random) -> Any:
    locations = _places(tree)
    if not locations:
        return json.loads(json.dumps(chance.choice(trees)))
    part, key = chance.choice(locations)
    other = chance.choice(trees) if chance.random() < 0.3 else tree
    taken, name = chance.choice(_places(other))
    copied = json.loads(json.dumps(taken[name]))
    match chance.randrange(7):
        case 0:
            part[key] = json.loads(json.dumps(chance.choice(VALUES)))
        case 1:
            del part[key]
        case 2:
            part[key] = copied
        case 3 if isinstance(part, dict):
            part[chance.choice(KEYS)] = copied
        case 4 if isinstance(part, dict):
            part[chance.choice(KEYS)] = part.pop(key)
        case 5:
            part[key] = chance.choice(([part[key]], {chance.choice(KEYS): part[key]}, [part[key], part[key]]))
        case _:
            _change(part, key, chance)
    return tree


def _change(part: Any, key: Any, chance: random.Random) -> None:
    """Changes a value into a similar one."""
    value = part[key]
    if isinstance(value, str) and value:
        offset = chance.randrange(len(value))
        part[key] = (
            value[:offset] + chance.choice(("", "x", "${{ ", " }}", "'", " ", "\n", "é", "0")) + value[offset + 1 :]
        )
    elif isinstance(value, list) and value:
        part[key] = value * chance.choice((2, 3, 300))
    else:
        part[key] = [value, value]


def _place(content: bytes, chance: random.Random) -> int:
    return chance.randint(0, len(content))


def _inserted(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    offset = _place(content, chance)
    return content[:offset] + chance.choice(PIECES) + content[offset:]


def _removed(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    offset = _place(content, chance)
    return content[:offset] + content[offset + chance.choice((1, 1, 2, 5, 40)) :]


def _replaced(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    offset = _place(content, chance)
    return content[:offset] + chance.choice(PIECES) + content[offset + chance.choice((1, 1, 2, 4)) :]


def _flipped(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    offset = chance.randrange(len(content)) if content else 0
    return content[:offset] + bytes([chance.randrange(256)]) + content[offset + 1 :]


def _joined(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    other = chance.choice(inputs)
    return content[: _place(content, chance)] + other[_place(other, chance) :]


def _indented(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    first = chance.randrange(len(lines))
    for number in range(first, min(len(lines), first + chance.choice((1, 1, 3, 20)))):
        line = lines[number]
        lines[number] = chance.choice((b"  " + line, b"\t" + line, line[2:] if line.startswith(b"  ") else line))
    return b"\n".join(lines)


def _moved(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.insert(chance.randrange(len(lines) + 1), lines.pop(chance.randrange(len(lines))))
    return b"\n".join(lines)


def _repeated(content: bytes, inputs: list[bytes], chance: random.Random) -> bytes:
    start = _place(content, chance)
    piece = content[start : start + chance.choice((1, 2, 5, 30, 200))]
    return content[:start] + piece * chance.choice((2, 3, 70, 300, 2000)) + content[start:]


_OF_BYTES: tuple[Callable[[bytes, list[bytes], random.Random], bytes], ...] = (
    *(_inserted, _inserted, _inserted, _removed, _removed, _replaced, _replaced),
    *(_flipped, _joined, _indented, _moved, _repeated),
)


def fuzz(seconds: float, seed: int) -> tuple[int, int]:
    """Fuzzes for a limited time; returns the number of inputs and how many of them compiled. Raises Finding."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    inputs, good = corpus(), 0
    for content in inputs:
        examine(content)
    for count, content in enumerate(mutations(inputs, chance), 1):
        faulthandler.dump_traceback_later(10 * SECONDS_MAX, exit=True)
        try:
            good += examine(content).plan is not None
        except Finding as finding:
            finding.add_note(f"seed {seed}, input {count}: {content!r}")
            raise
        if time.monotonic() > until:
            faulthandler.cancel_dump_traceback_later()
            return count, good
    raise AssertionError("mutations have no end")


def main(arguments: list[str]) -> int:
    """Runs the fuzzer with the arguments of the command line."""
    seconds = float(arguments[0]) if arguments else 60.0
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns() % 2**32
    print(f"{seconds:.0f} s with seed {seed}, {len(corpus())} inputs in the corpus", flush=True)
    count, good = fuzz(seconds, seed)
    print(f"{count} inputs, {good} of them compiled; no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
