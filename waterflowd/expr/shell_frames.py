"""What the scanner of scripts remembers: a stack of frames, one for each level of quoting that is open.

A frame of commands also assembles what it reads into words, commands and pipelines, and follows `case`, whose patterns
end with a parenthesis that closes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from waterflowd.expr.shell_commands import Command, Pipeline, Word
from waterflowd.expr.template import Placed

#: Words after which a command may start.
_KEYWORDS = frozenset({"then", "else", "elif", "do", "!", "time", "coproc"})
#: Words that open a compound command. Behind `for` and `select` there are words; behind the others, a command.
_OPENERS = frozenset({"if", "while", "until", "for", "select", "case", "{"})
_CLOSERS = frozenset({"fi", "done", "esac", "}"})

#: No name or option that matters is longer, and a script may be one word of a megabyte.
_WORD_CHARACTERS_MAX = 200


class Kind(Enum):
    """What a frame is a level of."""

    COMMANDS = "commands"
    SINGLE = "single quotes"
    DOUBLE = "double quotes"
    ANSI = "ansi quotes"
    PARAMETER = "parameter"
    ARITHMETIC = "arithmetic"
    DOCUMENT = "here-document"
    COMMENT = "comment"


@dataclass(frozen=True, slots=True)
class Document:
    """A here-document that was announced; `pipeline` is what it was announced in."""

    delimiter: str
    is_quoted: bool
    strips_tabs: bool
    pipeline: Pipeline


@dataclass(slots=True)
class Compound:
    """An open compound command such as `while` or `{`: the pipeline it is part of, and how much was used before it."""

    outer: Pipeline
    used_before: int
    #: The command inside that runs its input as code.
    reader: str | None = None


@dataclass(slots=True, eq=False)
class Frame:
    """One level of quoting. `closer` ends it; the rest is for one kind alone, as said."""

    kind: Kind
    closer: str = ""
    #: Whether it opened inside of a subscript, `a["...` or `a[$(...`.
    is_in_subscript: bool = False

    #: Commands: what has been read of them, and every expression so far.
    pipeline: Pipeline = field(default_factory=Pipeline)
    word: Word | None = None
    is_here_string: bool = False
    is_redirect: bool = False
    #: Commands: whether the word that is read now is the target of `>&` or `<&`.
    is_duplication: bool = False
    used: list[Placed] = field(default_factory=list)
    #: Commands: `subject`, `pattern` or `body` for each open `case`.
    cases: list[str] = field(default_factory=list)
    #: Commands: the open compound commands, `case` included.
    compounds: list[Compound] = field(default_factory=list)
    #: Commands: whether the next word is the name behind `function`.
    is_function_name: bool = False

    #: Parameter: whether the part that is read now is calculated, and whether a single quote quotes in it.
    is_calculated: bool = False
    is_quoting: bool = True

    #: Arithmetic: open parentheses inside.
    depth: int = 0

    #: Here-document: where it ends, and where the script continues behind it.
    end: int = 0
    resume: int = 0

    #: Commands and here-document: the command that runs the input as code.
    reader: str | None = None

    @property
    def command(self) -> Command:
        """The command that is being read."""
        return self.pipeline.commands[-1]

    @property
    def is_in_pattern(self) -> bool:
        """Whether a pattern of `case` is being read."""
        return bool(self.cases) and self.cases[-1] == "pattern"

    @property
    def is_test(self) -> bool:
        """Whether a `[[` is open, in which `&&`, `(`, `<` and a line break do not end the command."""
        words = self.command.words
        last = self.word or words[-1] if words else None
        return last is not None and words[0].text == "[[" and last.text != "]]"

    def open_word(self) -> Word:
        """Return the word that is being read; there is one from now on."""
        if self.word is None:
            self.word = Word()
        return self.word

    def add(self, text: str) -> None:
        """Add text to the word that is being read."""
        word = self.open_word()
        if len(word.text) < _WORD_CHARACTERS_MAX:
            word.text += text[:_WORD_CHARACTERS_MAX]

    def end_word(self) -> None:
        """End the word that is being read, if any."""
        word, self.word = self.word, None
        if word is None:
            return
        if self.is_redirect:
            self.is_redirect = self.is_duplication = False
            if word.is_process:
                self.command.here_string = word
        elif self.is_here_string:
            self.is_here_string = False
            self.command.here_string = word
        elif not self._end_keyword(word.text):
            self.command.words.append(word)

    def _end_keyword(self, text: str) -> bool:
        """Handle a word that is syntax rather than part of a command; return whether it was."""
        words = self.command.words
        state = self.cases[-1] if self.cases else None
        if state == "subject":
            if text == "in" and words:
                self.cases[-1] = "pattern"
                words.clear()
                return True
            return False
        if text == "esac" and state is not None and not words:
            self.cases.pop()
            return self._close_compound(text)
        if words or state == "pattern":
            return False
        if self.is_function_name or text == "function":
            self.is_function_name = not self.is_function_name
            return True
        if text in _OPENERS:
            self.compounds.append(Compound(self.pipeline, len(self.used)))
            self.pipeline = Pipeline()
            if text == "case":
                self.cases.append("subject")
            return text not in ("for", "select")
        return self._close_compound(text) if text in _CLOSERS else text in _KEYWORDS

    def _close_compound(self, text: str) -> bool:
        """Go back to the pipeline around a compound command, in which the whole of it is one command."""
        if not self.compounds or len(self.pipeline.commands) > 1:
            return False
        compound = self.compounds.pop()
        self.pipeline = compound.outer
        self.command.words.append(Word(text, self.used[compound.used_before :]))
        self.command.reader = compound.reader
        return True

    def note_reader(self, reader: str) -> None:
        """Note that what is being read has a command that runs its input as code."""
        if self.compounds:
            self.compounds[-1].reader = reader
        else:
            self.reader = reader

    def end_command(self) -> None:
        """End a command of a pipeline; the next one is part of it as well."""
        self.end_word()
        self.is_redirect = self.is_here_string = self.is_duplication = False
        self.pipeline.commands.append(Command())

    def end_pipeline(self) -> Pipeline:
        """End the pipeline that is being read and return it."""
        self.end_word()
        self.is_redirect = self.is_here_string = self.is_duplication = self.is_function_name = False
        pipeline, self.pipeline = self.pipeline, Pipeline()
        return pipeline
