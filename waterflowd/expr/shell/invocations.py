"""The programs that a command starts, and the code in their arguments and their input.

A program is found after prefixes (`sudo`, `env -S`), behind launchers (`docker exec web bash`), and in variables
(`S=bash; $S -c`). A command in a variable is checked with every value that the script assigns to the variable, and as if it
could be any shell or interpreter, because the variable may have another value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise

from waterflowd.expr.shell import programs
from waterflowd.expr.shell.programs import Input, Operands, Program
from waterflowd.expr.shell.variables import Variables
from waterflowd.expr.shell.words import SUBSTITUTION, VALUE, UnsafeUse, Word, uses_in

EVALUATED = "text that {} runs as code"
_EVALUATED_UNLESS = "text that {} runs as code, unless it has the option `{}`"
_RISKY = "an argument of {}, which could be an option that runs a command, such as `{}`; put `--` or other text in front of it"
_SPLIT = "text that `env -S` splits into a command and its arguments"

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^\]]*\])?\+?=")
_SPLIT_OPTION = re.compile(r"-[A-Za-z0]*S(.*)|--split-string(?:=(.*))?", re.DOTALL)
_STANDARD_INPUT = re.compile(r"(?:-[A-Za-z]+|--[\w-]+=)?(?:-|/dev/stdin|/dev/fd/0|/proc/self/fd/0)")
#: The words of a text that a shell runs.
_SHELL_WORD = re.compile(r"[^\s;&|(){}'\"`]+")
_SHELL_OPTION_WITH_VALUE = re.compile(r"[-+]\w*[oO]")
#: Variables in one command that are replaced, and nested launchers in one that are followed; real commands have about two.
_REPLACED_MAX = 20
_NESTED_MAX = 10
#: Words of a text that are searched for a program that reads the same input, and of a command for `--`.
_SEARCHED_WORDS_MAX = 200
_LOGIN_SHELL = re.compile(r"-[A-Za-z]*[si]|--shell|--login")

#: What an unknown command may be. `-e` and the like are code only directly after it, because to many other programs these
#: letters mean something else.
_UNKNOWN = Program(
    code_options="-[A-Za-z]*c|--command|--eval|--execute|-ex|-cmd", input=Input.WITHOUT_SCRIPT, is_interpreter=True
)
_UNKNOWN_FIRST_OPTION = re.compile(r"-[A-Za-z0]*[eEpr]")


class Role(Enum):
    """What an argument is to its program."""

    CODE = "code, or an option with code"
    LOADED = "code that runs beside the script"
    OPTION = "another option, or its value"
    OPERAND = "an operand"
    SAFE_OPERAND = "an operand after `--`"


@dataclass(frozen=True)
class Invocation:
    """A program that a command starts, and its arguments."""

    name: str
    program: Program
    words: list[Word]
    #: The command that starts it with arguments from its own input, such as `xargs`.
    feeder: str | None = None

    @cached_property
    def roles(self) -> list[tuple[Word, Role]]:
        """Each argument with its role."""
        found: list[tuple[Word, Role]] = []
        position, has_ended = 0, False
        while position < len(self.words):
            word = self.words[position]
            if has_ended or not word.text.startswith(("-", "+")) or word.text == "-":
                end, role = position + 1, Role.SAFE_OPERAND if has_ended else Role.OPERAND
                if position == 0 and _matches(self.program.value_options, word.text):
                    end, role = position + 2, Role.OPTION  # the bundle of `tar cf FILE`
            elif word.text == "--":
                has_ended, end, role = True, position + 1, Role.OPTION
            else:
                end, role = self._option(position)
            found += [(each, role) for each in self.words[position:end]]
            position = end
        return found

    def _option(self, position: int) -> tuple[int, Role]:
        """Return where an option ends, with its value, and its role."""
        program, text = self.program, self.words[position].text
        option, has_value = text.split("=", 1)[0], text.startswith("--") and "=" in text
        after = position + (1 if has_value else 2)
        if _matches(program.setting_options, text):
            after = position + (2 if len(text) == 2 else 1)
            setting = self.words[after - 1].text
            is_command = _matches(
                program.command_settings, setting if len(text) == 2 else text.lstrip("-").partition("o")[2]
            )
            return after, Role.CODE if is_command else Role.OPTION
        if _matches(program.code_options, option):
            return after if has_value else _operand_at(self.words, position + 1) + 1, Role.CODE
        if _matches(program.load_options, option):
            return position + 2 if len(option) == 2 else position + 1, Role.LOADED
        return after if _matches(program.value_options, option) else position + 1, Role.OPTION

    @cached_property
    def code(self) -> list[Word]:
        """The arguments that are code, but not those that run beside a script."""
        found = [word for word, role in self.roles if role is Role.CODE]
        if self.program.code_after:
            texts = [word.text for word in self.words]
            starts = [number for number, text in enumerate(texts) if _matches(self.program.code_after, text)]
            found += self.words[starts[0] + 1 :] if starts else []
        if any(_matches(self.program.without_operands, word.text.split("=", 1)[0]) for word in self.words):
            return found
        operands = [word for word, role in self.roles if role in (Role.OPERAND, Role.SAFE_OPERAND)]
        return (
            found
            + {
                Operands.NONE: [],
                Operands.FIRST: operands[:1],
                Operands.AFTER_FIRST: operands[1:],
                Operands.ALL: operands,
            }[self.program.operands]
        )


def _matches(pattern: str, text: str) -> bool:
    return bool(pattern) and re.fullmatch(pattern, text, re.DOTALL) is not None


def _operand_at(words: list[Word], position: int) -> int:
    """Return the position of the first operand; `bash -c -o pipefail CODE` has options after the `-c`."""
    while position < len(words) and words[position].text.startswith(("-", "+")):
        position += 2 if _SHELL_OPTION_WITH_VALUE.fullmatch(words[position].text) else 1
    return position


def arguments(words: list[Word]) -> list[Word]:
    """Return the words from the command's name on, without assignments and prefixes such as `sudo`."""
    return words[_command_at(words, 0) :]


