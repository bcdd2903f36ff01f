"""Which words of a shell command are read as code once more, by the command itself.

A variable reference keeps a value from being code for the shell that runs the script. It cannot do so where a command
reads its arguments or its input as a program: `eval`, `bash -c`, `ssh host '...'`, `python -c`, `[[ x -eq y ]]`. This
module knows those commands; the scanner gives it the commands of a script with the expressions in each word.

The list is that of the usual commands, not of all: what the languages of other programs (sed, jq, make) make of
a value is for the author of the script to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from waterflowd.expr.template import Placed

_SHELLS = frozenset({"bash", "sh", "dash", "ash", "ksh", "zsh", "fish", "su"})
_SHELL_CODE_OPTION = re.compile(r"-[A-Za-z]*c|--command")

#: Other interpreters, without their versions: the options whose value is code, as patterns of letters and of words.
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
#: Clients that read their statements from the standard input whatever operands they have.
_STATEMENT_READERS = frozenset({"psql", "mysql", "mariadb", "sqlite"})
_STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_SOURCE = frozenset({"source", "."})
_FEEDERS = frozenset({"xargs", "parallel"})
#: Commands that start the one that they get as arguments, behind options of their own.
_LAUNCHERS = frozenset(
    {"docker", "podman", "kubectl", "nsenter", "chroot", "runuser", "timeout", "flock", "stdbuf", "lxc"}
)
_AWKS = frozenset({"awk", "gawk", "mawk", "nawk"})
#: Commands whose arguments are code, as a whole or in parts.
_EVALUATORS = frozenset({"eval", "alias", "compgen", "complete", "watch"})
#: Commands that pass what follows `-c` to a shell, whatever stands before it.
_COMMAND_OPTIONS = frozenset({"script", "flock"})
#: Variables whose value bash expands as code in a script, now or in one that it starts. `ENV` counts for interactive shells
#: alone, and is what scripts call their environment.
_CODE_VARIABLES = frozenset({"PS4", "BASH_ENV", "PROMPT_COMMAND"})
_REMOTE = frozenset({"ssh", "rsh", "mosh"})
_REMOTE_OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^\]]*\])?\+?=")
_PREFIXES = frozenset({"sudo", "exec", "command", "builtin", "nohup", "time", "env", "doas", "nice", "setsid"})
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_TESTS = frozenset({"[", "test"})
_DECLARATIONS = frozenset({"declare", "typeset", "local", "readonly"})
#: Flags of declarations: an integer or a reference, whose values are evaluated; an array.
_CALCULATED_FLAGS = frozenset("in")
_ARRAY_FLAGS = frozenset("aA")
_NAME_READERS = frozenset({"read", "unset", "mapfile", "readarray", "getopts"})

#: Stands for an expression in the text of a word; no pattern of names matches it.
VALUE = "\0"

#: Stands for the parentheses of an array's list, `a=( )`.
LIST = "\2"

EVALUATED = "text that {} runs as code"
CALCULATED = "arithmetic, in which bash runs the commands of a subscript"
CODE_VARIABLE = "the value of {}, which bash expands as code"
LISTED = "the value of an array's declaration, which bash reads as a list and runs the commands in it"
NAMED = "the name of a variable, in which bash runs the commands of a subscript"


@dataclass(slots=True)
class Word:
    """One word of a command: its text with quotes removed as far as known, and the expressions in it."""

    text: str = ""
    placed: list[Placed] = field(default_factory=list)
    #: Whether it is a process substitution, `<( )`.
    is_process: bool = False


@dataclass(slots=True)
class Command:
    """One simple command, or a compound one as its last word; `here_string` is the word behind `<<<`."""

    words: list[Word] = field(default_factory=list)
    here_string: Word | None = None
    #: Whether its input is redirected.
    has_input: bool = False
    #: A command inside of it that runs its input as code.
    reader: str | None = None


@dataclass(slots=True)
class Pipeline:
    """Commands joined by `|`; what one reads may come from those before. `fed` came in by a here-document."""

    commands: list[Command] = field(default_factory=lambda: [Command()])
    fed: list[Placed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Names:
    """What a script says of its variables, wherever it says so: integers and references, and arrays."""

    evaluated: frozenset[str]
    arrays: frozenset[str]


_DECLARATION = re.compile(
    r"\b(?:declare|typeset|local|readonly)[ \t]((?:[ \t]*[-+]\w+[ \t])*[ \t]*-\w+)[ \t]([^;&|\n#]*)"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_ARRAY = re.compile(r"\b([A-Za-z_]\w*)(?:\+?=\(|\[[^\]\n]{0,200}\]\+?=)")


def names_of(script: str) -> Names:
    """Return what the text of a script says of its variables; it may say more than the truth."""
    evaluated, arrays = set(), {found.group(1) for found in _ARRAY.finditer(script)}
    for found in _DECLARATION.finditer(script):
        flags, names = found.group(1), _NAME.findall(found.group(2))
        if not _CALCULATED_FLAGS.isdisjoint(flags):
            evaluated.update(names)
        if not _ARRAY_FLAGS.isdisjoint(flags):
            arrays.update(names)
    return Names(frozenset(evaluated), frozenset(arrays))


Finding = tuple[Placed, str]


def findings(pipeline: Pipeline, names: Names) -> Iterator[Finding]:
    """Yield the expressions of a pipeline whose value a command would read as code, each with a name for the place."""
    last_reader: tuple[int, str] | None = None
    for number, command in enumerate(pipeline.commands):
        yield from _in_command(command, names)
        yield from _assigned(command, names)
        if name := reads_code(command):
            last_reader = (number, name)
            if command.here_string is not None:
                yield from _all([command.here_string], EVALUATED.format(name))
    if last_reader is not None:
        number, name = last_reader
        yield from ((placed, EVALUATED.format(name)) for placed in pipeline.fed)
        for command in pipeline.commands[:number]:
            inputs = [command.here_string] if command.here_string is not None else []
            yield from _all(command.words + inputs, EVALUATED.format(name))


def pipeline_reads_code(pipeline: Pipeline) -> str | None:
    """Return the name of a command that reads its input as code, such as `bash` in `cat <<EOF | bash`."""
    return next((name for command in pipeline.commands if (name := reads_code(command))), None)


def reads_options_as_code(command: Command) -> bool:
    """Return whether the next word, if it split into words, could be an option that runs the commands of a subscript.

    These are the `-v` of `[` and `test`, wherever it stands, and that of `printf` in front.
    """
    names = [word.text for word in command.words[:2]]
    return not _TESTS.isdisjoint(names) or (len(command.words) <= 2 and names[-1:] == ["printf"])


def reads_code(command: Command) -> str | None:
    """Return the name of the command if it takes a program to run from its standard input."""
    words = _arguments(command)
    if command.reader or not words:
        return command.reader
    first = _name(words[0])
    if first == "eval":
        return reads_code(Command(words[1:]))
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
    """Return whether a command starts the one in its arguments, as `sudo -u deploy bash` does."""
    first = next((_name(word) for word in command.words if not _ASSIGNMENT.match(word.text)), "")
    return first in _LAUNCHERS or first in _PREFIXES


def _interpreter(word: Word) -> str | None:
    """Return the shell or interpreter that a word starts, without its version, or None."""
    name = _name(word)
    if name in ("$SHELL", "$BASH"):
        return "bash"
    if name in _SHELLS:
        return name
    name = name.rstrip("0123456789.")
    return name if name in _INTERPRETERS else None


def _code_option(name: str) -> re.Pattern[str]:
    """Return what the option of an interpreter starts with whose value is code."""
    if name in _SHELLS:
        return _SHELL_CODE_OPTION
    letters, words = _INTERPRETERS[name]
    return re.compile(rf"-[A-Za-z0-9]*{letters}|--?(?:{words})\b", re.IGNORECASE if words == "command" else 0)


def _name(word: Word) -> str:
    return word.text.rsplit("/", 1)[-1]


def _arguments(command: Command) -> list[Word]:
    """Return the words from the command's name on, without assignments and `sudo` and its like."""
    words = command.words
    position = 0
    while position < len(words) - 1 and (
        _ASSIGNMENT.match(words[position].text)
        or _name(words[position]) in _PREFIXES
        or (position and words[position].text.startswith("-"))
    ):
        position += 1
    return words[position:]


