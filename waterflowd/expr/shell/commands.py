"""Commands that run their arguments or their input as code.

A variable reference prevents the shell that runs the script from treating a value as code. It does not help where a command
evaluates its arguments or its input: `eval`, `bash -c`, `ssh host '...'`, `python -c`, `[[ x -eq y ]]`. This module
lists these commands; the scanner passes it the pipelines of a script with the expressions in each word.

The tables cover the usual commands, not all. The author of a script must know how other languages (sed, jq, make) treat
a value, and where a value that is assigned to a variable or written to a file is used later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from waterflowd.expr.template import EmbeddedExpression

_SHELLS = frozenset({"bash", "sh", "dash", "ash", "ksh", "zsh", "fish", "su"})
_SHELL_CODE_OPTION = re.compile(r"-[A-Za-z]*c|--command")

#: Other interpreters, without version suffix: patterns of the short and long options that take code.
_INTERPRETERS = {
    "python": ("c", "command"),
    "perl": ("[eE]", "eval"),
    "ruby": ("e", "eval"),
    "node": ("[ep]", "eval|print"),
    "php": ("[rBRE]", "run"),
    "lua": ("e", "eval"),
    "pwsh": ("[cC]", "command"),
    "powershell": ("[cC]", "command"),
    "psql": ("c", "command"),
    "mysql": ("e", "execute"),
    "mariadb": ("e", "execute"),
    "sqlite": ("c", "cmd"),
}
#: Database clients, which read statements from standard input whatever their operands are.
_STATEMENT_READERS = frozenset({"psql", "mysql", "mariadb", "sqlite"})
_STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_SOURCE = frozenset({"source", "."})
_FEEDERS = frozenset({"xargs", "parallel"})
#: Commands that run the command in their arguments, after their own options.
_LAUNCHERS = frozenset(
    {"docker", "podman", "kubectl", "nsenter", "chroot", "runuser", "timeout", "flock", "stdbuf", "lxc"}
)
_AWKS = frozenset({"awk", "gawk", "mawk", "nawk"})
#: Commands whose arguments are code or contain code.
_EVALUATORS = frozenset({"eval", "alias", "compgen", "complete", "watch"})
#: Commands that pass the argument of `-c` to a shell, whatever precedes it.
_COMMAND_OPTIONS = frozenset({"script", "flock"})
#: Variables whose value bash expands as code, in this script or in one that it starts. Not `ENV`, which only interactive
#: shells read and which scripts often use for the name of an environment.
_CODE_VARIABLES = frozenset({"PS4", "BASH_ENV", "PROMPT_COMMAND"})
_REMOTE = frozenset({"ssh", "rsh", "mosh"})
_REMOTE_OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^\]]*\])?\+?=")
_PREFIXES = frozenset({"sudo", "exec", "command", "builtin", "nohup", "time", "env", "doas", "nice", "setsid"})
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_TESTS = frozenset({"[", "test"})
_DECLARATIONS = frozenset({"declare", "typeset", "local", "readonly"})
#: Flags of declarations: integers and name references, whose values are evaluated, and arrays.
_CALCULATED_FLAGS = frozenset("in")
_ARRAY_FLAGS = frozenset("aA")
_NAME_READERS = frozenset({"read", "unset", "mapfile", "readarray", "getopts"})

#: An option of a shell that takes the next word as its value.
_OPTION_WITH_VALUE = re.compile(r"[-+]\w*[oO]")

#: Represents an expression in the text of a word; matches no pattern for names.
VALUE = "\0"

#: Represents the parentheses of an array literal, `a=( )`.
LIST = "\2"

EVALUATED = "text that {} runs as code"
ARITHMETIC = "arithmetic, where bash runs commands in a subscript"
CODE_VARIABLE = "the value of {}, which bash expands as code"
ARRAY_LITERAL = "the value of an array declaration, which bash parses as a list and runs commands in"
VARIABLE_NAME = "the name of a variable, where bash runs commands in a subscript"


@dataclass(slots=True)
class Word:
    """One word of a command: its text without quotes, as far as known, and the expressions in it."""

    text: str = ""
    expressions: list[EmbeddedExpression] = field(default_factory=list)
    #: Whether it is a process substitution, `<( )`.
    is_process: bool = False


@dataclass(slots=True)
class Command:
    """One simple command, or a compound command reduced to its closing word; `here_string` is the word after `<<<`."""

    words: list[Word] = field(default_factory=list)
    here_string: Word | None = None
    #: Whether its input is redirected.
    has_input: bool = False
    #: A command inside it that runs its input as code.
    reader: str | None = None


@dataclass(slots=True)
class Pipeline:
    """Commands joined by `|`, and the expressions in the here-documents that they read."""

    commands: list[Command] = field(default_factory=lambda: [Command()])
    here_documents: list[EmbeddedExpression] = field(default_factory=list)
    #: What was found the last time by `pipeline_reads_code`, and what it depends on: only the last command can change.
    found_reader: tuple[object, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class VariableAttributes:
    """Variables that a script declares anywhere: integers and name references, which are evaluated, and arrays."""

    evaluated: frozenset[str]
    arrays: frozenset[str]


_DECLARATION = re.compile(
    r"\b(?:declare|typeset|local|readonly)[ \t]((?:[ \t]*[-+]\w+[ \t])*[ \t]*-\w+)[ \t]([^;&|\n#]*)"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_ARRAY = re.compile(r"\b([A-Za-z_]\w*)(?:\+?=\(|\[[^\]\n]{0,200}\]\+?=)")


def variable_attributes(script: str) -> VariableAttributes:
    """Return the attributes that a script gives to variables; the search may find too many, never too few."""
    evaluated, arrays = set(), {found.group(1) for found in _ARRAY.finditer(script)}
    for found in _DECLARATION.finditer(script):
        flags, names = found.group(1), _NAME.findall(found.group(2))
        if not _CALCULATED_FLAGS.isdisjoint(flags):
            evaluated.update(names)
        if not _ARRAY_FLAGS.isdisjoint(flags):
            arrays.update(names)
    return VariableAttributes(frozenset(evaluated), frozenset(arrays))


#: An expression whose value would be run as code, and a description of the location.
UnsafeUse = tuple[EmbeddedExpression, str]


def unsafe_uses(pipeline: Pipeline, variables: VariableAttributes) -> Iterator[UnsafeUse]:
    """Yield the expressions of a pipeline that a command would run as code."""
    last_reader: tuple[int, str] | None = None
    for number, command in enumerate(pipeline.commands):
        yield from _in_command(command, variables)
        yield from _assigned(command, variables)
        if name := reads_code(command):
            last_reader = (number, name)
            if command.here_string is not None:
                yield from _all([command.here_string], EVALUATED.format(name))
    if last_reader is not None:
        number, name = last_reader
        yield from ((expression, EVALUATED.format(name)) for expression in pipeline.here_documents)
        for command in pipeline.commands[:number]:
            inputs = [command.here_string] if command.here_string is not None else []
            yield from _all(command.words + inputs, EVALUATED.format(name))


def pipeline_reads_code(pipeline: Pipeline) -> str | None:
    """Return the name of a command that runs its input as code, such as `bash` in `cat <<EOF | bash`."""
    last = pipeline.commands[-1]
    state = (len(pipeline.commands), len(last.words), last.reader)
    if pipeline.found_reader[0] != state:
        found = next((name for command in pipeline.commands if (name := reads_code(command))), None)
        pipeline.found_reader = (state, found)
    return pipeline.found_reader[1]


def reads_options_as_code(command: Command) -> bool:
    """Return whether the next word, if it were split, could become an option that runs commands in a subscript.

    These options are `-v` of `[` and `test`, in any position, and `-v` of `printf` as the first argument.
    """
    names = [word.text for word in command.words[:2]]
    return not _TESTS.isdisjoint(names) or (len(command.words) <= 2 and names[-1:] == ["printf"])


def reads_code(command: Command) -> str | None:
    """Return the name of the command if it runs its standard input as code."""
    start = _command_at(command.words, 0)
    while start < len(command.words) and _name(command.words[start]) == "eval":
        start = _command_at(command.words, start + 1)
    words = command.words[start:]
    if command.reader or not words:
        return command.reader
    first = _name(words[0])
    if first in _REMOTE:
        return first if not _remote_code(words) else None
    if first in _SOURCE:
        return first if any(word.text in _STANDARD_INPUT for word in words[1:]) else None
    for position, word in enumerate(words):
        name = _interpreter(word)
        if name is None:
            continue
        if first in _FEEDERS:
            return first
        if position and not _launches(command):
            return None
        option = _code_option(name)
        rest = [later.text for later in words[position + 1 :]]
        operands = [text for text in rest if not text.startswith(("-", "+")) or text == "-"]
        has_code = any(option.match(text) for text in rest if text != "-")
        takes_input = "-s" in rest or not operands or operands[0] in _STANDARD_INPUT or name in _STATEMENT_READERS
        return name if takes_input and not has_code else None
    return None


def _launches(command: Command) -> bool:
    """Return whether a command runs the command in its arguments, as `sudo -u deploy bash` does."""
    first = next((_name(word) for word in command.words if not _ASSIGNMENT.match(word.text)), "")
    return first in _LAUNCHERS or first in _PREFIXES


def _interpreter(word: Word) -> str | None:
    """Return the shell or interpreter that a word names, without its version, or None."""
    name = _name(word)
    if name in ("$SHELL", "$BASH"):
        return "bash"
    if name in _SHELLS:
        return name
    name = name.rstrip("0123456789.")
    return name if name in _INTERPRETERS else None


def _code_option(name: str) -> re.Pattern[str]:
    """Return the pattern of the option that takes code."""
    if name in _SHELLS:
        return _SHELL_CODE_OPTION
    letters, words = _INTERPRETERS[name]
    return re.compile(rf"-[A-Za-z0-9]*{letters}|--?(?:{words})\b", re.IGNORECASE if words == "command" else 0)


def _name(word: Word) -> str:
    return word.text.rsplit("/", 1)[-1]


def _arguments(command: Command) -> list[Word]:
    """Return the words from the command's name on, without assignments and prefixes such as `sudo`."""
    return command.words[_command_at(command.words, 0) :]


