"""A mutational fuzzer for all text that authors write: expressions, templates, conditions, scripts.

    python -m tests.fuzz.expressions SECONDS [SEED]

It mutates and joins its inputs, keeps those that reach a new line or jump of `waterflowd.expr`, and stops at the first finding
with the input and its seed. `corpus/` contains inputs that reach most of the package (one per file) and, named `found-*`,
earlier findings; a run prints the inputs that it would add.

These rules hold for every input (`examine`): the only exception is ExpressionError, with an offset inside the text; a value
can be stored and is the same when evaluated again; explaining, unparsing and lowering never fail; no input takes longer than
`SECONDS_MAX` (a hang ends the process with a traceback).
"""

from __future__ import annotations

import faulthandler
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from waterflowd import expr

CORPUS = Path(__file__).parent / "corpus"
#: Processor time for one input, including all steps; a busy machine is not a finding.
SECONDS_MAX = 20
#: Longer inputs only cost time; long repetitions reach the limits (`_repeated`).
CHARACTERS_MAX = 20_000

CONTEXTS: dict[str, object] = {
    "a": {"x": 1, "Y": "Foo", "z": [1, "2", None, True, {"k": "v"}], "o": {"p": {"k": 1}, "r": {"k": "b"}}, "e": ""},
    "b": ["x", 3, None, 2**63 - 1, 1.5, float("nan"), float("inf"), "${{ a }}", "'; touch x #", "$(touch x)"],
    "c": '{"a": [1, 2, {"b": "c"}]}',
    "inputs": {"x": "value", "n": "0x1f", "list": list(range(50))},
}
ENV = expr.Env(contexts=CONTEXTS, status=expr.Status(), now_at=1, hash_files=lambda patterns: ",".join(patterns)[:64])
SCOPE = expr.Scope(contexts={"a": None, "b": None, "c": None, "inputs": ["x", "n", "list"]})

#: Text that mutations insert: words of the language and of shells, and special characters.
WORDS = [
    *(function.name + "(" for function in expr.FUNCTIONS.values()),
    *(
        "a",
        "b",
        "c",
        "inputs.",
        "inputs.list",
        "a.z",
        "a.o.*",
        "b[",
        ".x",
        ".*",
        "[*]",
        "[0]",
        "['k']",
        "nope",
        "__class__",
    ),
    *(
        "true",
        "false",
        "null",
        "NaN",
        "Infinity",
        "1",
        "-1",
        "1.5e3",
        "0x1F",
        "9007199254740993",
        "1e400",
        "''",
        "'a'",
        "'{0}'",
    ),
    *(
        "&&",
        "||",
        "==",
        "!=",
        "<=",
        ">=",
        "<",
        ">",
        "!",
        "+",
        "-",
        "*",
        "/",
        "%",
        "(",
        ")",
        "[",
        "]",
        ",",
        "'",
        '"',
        ".",
    ),
    *(
        "${{",
        "}}",
        "${{ a.x }}",
        "${{ inputs.x }}",
        "$",
        "{",
        "}",
        "{{",
        "\\",
        "\n",
        "\t",
        " ",
        "\0",
        "\x01",
        "\x7f",
        "é",
        "\ud800",
    ),
    *(
        "<<EOF\n",
        "<<'EOF'\n",
        "<<-EOF\n",
        "EOF\n",
        "$(",
        "`",
        "$((",
        "((",
        "))",
        "${x:-",
        "${x#",
        "$'",
        '$"',
        "# ",
        "case x in x)",
        ";;",
    ),
    *(
        "esac",
        "[[ ",
        " ]]",
        "eval ",
        "bash -c ",
        "ssh h ",
        "if ",
        "then ",
        "fi",
        "|",
        "|&",
        ";",
        "&",
        "<(",
        ">(",
        "<<<",
        "test ",
        "a[",
        "\\\n",
    ),
]


class Finding(Exception):
    """A violation of a rule; the cause is the exception, if there is one."""


def examine(text: str) -> None:
    """Does everything with a text that the product does with an author's; raises Finding."""
    started = time.process_time()
    for name, step in STEPS.items():
        try:
            step(text)
        except Finding:
            raise
        # Any exception is a finding.
        except Exception as error:
            raise Finding(f"{name}: {type(error).__name__}: {error}") from error
    if (took := time.process_time() - started) > SECONDS_MAX:
        raise Finding(f"it took {took:.0f} s")


def _tried(action: Callable[[], Any], length: int) -> Any:
    """Returns the result of an action, or None for an ExpressionError, whose offset must be inside the text."""
    try:
        return action()
    except expr.ExpressionError as error:
        if not 0 <= error.offset <= length:
            raise Finding(f"the place {error.offset} of {error} is outside of the text") from error
        if error.code not in expr.CODES or not str(error).strip():
            raise Finding(f"no code or no text: {error!r}") from error
        return None


def _expression(text: str) -> None:
    node = _tried(lambda: expr.parse(text), len(text))
    if node is None:
        return
    for error in expr.check(node, SCOPE):
        if not 0 <= error.offset <= len(text):
            raise Finding(f"the place {error.offset} of {error} is outside of the text")
    _value(node, len(text))
    spelled = expr.unparse(node)
    # The canonical text may exceed the limit on the length of a source.
    again = _tried(lambda: expr.parse(spelled), len(spelled))
    if again is not None and expr.unparse(again) != spelled:
        raise Finding(f"unparsed {spelled!r} means {expr.unparse(again)!r}")
    displayed = expr.explain(node, ENV)
    if not displayed.isprintable() or len(displayed) > 200:
        raise Finding(f"explained as {displayed!r}")
    list(expr.references(node))


