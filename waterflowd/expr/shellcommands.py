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
_STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0"})
_SOURCE = frozenset({"source", "."})
_FEEDERS = frozenset({"xargs", "parallel"})
#: Commands that start the one that they get as arguments, behind options of their own.
_LAUNCHERS = frozenset(
    {"docker", "podman", "kubectl", "nsenter", "chroot", "runuser", "timeout", "flock", "stdbuf", "lxc"}
)
_AWKS = frozenset({"awk", "gawk", "mawk", "nawk"})
_REMOTE = frozenset({"ssh", "rsh", "mosh"})
_REMOTE_OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^\]]*\])?\+?=")
_PREFIXES = frozenset({"sudo", "exec", "command", "builtin", "nohup", "time", "env", "doas", "nice", "setsid"})
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_TESTS = frozenset({"[", "test"})
_DECLARATIONS = frozenset({"declare", "typeset", "local", "readonly"})
_NAME_READERS = frozenset({"read", "unset", "mapfile", "readarray", "getopts"})

#: Stands for an expression in the text of a word; no pattern of names matches it.
VALUE = "\0"

EVALUATED = "text that {} runs as code"
CALCULATED = "arithmetic, in which bash runs the commands of a subscript"
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
    """One simple command; `here_string` is the word behind `<<<`."""

    words: list[Word] = field(default_factory=list)
    here_string: Word | None = None


@dataclass(slots=True)
class Pipeline:
    """Commands joined by `|`; what one reads may come from those before. `fed` came in by a here-document."""

    commands: list[Command] = field(default_factory=lambda: [Command()])
    fed: list[Placed] = field(default_factory=list)


Finding = tuple[Placed, str]


def findings(pipeline: Pipeline) -> Iterator[Finding]:
    """Yield the expressions of a pipeline whose value a command would read as code, each with a name for the place."""
    last_reader: tuple[int, str] | None = None
    for number, command in enumerate(pipeline.commands):
        yield from _in_command(command)
        if name := reads_code(command):
            last_reader = (number, name)
            if command.here_string is not None:
                yield from _all([command.here_string], EVALUATED.format(name))
    if last_reader is not None:
        number, name = last_reader
        yield from ((placed, EVALUATED.format(name)) for placed in pipeline.fed)
        for command in pipeline.commands[:number]:
            yield from _all(command.words, EVALUATED.format(name))


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
    if not words:
        return None
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
    """Return whether a command starts the one in its arguments, as `sudo -u deploy bash` does."""
    first = next((_name(word) for word in command.words if not _ASSIGNMENT.match(word.text)), "")
    return first in _LAUNCHERS or first in _PREFIXES


def _interpreter(word: Word) -> str | None:
    """Return the shell or interpreter that a word starts, without its version, or None."""
    name = _name(word)
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


def _in_command(command: Command) -> Iterator[Finding]:
    words = _arguments(command)
    if not words:
        return
    name, rest = _name(words[0]), words[1:]
    if name == "eval":
        yield from _all(rest, EVALUATED.format(name))
    elif name == "trap":
        yield from _all(rest[:1], EVALUATED.format(name))
    elif name == "let":
        yield from _all(rest, CALCULATED)
    elif name == "[[":
        yield from _tests(rest)
    elif name in _TESTS:
        yield from _variable_tests(rest)
    elif name in _DECLARATIONS:
        yield from _declared(rest)
    elif name in _NAME_READERS:
        yield from _all(rest, NAMED)
    elif name == "printf" and rest and rest[0].text == "-v":
        yield from _all(rest[1:2], NAMED)
    elif name in _REMOTE:
        yield from _all(_remote_code(words), EVALUATED.format(name))
    elif name in _SOURCE:
        yield from _all([word for word in rest if word.is_process], EVALUATED.format(name))
    yield from _code_options(words)


def _all(words: list[Word], place: str) -> Iterator[Finding]:
    return ((placed, place) for word in words for placed in word.placed)


def _tests(words: list[Word]) -> Iterator[Finding]:
    for position, word in enumerate(words):
        if word.text in _ARITHMETIC_TESTS:
            yield from _all(words[max(position - 1, 0) : position] + words[position + 1 : position + 2], CALCULATED)
    yield from _variable_tests(words)


def _variable_tests(words: list[Word]) -> Iterator[Finding]:
    for position, word in enumerate(words):
        if word.text in ("-v", "-R"):
            yield from _all(words[position + 1 : position + 2], NAMED)


def _declared(words: list[Word]) -> Iterator[Finding]:
    is_evaluated = any(re.fullmatch(r"-[A-Za-z]*[in][A-Za-z]*", word.text) for word in words)
    for word in words:
        if is_evaluated:
            yield from _all([word], CALCULATED)
        elif not _ASSIGNMENT.match(word.text):
            yield from _all([word], NAMED)


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
            yield from _all(words[position + 1 : position + 2], place)
        elif option.match(word.text) and name not in _SHELLS:
            yield from _all([word], place)


def _awk_program(name: str, words: list[Word]) -> Iterator[Finding]:
    position = 0
    while position < len(words) and words[position].text.startswith("-"):
        if words[position].text.startswith("-f"):
            return
        position += 2 if words[position].text in ("-v", "-F") else 1
    yield from _all(words[position : position + 1], EVALUATED.format(name))