def _command_at(words: list[Word], start: int) -> int:
    """Return the position of the command's name from `start` on, behind assignments and prefixes such as `sudo`."""
    position = start
    while position < len(words) - 1 and (
        _ASSIGNMENT.match(words[position].text)
        or _name(words[position]) in _PREFIXES
        or (position > start and words[position].text.startswith("-"))
    ):
        position += 1
    return position


def _in_command(command: Command, variables: VariableAttributes) -> Iterator[UnsafeUse]:
    words = _arguments(command)
    if not words:
        return
    name, rest = _name(words[0]), words[1:]
    if name in _EVALUATORS:
        yield from _all(rest, EVALUATED.format(name))
    elif name == "trap":
        first = 1 if rest and rest[0].text == "--" else 0
        yield from _all(rest[first : first + 1], EVALUATED.format(name))
    elif name in _COMMAND_OPTIONS:
        yield from _after_option(rest, EVALUATED.format(name))
    elif name == "let":
        yield from _all(rest, ARITHMETIC)
    elif name == "[[":
        yield from _tests(rest)
    elif name in _TESTS:
        yield from _variable_tests(rest)
    elif name in _DECLARATIONS:
        yield from _declared(rest, variables)
    elif name == "export":
        yield from _declared([word for word in rest if _ASSIGNMENT.match(word.text) or word.text[:1] == "-"], variables)
    elif name in _NAME_READERS:
        yield from _all(rest, VARIABLE_NAME)
    elif name == "printf" and rest and rest[0].text.startswith("-v"):
        yield from _all(rest[:1] if len(rest[0].text) > 2 else rest[1:2], VARIABLE_NAME)
    elif name in _REMOTE:
        yield from _all(_remote_code(words), EVALUATED.format(name))
    elif name in _SOURCE:
        yield from _all([word for word in rest if word.is_process], EVALUATED.format(name))
    yield from _code_options(words)