def _command_at(words: list[Word], start: int) -> int:
    """Return the position of the command's name from `start` on."""
    position = start
    while position < len(words) - 1 and (
        ASSIGNMENT.match(words[position].text)
        or words[position].name in programs.PREFIXES
        or (position > start and words[position].text.startswith("-"))
    ):
        position += 1
    return position


def alternatives(words: list[Word], variables: Variables) -> Iterator[list[Word]]:
    """Yield the words of a command with `env -S` split: unchanged, and once for each value of the variables among them."""
    if argument := _split_argument(words):
        start, end = argument
        option = _SPLIT_OPTION.fullmatch(words[start].text)
        text = (option.group(1) or option.group(2) or "") if option else ""
        text += " ".join(word.text for word in words[start + 1 : end])
        words = words[:start] + [Word(part) for part in text.split()] + words[end:]
    yield words
    references = [word for word in words if word.text.startswith("$")][:_REPLACED_MAX]
    for number in range(variables.value_count(word.text for word in references)):
        values = {id(word): variables.words_of(word.text, number) for word in references}
        replaced = (
            [word] if (texts := values.get(id(word))) is None else [Word(text) for text in texts] for word in words
        )
        yield [word for some in replaced for word in some]


def _split_argument(words: list[Word]) -> tuple[int, int] | None:
    """Return where the option `-S` of env begins and its argument ends, or None."""
    for position in range(len(words)):
        if words[position].name != "env":
            continue
        for later in range(position + 1, len(words)):
            if found := _SPLIT_OPTION.fullmatch(words[later].text):
                return later, later + (1 if found.group(1) or found.group(2) else 2)
            if not words[later].text.startswith("-") and not ASSIGNMENT.match(words[later].text):
                return None
    return None


def invocations(command: list[Word], *, is_started: bool = False) -> Iterator[Invocation]:
    """Yield the programs of a command that may run code; after an interpreter the rest belongs to it.

    An interpreter in an argument counts even if the command is not known to start its arguments, unless `is_started`.
    """
    words = arguments(command)
    if not words or _only_looks_up(command):
        return
    feeder = words[0].name if words[0].name in programs.FEEDERS else None
    launches = feeder is not None or any(word.name in programs.LAUNCHERS | programs.PREFIXES for word in command)
    found = 0
    for position, word in enumerate(words):
        program = programs.program_of(word.name)
        if program is not None and (position == 0 or launches or (program.is_interpreter and not is_started)):
            yield _invocation(word.name, program, words[position + 1 :], feeder)
            found += 1
            if word.name not in programs.LAUNCHERS or found > _NESTED_MAX:
                return
        elif _is_unknown(word.name) and (position == 0 or (launches and _is_before_code(words, position))):
            yield Invocation(_display(word.name), _UNKNOWN, words[position + 1 :], feeder)
            if position:
                return


def _only_looks_up(command: list[Word]) -> bool:
    """Return whether the command is `command -v NAME`, which runs nothing."""
    names = [word.text for word in command]
    return "command" in names and names[names.index("command") + 1 : names.index("command") + 2] in (["-v"], ["-V"])


def _invocation(name: str, program: Program, words: list[Word], feeder: str | None) -> Invocation:
    if name == "git":
        program = programs.git_program([word.text for word in words])
    return Invocation(name, program, words, feeder)


def _is_before_code(words: list[Word], position: int) -> bool:
    """Return whether `-c` follows directly. Later it may be anything: `kubectl logs "$POD" --since 1h -c CONTAINER`."""
    return position + 1 < len(words) and _matches("-[a-z]*c", words[position + 1].text)


def _is_unknown(name: str) -> bool:
    return any(mark in name for mark in ("$", SUBSTITUTION, VALUE))


def _display(name: str) -> str:
    return "a computed command" if SUBSTITUTION in name or VALUE in name else name


