"""Code blocks of the documentation, with what the tests must know about them.

What follows the language of a block is invisible to readers. It says what is special about the block:

    ```sh skip="REASON"       commands that the tests cannot run
    ```sh nightly="REASON"    commands that only `make nightly` runs
    ```console excerpt=PAGE   the same commands are in PAGE, which is run
    ```console before="..."   what the text above the block tells the reader to change by hand, as a command
    ```yaml file=PATH         the reader saves the block in this file

A block `sh` has commands, a block `console` has commands after `$` and what they print, and a block `text` has neither.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Every page but the generated reference, which has no commands, and the developers' lists.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
)

LANGUAGES_OF_COMMANDS = ("sh", "console")
_ATTRIBUTES = {"skip", "nightly", "excerpt", "before", "file"}
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROMPT = "$ "


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a block, with the lines that it prints according to the block."""

    text: str
    prints: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the block shows an error of this command."""
        return any(re.match(r"error: |\S+: error WF", line) for line in self.prints)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    content: str
    flags: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """Returns `PAGE:LINE`."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """Returns the commands of a block of commands, in order."""
        return list(_typed(self.content) if self.language == "sh" else _session(self.content))


def blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of a page; raises ValueError for an unknown attribute."""
    text = (ROOT / page).read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, *rest = shlex.split(match[1]) or [""]
        attributes = dict(word.split("=", 1) for word in rest if "=" in word)
        line = text.count("\n", 0, match.start()) + 1
        if not attributes.keys() <= _ATTRIBUTES:
            raise ValueError(f"{page}:{line}: unknown attribute in {match[1]!r}")
        flags = tuple(word for word in rest if "=" not in word)
        found.append(
            Block(page=page, line=line, language=language, content=match[2], flags=flags, attributes=attributes)
        )
    return found


def _typed(content: str) -> list[Command]:
    """Returns the commands of a block without output: one a line, or several lines that belong together."""
    commands = []
    pending: list[str] = []
    for line in content.splitlines():
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        pending.append(line)
        if not line.endswith("\\"):
            commands.append(Command(text="\n".join(pending)))
            pending = []
    return commands


def _session(content: str) -> list[Command]:
    """Returns the commands of a block with prompts; a command continues in lines that are indented or end a loop."""
    commands: list[Command] = []
    typed: list[str] = []
    printed: list[str] = []

    def complete() -> None:
        if typed:
            commands.append(Command(text="\n".join(typed), prints=tuple(printed)))

    for line in content.splitlines():
        if line.startswith(_PROMPT):
            complete()
            typed, printed = [line.removeprefix(_PROMPT)], []
        elif _continues("\n".join(typed)) and not printed:
            typed.append(line)
        else:
            printed.append(line)
    complete()
    return commands


def _continues(typed: str) -> bool:
    is_open_loop = bool(re.search(r"\bdo$", typed, re.MULTILINE)) and not re.search(r"^\s*done$", typed, re.MULTILINE)
    return typed.endswith("\\") or is_open_loop
