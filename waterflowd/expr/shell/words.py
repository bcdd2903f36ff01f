"""Words, commands and pipelines of a script, as far as its text tells, with the expressions in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from waterflowd.expr.template import EmbeddedExpression

#: Represents an expression in the text of a word; matches no pattern for names.
VALUE = "\0"

#: Represents the parentheses of an array literal, `a=( )`.
LIST = "\2"

#: Represents a command substitution, `$( )`.
SUBSTITUTION = "\3"


@dataclass(slots=True)
class Word:
    """One word of a command: its text without quotes, as far as known, and the expressions in it."""

    text: str = ""
    expressions: list[EmbeddedExpression] = field(default_factory=list)
    #: Whether it is a process substitution, `<( )`.
    is_process: bool = False

    @property
    def name(self) -> str:
        """The text without directories, as a command is named."""
        return self.text.rsplit("/", 1)[-1]


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


#: An expression whose value would be run as code, and a description of the location.
UnsafeUse = tuple[EmbeddedExpression, str]


def uses_in(words: list[Word], location: str) -> list[UnsafeUse]:
    """Return every expression in the words, as used in that location."""
    return [(expression, location) for word in words for expression in word.expressions]