def _all(words: list[Word], location: str) -> Iterator[UnsafeUse]:
    return ((expression, location) for word in words for expression in word.expressions)


def _after_option(words: list[Word], location: str) -> Iterator[UnsafeUse]:
    """Yield the expressions after the first `-c`."""
    for position, word in enumerate(words):
        if _SHELL_CODE_OPTION.match(word.text):
            yield from _all(words[position:], location)
            return


def _assigned(command: Command, variables: VariableAttributes) -> Iterator[UnsafeUse]:
    """Yield the expressions assigned to a variable whose value is code or is evaluated on assignment."""
    for word in command.words:
        name = _assigned_name(word)
        if name in _CODE_VARIABLES:
            yield from _all([word], CODE_VARIABLE.format(name))
        elif name in variables.evaluated:
            yield from _all([word], ARITHMETIC)


def _assigned_name(word: Word) -> str:
    """Return the name before the `=` of an assignment, or ''."""
    found = _ASSIGNMENT.match(word.text)
    return re.split(r"[\[+=]", found.group(), maxsplit=1)[0] if found else ""


def _tests(words: list[Word]) -> Iterator[UnsafeUse]:
    for position, word in enumerate(words):
        if word.text in _ARITHMETIC_TESTS:
            yield from _all(words[max(position - 1, 0) : position] + words[position + 1 : position + 2], ARITHMETIC)
    yield from _variable_tests(words)