def _in_command(command: Command, names: Names) -> Iterator[Finding]:
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
        yield from _all(rest, CALCULATED)
    elif name == "[[":
        yield from _tests(rest)
    elif name in _TESTS:
        yield from _variable_tests(rest)
    elif name in _DECLARATIONS:
        yield from _declared(rest, names)
    elif name == "export":
        yield from _declared([word for word in rest if _ASSIGNMENT.match(word.text) or word.text[:1] == "-"], names)
    elif name in _NAME_READERS:
        yield from _all(rest, NAMED)
    elif name == "printf" and rest and rest[0].text.startswith("-v"):
        yield from _all(rest[:1] if len(rest[0].text) > 2 else rest[1:2], NAMED)
    elif name in _REMOTE:
        yield from _all(_remote_code(words), EVALUATED.format(name))
    elif name in _SOURCE:
        yield from _all([word for word in rest if word.is_process], EVALUATED.format(name))
    yield from _code_options(words)


def _all(words: list[Word], place: str) -> Iterator[Finding]:
    return ((placed, place) for word in words for placed in word.placed)


def _after_option(words: list[Word], place: str) -> Iterator[Finding]:
    """Yield what stands behind the first `-c`."""
    for position, word in enumerate(words):
        if _SHELL_CODE_OPTION.match(word.text):
            yield from _all(words[position:], place)
            return