def split_uses(words: list[Word]) -> list[UnsafeUse]:
    """Return the expressions in the argument of `env -S`."""
    argument = _split_argument(words)
    return uses_in(words[slice(*argument)], _SPLIT) if argument else []


def code_uses(invocation: Invocation) -> Iterator[UnsafeUse]:
    """Yield the expressions in the arguments of a program that it runs as code, or could take for an option that does."""
    program, words, name = invocation.program, invocation.words, invocation.name
    location = EVALUATED.format(name)
    if program.safe_option:
        if any(word.text == program.safe_option for word in words):
            return
        location = _EVALUATED_UNLESS.format(name, program.safe_option)
    if program is _UNKNOWN and words and _UNKNOWN_FIRST_OPTION.fullmatch(words[0].text):
        yield from uses_in(words[:2], location)
    yield from uses_in(invocation.code, location)
    for word, role in invocation.roles:
        if role is Role.LOADED or (word.is_process and program.input is not Input.NAMED):
            yield from uses_in([word], location)
        elif role is Role.OPERAND and program.risky_option and word.text.startswith(VALUE):
            yield from uses_in([word], _RISKY.format(name, program.risky_option))
    if program.input is Input.NAMED:
        files = [later for word, later in pairwise(words) if later.is_process and word.text.startswith("-")]
        yield from uses_in(files, location)
    if name == "git":
        yield from uses_in(_git_setting(words, program), location)


def _git_setting(words: list[Word], program: Program) -> list[Word]:
    """Return the key and the value of a `git config` whose key is a command, such as `alias.x`."""
    operands = [word for word in words if not word.text.startswith("-") and word.text != "set"]
    is_command = (
        operands[0].text == "config" and _matches(program.command_settings, operands[1].text) if operands[1:] else False
    )
    return operands[1:] if is_command else []


def is_risky(words: list[Word]) -> bool:
    """Return whether the next argument of a command, if it were split, could become an option that runs code.

    Called for every expression, so only the beginning of a command is searched: `--` must be there.
    """
    start = _command_at(words, 0)
    if start >= len(words):
        return False
    name = words[start].name
    program = programs.program_of(name)
    if name != "find" and (program is None or not (program.risky_option or name == "git")):
        return False
    found = words[start : start + _SEARCHED_WORDS_MAX]
    if any(word.text == "--" for word in found):
        return False
    return program is None or bool(_invocation(name, program, found[1:], None).program.risky_option)


def reads_code(words: list[Word]) -> str | None:
    """Return the name of the program of a command that runs its standard input as code, or None."""
    start, evaluated = _command_at(words, 0), 0
    while start < len(words) and words[start].name == "eval":
        evaluated, start = start + 1, _command_at(words, start + 1)
    words = words[evaluated:]
    command = words[start - evaluated :]
    if not command:
        return None
    first, operands = command[0].name, [word for word in command[1:] if not word.text.startswith("-")]
    if first in ("source", "."):
        return first if any(_STANDARD_INPUT.fullmatch(word.text) for word in command[1:]) else None
    if first == "parallel" and not operands:
        return first
    if words[0].name in ("sudo", "doas") and not operands and any(_LOGIN_SHELL.fullmatch(word.text) for word in words):
        return words[0].name
    return next((name for found in invocations(words, is_started=True) if (name := _reads_input(found))), None)


def _reads_input(invocation: Invocation) -> str | None:
    program, name, code = invocation.program, invocation.name, invocation.code
    if invocation.feeder:
        runs_arguments = program.is_interpreter or program.operands is not Operands.NONE
        return invocation.feeder if runs_arguments else None
    if program.input in (Input.NEVER, Input.ALWAYS):
        return name if program.input is Input.ALWAYS else None
    if program.input is Input.NAMED:
        texts = [word.text for word in invocation.words]
        return name if any(text != "--" and _STANDARD_INPUT.fullmatch(text) for text in texts) else None
    if code:
        # The code may start a program that reads: `ssh host 'bash -s'`, `bash -c bash`.
        return name if _starts_reader(" ".join(word.text for word in code)) else None
    return name if program.input is Input.WITHOUT_CODE or not _has_script(invocation) else None


def _starts_reader(text: str) -> bool:
    """Return whether the code of a shell starts an interpreter without code or script, which reads the same input."""
    words = [Word(found) for found in _SHELL_WORD.findall(text)[:_SEARCHED_WORDS_MAX]]
    for position, word in enumerate(words):
        program = programs.program_of(word.name)
        if program is not None and program.is_interpreter and program.input is not Input.NAMED:
            started = Invocation(word.name, program, words[position + 1 :])
            if not started.code and not _has_script(started):
                return True
    return False


def _has_script(invocation: Invocation) -> bool:
    """Return whether an operand names a script. With `-s`, operands are arguments."""
    operands = [word.text for word, role in invocation.roles if role in (Role.OPERAND, Role.SAFE_OPERAND)]
    is_named = any(word.text == "-s" for word in invocation.words)
    return bool(operands) and not _STANDARD_INPUT.fullmatch(operands[0]) and not is_named