def _variable_tests(words: list[Word]) -> Iterator[UnsafeUse]:
    for position, word in enumerate(words):
        if word.text in ("-v", "-R"):
            yield from _all(words[position + 1 : position + 2], VARIABLE_NAME)


def _declared(words: list[Word], variables: VariableAttributes) -> Iterator[UnsafeUse]:
    """Yield the expressions that a declaration evaluates, takes for a name, or parses as an array literal."""
    flags = "".join(word.text[1:] for word in words if re.fullmatch(r"-\w+", word.text))
    is_evaluated = not _CALCULATED_FLAGS.isdisjoint(flags)
    is_array = not _ARRAY_FLAGS.isdisjoint(flags)
    for word in words:
        found = _ASSIGNMENT.match(word.text)
        if is_evaluated or (found and VALUE in found.group()):
            yield from _all([word], ARITHMETIC)
        elif not found:
            yield from _all([word], VARIABLE_NAME)
        elif (is_array or _assigned_name(word) in variables.arrays) and word.text[found.end() :][:1] != LIST:
            yield from _all([word], ARRAY_LITERAL)


def _remote_code(words: list[Word]) -> list[Word]:
    """Return the words after the host of an ssh command."""
    position = 1
    while position < len(words) and words[position].text.startswith("-"):
        option = words[position].text
        position += 2 if len(option) == 2 and option[1] in _REMOTE_OPTIONS_WITH_VALUE else 1
    return words[position + 1 :]


def _code_options(words: list[Word]) -> Iterator[UnsafeUse]:
    """Yield the expressions after `sh -c`, `python -c` and the like, anywhere in the command."""
    for position, word in enumerate(words):
        if _name(word) in _AWKS:
            yield from _awk_program(_name(word), words[position + 1 :])
            return
        name = _interpreter(word)
        if name is not None:
            yield from _code_values(name, words[position + 1 :])
            return


def _code_values(name: str, words: list[Word]) -> Iterator[UnsafeUse]:
    option, location = _code_option(name), EVALUATED.format(name)
    operands = _operands(words)
    checked = 0
    for position, word in enumerate(words):
        if word.is_process:
            yield from _all([word], location)
        if option.fullmatch(word.text):
            end = operands[position + 1] + 1
            yield from _all(words[max(position + 1, checked) : end], location)
            checked = max(checked, end)
        elif option.match(word.text) and name not in _SHELLS:
            yield from _all([word], location)


def _operands(words: list[Word]) -> list[int]:
    """Return the position of the first operand from each word on: `bash -c -o pipefail CODE` has options after the `-c`."""
    found = list(range(len(words) + 2))
    for position in reversed(range(len(words))):
        if words[position].text.startswith(("-", "+")):
            found[position] = found[position + (2 if _OPTION_WITH_VALUE.fullmatch(words[position].text) else 1)]
    return found


def _awk_program(name: str, words: list[Word]) -> Iterator[UnsafeUse]:
    position = 0
    while position < len(words) and words[position].text.startswith("-"):
        if words[position].text.startswith("-f"):
            return
        position += 2 if words[position].text in ("-v", "-F") else 1
    yield from _all(words[position : position + 1], EVALUATED.format(name))