def _assigned(command: Command, names: Names) -> Iterator[Finding]:
    """Yield what is assigned to a variable whose value is code, or is calculated at each assignment."""
    for word in command.words:
        name = _assigned_name(word)
        if name in _CODE_VARIABLES:
            yield from _all([word], CODE_VARIABLE.format(name))
        elif name in names.evaluated:
            yield from _all([word], CALCULATED)


def _assigned_name(word: Word) -> str:
    """Return the name in front of the `=` of an assignment, or ''."""
    found = _ASSIGNMENT.match(word.text)
    return re.split(r"[\[+=]", found.group(), maxsplit=1)[0] if found else ""


def _tests(words: list[Word]) -> Iterator[Finding]:
    for position, word in enumerate(words):
        if word.text in _ARITHMETIC_TESTS:
            yield from _all(words[max(position - 1, 0) : position] + words[position + 1 : position + 2], CALCULATED)
    yield from _variable_tests(words)


def _variable_tests(words: list[Word]) -> Iterator[Finding]:
    for position, word in enumerate(words):
        if word.text in ("-v", "-R"):
            yield from _all(words[position + 1 : position + 2], NAMED)


def _declared(words: list[Word], names: Names) -> Iterator[Finding]:
    """Yield what a declaration calculates, takes for a name, or reads as an array's list, in which commands run."""
    flags = "".join(word.text[1:] for word in words if re.fullmatch(r"-\w+", word.text))
    is_evaluated = not _CALCULATED_FLAGS.isdisjoint(flags)
    is_array = not _ARRAY_FLAGS.isdisjoint(flags)
    for word in words:
        found = _ASSIGNMENT.match(word.text)
        if is_evaluated or (found and VALUE in found.group()):
            yield from _all([word], CALCULATED)
        elif not found:
            yield from _all([word], NAMED)
        elif (is_array or _assigned_name(word) in names.arrays) and word.text[found.end() :][:1] != LIST:
            yield from _all([word], LISTED)


def _remote_code(words: list[Word]) -> list[Word]:
    """Return the words behind the host of an ssh command."""
    position = 1
    while position < len(words) and words[position].text.startswith("-"):
        option = words[position].text
        position += 2 if len(option) == 2 and option[1] in _REMOTE_OPTIONS_WITH_VALUE else 1
    return words[position + 1 :]


def _code_options(words: list[Word]) -> Iterator[Finding]:
    """Yield what stands behind `sh -c`, `python -c` and the like, wherever in the command they are started."""
    for position, word in enumerate(words):
        if _name(word) in _AWKS:
            yield from _awk_program(_name(word), words[position + 1 :])
            return
        name = _interpreter(word)
        if name is not None:
            yield from _code_values(name, words[position + 1 :])
            return


def _code_values(name: str, words: list[Word]) -> Iterator[Finding]:
    option, place = _code_option(name), EVALUATED.format(name)
    for position, word in enumerate(words):
        if word.is_process:
            yield from _all([word], place)
        if option.fullmatch(word.text):
            yield from _all(words[position + 1 : _operand_at(words, position + 1) + 1], place)
        elif option.match(word.text) and name not in _SHELLS:
            yield from _all([word], place)


def _operand_at(words: list[Word], position: int) -> int:
    """Return where the first word stands that is no option; `bash -c -o pipefail CODE` has some behind the `-c`."""
    while position < len(words) and words[position].text.startswith(("-", "+")):
        position += 2 if re.fullmatch(r"[-+]\w*[oO]", words[position].text) else 1
    return position


def _awk_program(name: str, words: list[Word]) -> Iterator[Finding]:
    position = 0
    while position < len(words) and words[position].text.startswith("-"):
        if words[position].text.startswith("-f"):
            return
        position += 2 if words[position].text in ("-v", "-F") else 1
    yield from _all(words[position : position + 1], EVALUATED.format(name))
