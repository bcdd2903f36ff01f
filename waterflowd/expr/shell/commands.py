"""Commands that run their arguments or their input as code.

A variable reference prevents the shell that runs the script from treating a value as code. It does not help where a command
evaluates its arguments or its input: `eval`, `bash -c`, `ssh host '...'`, `python -c`, `[[ x -eq y ]]`. This module
finds these places; the scanner passes it the pipelines of a script with the expressions in each word. It knows the commands of
bash itself; invocations.py handles other programs.

The tables cover the usual commands, not all. The author of a script must know how other languages (jq, SQL, YAML) treat
a value, and where a value that is assigned to a variable or written to a file is used later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from waterflowd.expr.shell import invocations
from waterflowd.expr.shell.invocations import ASSIGNMENT, EVALUATED
from waterflowd.expr.shell.programs import CODE_VARIABLES
from waterflowd.expr.shell.variables import ARRAY_FLAGS, CALCULATED_FLAGS, Variables
from waterflowd.expr.shell.words import LIST, VALUE, Command, Pipeline, UnsafeUse, Word, uses_in

_SOURCE = frozenset({"source", "."})
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_TESTS = frozenset({"[", "test"})
_DECLARATIONS = frozenset({"declare", "typeset", "local", "readonly"})
_NAME_READERS = frozenset({"read", "unset", "mapfile", "readarray", "getopts"})

ARITHMETIC = "arithmetic, where bash runs commands in a subscript"
_CODE_VARIABLE = "the value of {}, which programs run as code"
_ARRAY_LITERAL = "the value of an array declaration, which bash parses as a list and runs commands in"
_VARIABLE_NAME = "the name of a variable, where bash runs commands in a subscript"


def unsafe_uses(pipeline: Pipeline, variables: Variables) -> Iterator[UnsafeUse]:
    """Yield the expressions of a pipeline that a command would run as code."""
    last_reader: tuple[int, str] | None = None
    for number, command in enumerate(pipeline.commands):
        yield from _in_command(command, variables)
        yield from _assigned(command, variables)
        if name := reads_code(command, variables):
            last_reader = (number, name)
            if command.here_string is not None:
                yield from uses_in([command.here_string], EVALUATED.format(name))
    if last_reader is not None:
        number, name = last_reader
        yield from ((expression, EVALUATED.format(name)) for expression in pipeline.here_documents)
        for command in pipeline.commands[:number]:
            inputs = [command.here_string] if command.here_string is not None else []
            yield from uses_in(command.words + inputs, EVALUATED.format(name))


def pipeline_reads_code(pipeline: Pipeline, variables: Variables) -> str | None:
    """Return the name of a command that runs its input as code, such as `bash` in `cat <<EOF | bash`."""
    last = pipeline.commands[-1]
    state = (len(pipeline.commands), len(last.words), last.reader)
    if pipeline.found_reader[0] != state:
        found = next((name for command in pipeline.commands if (name := reads_code(command, variables))), None)
        pipeline.found_reader = (state, found)
    return pipeline.found_reader[1]


def reads_code(command: Command, variables: Variables) -> str | None:
    """Return the name of the command if it runs its standard input as code."""
    if command.reader:
        return command.reader
    every = invocations.alternatives(command.words, variables)
    return next((name for words in every if (name := invocations.reads_code(words))), None)


def reads_options_as_code(command: Command) -> bool:
    """Return whether the next word, if it were split, could become an option that runs commands.

    These options are `-v` of `[` and `test`, in any position, `-v` of `printf` as the first argument, and those of programs
    such as ssh and tar.
    """
    words = invocations.arguments(command.words)
    name = words[0].text if words else ""
    return name in _TESTS or (name == "printf" and len(words) == 1) or invocations.is_risky(command.words)


def _in_command(command: Command, variables: Variables) -> Iterator[UnsafeUse]:
    words = invocations.arguments(command.words)
    if not words or not any(word.expressions for word in command.words):
        return
    name, rest = words[0].name, words[1:]
    if name == "trap":
        first = 1 if rest and rest[0].text == "--" else 0
        yield from uses_in(rest[first : first + 1], EVALUATED.format(name))
    elif name == "let":
        yield from uses_in(rest, ARITHMETIC)
    elif name == "[[":
        yield from _tests(rest)
    elif name in _TESTS:
        yield from _variable_tests(rest)
    elif name in _DECLARATIONS:
        yield from _declared(rest, variables)
    elif name == "export":
        yield from _declared([word for word in rest if ASSIGNMENT.match(word.text) or word.text[:1] == "-"], variables)
    elif name in _NAME_READERS:
        yield from uses_in(rest, _VARIABLE_NAME)
    elif name == "printf" and rest and rest[0].text.startswith("-v"):
        yield from uses_in(rest[:1] if len(rest[0].text) > 2 else rest[1:2], _VARIABLE_NAME)
    elif name in _SOURCE:
        yield from uses_in([word for word in rest if word.is_process], EVALUATED.format(name))
    yield from invocations.split_uses(command.words)
    for alternative in invocations.alternatives(command.words, variables):
        for invocation in invocations.invocations(alternative):
            yield from invocations.code_uses(invocation)


def _assigned(command: Command, variables: Variables) -> Iterator[UnsafeUse]:
    """Yield the expressions assigned to a variable whose value is code or is evaluated on assignment."""
    for word in command.words:
        name = _assigned_name(word)
        if name in CODE_VARIABLES:
            yield from uses_in([word], _CODE_VARIABLE.format(name))
        elif name in variables.evaluated:
            yield from uses_in([word], ARITHMETIC)


def _assigned_name(word: Word) -> str:
    """Return the name before the `=` of an assignment, or ''."""
    found = ASSIGNMENT.match(word.text)
    return re.split(r"[\[+=]", found.group(), maxsplit=1)[0] if found else ""


def _tests(words: list[Word]) -> Iterator[UnsafeUse]:
    for position, word in enumerate(words):
        if word.text in _ARITHMETIC_TESTS:
            yield from uses_in(words[max(position - 1, 0) : position] + words[position + 1 : position + 2], ARITHMETIC)
    yield from _variable_tests(words)


def _variable_tests(words: list[Word]) -> Iterator[UnsafeUse]:
    for position, word in enumerate(words):
        if word.text in ("-v", "-R"):
            yield from uses_in(words[position + 1 : position + 2], _VARIABLE_NAME)


def _declared(words: list[Word], variables: Variables) -> Iterator[UnsafeUse]:
    """Yield the expressions that a declaration evaluates, takes for a name, or parses as an array literal."""
    flags = "".join(word.text[1:] for word in words if re.fullmatch(r"-\w+", word.text))
    is_evaluated = not CALCULATED_FLAGS.isdisjoint(flags)
    is_array = not ARRAY_FLAGS.isdisjoint(flags)
    for word in words:
        found = ASSIGNMENT.match(word.text)
        if is_evaluated or (found and VALUE in found.group()):
            yield from uses_in([word], ARITHMETIC)
        elif not found:
            yield from uses_in([word], _VARIABLE_NAME)
        elif (is_array or _assigned_name(word) in variables.arrays) and word.text[found.end() :][:1] != LIST:
            yield from uses_in([word], _ARRAY_LITERAL)
