"""The state of the shell scanner: a stack of frames, one for each open level of quoting or substitution.

A COMMANDS frame also assembles words, commands, pipelines and compound commands. It tracks `case`, because the
parenthesis that ends a pattern closes nothing.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from enum import Enum

from waterflowd.expr.shell.words import Command, Pipeline, Word
from waterflowd.expr.template import EmbeddedExpression

#: Reserved words that a command may follow.
_KEYWORDS = frozenset({"then", "else", "elif", "do", "!", "time", "coproc"})
#: Reserved words that open a compound command. Words follow `for` and `select`; a command follows the others.
_OPENERS = frozenset({"if", "while", "until", "for", "select", "case", "{"})
_CLOSERS = frozenset({"fi", "done", "esac", "}"})

#: Longer than any name or option that matters; a script may be a single word of a megabyte.
_WORD_CHARACTERS_MAX = 200


class FrameKind(Enum):
    """The syntax that contains a frame."""

    COMMANDS = "commands"
    SINGLE = "single quotes"
    DOUBLE = "double quotes"
    ANSI = "ansi quotes"
    PARAMETER = "parameter"
    ARITHMETIC = "arithmetic"
    DOCUMENT = "here-document"
    COMMENT = "comment"


@dataclass(frozen=True, slots=True)
class HereDocument:
    """A here-document whose body has not started; `pipeline` is the one that contains its redirection."""

    delimiter: str
    is_quoted: bool
    strips_tabs: bool
    pipeline: Pipeline


@dataclass(slots=True)
class Compound:
    """An open compound command such as `while` or `{`: the enclosing pipeline, and the number of expressions before it."""

    outer: Pipeline
    used_before: int
    #: A command inside it that runs its input as code.
    reader: str | None = None


@dataclass(slots=True, eq=False)
class Frame:
    """One level of quoting or substitution, ended by `closer`. The comments say which kinds use the other fields."""

    kind: FrameKind
    closer: str = ""
    outer: InitVar[Frame | None] = None
    #: The innermost commands that contain the frame, or the frame itself.
    commands: Frame = field(init=False)
    #: The frame whose word is being read; None in the body of a here-document, which is not part of a word.
    word_owner: Frame | None = field(init=False)
    #: Whether it was opened inside a subscript: `a["...` or `a[$(...`.
    is_in_subscript: bool = False

    #: Commands: the current pipeline and word, and every expression so far.
    pipeline: Pipeline = field(default_factory=Pipeline)
    word: Word | None = None
    is_here_string: bool = False
    is_redirect: bool = False
    #: Commands: whether the current word is the target of `>&` or `<&`.
    is_duplication: bool = False
    used: list[EmbeddedExpression] = field(default_factory=list)
    #: Commands: `subject`, `pattern` or `body` for each open `case`.
    cases: list[str] = field(default_factory=list)
    #: Commands: the open compound commands, `case` included.
    compounds: list[Compound] = field(default_factory=list)
    #: Commands: whether the next word is the function name that follows `function`.
    is_function_name: bool = False

    #: Parameter: whether the current part is evaluated as arithmetic, and whether single quotes are special in it.
    is_calculated: bool = False
    is_quoting: bool = True

    #: Arithmetic: open parentheses inside.
    depth: int = 0

    #: Here-document: where the body ends, and where the script continues after the delimiter.
    end: int = 0
    resume: int = 0

    #: Commands and here-document: a command that runs the input as code.
    reader: str | None = None

    def __post_init__(self, outer: Frame | None) -> None:
        is_commands = self.kind is FrameKind.COMMANDS or outer is None
        self.commands = self if is_commands or outer is None else outer.commands
        self.word_owner = self if is_commands or outer is None else outer.word_owner
        if self.kind is FrameKind.DOCUMENT:
            self.word_owner = None

    @property
    def command(self) -> Command:
        """The current command."""
        return self.pipeline.commands[-1]

    @property
    def is_in_pattern(self) -> bool:
        """Whether the scanner is in a pattern of `case`."""
        return bool(self.cases) and self.cases[-1] == "pattern"

    @property
    def is_test(self) -> bool:
        """Whether a `[[` is open: `&&`, `(`, `<` and a newline do not end the command there."""
        words = self.command.words
        last = self.word or words[-1] if words else None
        return last is not None and words[0].text == "[[" and last.text != "]]"

    def open_word(self) -> Word:
        """Return the current word; start one if there is none."""
        if self.word is None:
            self.word = Word()
        return self.word

    def add(self, text: str) -> None:
        """Append text to the current word."""
        word = self.open_word()
        if len(word.text) < _WORD_CHARACTERS_MAX:
            word.text += text[:_WORD_CHARACTERS_MAX]

    def end_word(self) -> None:
        """End the current word, if any."""
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
        """Handle a reserved word; return whether the word was one."""
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
        """Return to the enclosing pipeline, in which the compound command counts as one command."""
        if not self.compounds or len(self.pipeline.commands) > 1:
            return False
        compound = self.compounds.pop()
        self.pipeline = compound.outer
        self.command.words.append(Word(text, self.used[compound.used_before :]))
        self.command.reader = compound.reader
        return True

    def note_reader(self, reader: str) -> None:
        """Record that the innermost compound command, or the frame, contains a command that runs its input as code."""
        if self.compounds:
            self.compounds[-1].reader = reader
        else:
            self.reader = reader

    def end_command(self) -> None:
        """End the current command of a pipeline at `|`."""
        self.end_word()
        self.is_redirect = self.is_here_string = self.is_duplication = False
        self.pipeline.commands.append(Command())

    def end_pipeline(self) -> Pipeline:
        """End the current pipeline and return it."""
        self.end_word()
        self.is_redirect = self.is_here_string = self.is_duplication = self.is_function_name = False
        pipeline, self.pipeline = self.pipeline, Pipeline()
        return pipeline