def _value(node: expr.Node, length: int) -> None:
    value = _tried(lambda: [expr.evaluate(node, ENV)], length)
    if value is None:
        return
    stored = msgspec.msgpack.encode(value[0])
    if msgspec.msgpack.encode(expr.evaluate(node, ENV)) != stored:
        raise Finding("two evaluations differ")
    if expr.evaluate_condition(node, ENV) is not expr.is_truthy(value[0]):
        raise Finding("the condition is not the truth of the value")


def _template(text: str) -> None:
    template = _tried(lambda: expr.parse_template(text), len(text))
    if template is not None:
        _tried(lambda: template.render(ENV), len(text))
        if "".join(part if isinstance(part, str) else text[part.start : part.end] for part in template.parts) != text:
            raise Finding("the parts of the template are not the text")


def _condition(text: str) -> None:
    node = _tried(lambda: expr.parse_condition(text), len(text))
    if node is not None:
        _tried(lambda: expr.evaluate_condition(node, ENV), len(text))
        expr.explain(node, ENV)


def _script(text: str) -> None:
    for shell in ("bash", "sh", "python"):
        for error in _tried(partial(expr.check_script, text, shell), len(text)) or []:
            if not 0 <= error.offset <= len(text):
                raise Finding(f"the place {error.offset} of {error} is outside of the text")
        script = _tried(partial(expr.lower_script, text, shell), len(text))
        if script is not None and any(not name.startswith("WF_EXPR_") for name in script.env):
            raise Finding(f"variables {list(script.env)}")


STEPS: dict[str, Callable[[str], None]] = {
    "expression": _expression,
    "template": _template,
    "condition": _condition,
    "script": _script,
}


def corpus() -> list[str]:
    """Returns the inputs that are stored as files, ordered by name."""
    return [file.read_bytes().decode("utf-8", "surrogatepass") for file in sorted(CORPUS.iterdir())]


def mutations(inputs: list[str], chance: random.Random) -> Iterator[str]:
    """Yields mutated inputs without end; `inputs` may grow meanwhile."""
    while True:
        text = chance.choice(inputs)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            text = chance.choice(_MUTATIONS)(text, inputs, chance)[:CHARACTERS_MAX]
        yield text


def _place(text: str, chance: random.Random) -> int:
    return chance.randint(0, len(text))


def _inserted(text: str, inputs: list[str], chance: random.Random) -> str:
    place = _place(text, chance)
    return text[:place] + chance.choice(WORDS) + text[place:]


def _removed(text: str, inputs: list[str], chance: random.Random) -> str:
    place = _place(text, chance)
    return text[:place] + text[place + chance.choice((1, 1, 2, 5, 20)) :]


def _replaced(text: str, inputs: list[str], chance: random.Random) -> str:
    place = _place(text, chance)
    return text[:place] + chance.choice(WORDS) + text[place + chance.choice((1, 1, 2, 4)) :]


def _joined(text: str, inputs: list[str], chance: random.Random) -> str:
    other = chance.choice(inputs)
    return text[: _place(text, chance)] + other[_place(other, chance) :]


def _nested(text: str, inputs: list[str], chance: random.Random) -> str:
    left, right = chance.choice(
        [
            ("(", ")"),
            ("!(", ")"),
            ("toJSON(", ")"),
            ("${{ ", " }}"),
            ("'", "'"),
            ('"', '"'),
            ("$(", ")"),
            ("a[", "]"),
            ("`", "`"),
        ]
    )
    return left + text + right


def _repeated(text: str, inputs: list[str], chance: random.Random) -> str:
    start = _place(text, chance)
    piece = text[start : start + chance.choice((1, 2, 5, 30))]
    return text[:start] + piece * chance.choice((2, 3, 70, 300, 2000)) + text[start:]


_MUTATIONS = (_inserted, _inserted, _inserted, _removed, _removed, _replaced, _replaced, _joined, _nested, _repeated)


class Coverage:
    """The jumps between lines of the package that have been seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int, int]] = set()
        self._folder = str(Path(expr.__file__).parent)
        self._last = 0

    def of(self, text: str) -> int:
        """Examines a text and returns the number of new jumps; raises Finding."""
        before = len(self.seen)
        sys.settrace(self._call)
        try:
            examine(text)
        finally:
            sys.settrace(None)
        return len(self.seen) - before

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._folder) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.seen.add((frame.f_code.co_filename, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._line


def fuzz(seconds: float, seed: int) -> tuple[int, list[str]]:
    """Fuzzes for a limited time; returns the number of inputs and those that reached something new. Raises Finding."""
    coverage, chance, until = Coverage(), random.Random(seed), time.monotonic() + seconds
    inputs, added = corpus(), []
    for text in inputs:
        coverage.of(text)
    for count, text in enumerate(mutations(inputs, chance), 1):
        faulthandler.dump_traceback_later(10 * SECONDS_MAX, exit=True)
        try:
            # Most inputs are examined without the slow trace; new coverage is still found soon enough.
            fresh = 0
            if count % 4:
                examine(text)
            else:
                fresh = coverage.of(text)
        except Finding as finding:
            finding.add_note(f"seed {seed}, input {count}: {text!r}")
            raise
        if fresh and len(text) < 500:
            inputs.append(text)
            added.append(text)
        if time.monotonic() > until:
            faulthandler.cancel_dump_traceback_later()
            return count, added
    raise AssertionError("mutations have no end")


def main(arguments: list[str]) -> int:
    """Runs the fuzzer with the arguments of the command line."""
    seconds = float(arguments[0]) if arguments else 60.0
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns() % 2**32
    print(f"{seconds:.0f} s with seed {seed}, {len(corpus())} inputs in the corpus", flush=True)
    count, added = fuzz(seconds, seed)
    print(f"{count} inputs, no finding; {len(added)} reached something new")
    for text in added:
        print(repr(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
