"""Where in a bash or sh script each expression stands, and which reference fits there.

A stack of frames follows the script's quoting: commands (also inside `$( )`, `( )` and backticks), single, double and
ANSI quotes, `${ }`, arithmetic, comments, bodies of here-documents. The frame on top decides the reference:

| frame | reference |
|---|---|
| commands, double quotes, `${x:-...}`, open here-document, comment | `${NAME}` |
| single quotes | `'"${NAME}"'` |
| `$'...'` | `'"${NAME}"$'` |
| arithmetic, quoted here-document, names and subscripts, behind `$` or `\\` | none: a finding |

The scanner need not be a perfect shell parser to be safe: each reference has balanced quotes and never holds the value, so
in a place that was judged wrongly it yields wrong text, not code. What has to be found reliably are the places where the
shell or a command evaluates a value again; they are findings.

The scan goes over a copy of the script in which expressions are blanked, so that their text is never taken for shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from waterflowd.expr.shellcommands import (
    CALCULATED,
    EVALUATED,
    VALUE,
    Command,
    Finding,
    Pipeline,
    Word,
    findings,
    pipeline_reads_code,
)
from waterflowd.expr.template import Placed

BARE = "${%s}"
IN_SINGLE_QUOTES = "'\"${%s}\"'"
IN_ANSI_QUOTES = "'\"${%s}\"$'"

_BLANK = "X"

_PARAMETER = re.compile(r"\$\{[!#]?(?:[A-Za-z_]\w*|[0-9]+|[@*#?$!-])(?:\[[^\]]*\])?")
_WORD_OPERATOR = re.compile(r":?[-=+?]|##?|%%?|//?|\^\^?|,,?|@")
_HERE_DOCUMENT = re.compile(r"<<(-?)[ \t]*((?:[^\s;&|<>()'\"\\]|\\.|'[^']*'|\"[^\"]*\")+)")
_SUBSCRIPT = re.compile(r"[A-Za-z_]\w*\[[^\]]*")
_DEFINITION = re.compile(r"\([ \t]*\)")
_COMPOUND_ENDS = frozenset({"done", "fi", "}"})
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "time", "coproc"})

_BEHIND_DOLLAR = "a name behind `$`"
_BEHIND_BACKSLASH = "the character behind a backslash"
_DELIMITER = "the delimiter of a here-document"
_QUOTED_DOCUMENT = "a here-document with a quoted delimiter, in which nothing is replaced"
_PARAMETER_NAME = "the name, the subscript or the offset of `${ }`, in which bash runs the commands of a subscript"


class _Kind(Enum):
    COMMANDS = "commands"
    SINGLE = "single quotes"
    DOUBLE = "double quotes"
    ANSI = "ansi quotes"
    PARAMETER = "parameter"
    ARITHMETIC = "arithmetic"
    DOCUMENT = "here-document"
    COMMENT = "comment"


@dataclass(slots=True)
class _Frame:
    """One level of quoting. `closer` ends it; the rest is for one kind alone, as named."""

    kind: _Kind
    closer: str = ""
    #: Commands: what has been read of them; `cases` has one state for each open `case`.
    pipeline: Pipeline = field(default_factory=Pipeline)
    word: Word | None = None
    is_here_string: bool = False
    is_redirect: bool = False
    cases: list[str] = field(default_factory=list)
    used: list[Placed] = field(default_factory=list)
    #: Parameter: whether the part that is read now is calculated, and whether a single quote quotes in it.
    is_calculated: bool = False
    is_quoting: bool = True
    #: Arithmetic: open parentheses inside.
    depth: int = 0
    #: Here-document: where it ends, where the script goes on, and who reads it.
    end: int = 0
    resume: int = 0


@dataclass(frozen=True, slots=True)
class _Document:
    delimiter: str
    is_quoted: bool
    strips_tabs: bool
    reader: Pipeline


class Scanner:
    """One scan; afterwards `references` has a pattern by the start of each expression, `findings` the unsafe ones."""

    def __init__(self, text: str, expressions: Iterable[Placed], constants: frozenset[int]) -> None:
        self._placed = {placed.start: placed for placed in expressions}
        self._constants = constants
        self._text = _blanked(text, self._placed.values())
        self._stack = [_Frame(_Kind.COMMANDS)]
        self._documents: list[_Document] = []
        self._found: dict[int, Finding] = {}
        self.references: dict[int, str] = {}

    @property
    def findings(self) -> list[Finding]:
        """The expressions that have no safe reference, each with a name for its place, in the order of the script."""
        return [self._found[start] for start in sorted(self._found)]

    def scan(self) -> None:
        """Read the whole script."""
        position, length = 0, len(self._text)
        while position < length:
            frame = self._stack[-1]
            document = self._document_at(position)
            if document is not None:
                position = self._end_document(document)
            elif placed := self._placed.get(position):
                self._expression(placed, frame)
                position = placed.end
            else:
                position = _READERS[frame.kind](self, position, frame)
        while self._stack:
            frame = self._stack[-1]
            if frame.kind is _Kind.COMMANDS:
                self._end_pipeline(frame)
            self._pop()

    # Expressions

    def _expression(self, placed: Placed, frame: _Frame) -> None:
        self.references[placed.start] = BARE
        if frame.kind is _Kind.SINGLE:
            self.references[placed.start] = IN_SINGLE_QUOTES
        elif frame.kind is _Kind.ANSI:
            self.references[placed.start] = IN_ANSI_QUOTES
        if frame.kind is _Kind.COMMENT:
            return
        if any(outer.kind is _Kind.ARITHMETIC for outer in self._stack):
            self._find(placed, CALCULATED)
        if any(outer.kind is _Kind.PARAMETER and outer.is_calculated for outer in self._stack):
            self._find(placed, _PARAMETER_NAME)
        commands = self._commands
        commands.used.append(placed)
        if frame.kind is _Kind.DOCUMENT or any(outer.kind is _Kind.DOCUMENT for outer in self._stack):
            reader = self._reader
            if reader is not None:
                self._find(placed, EVALUATED.format(reader))
        if frame.kind is _Kind.COMMANDS:
            word = commands.word.text if commands.word else ""
            if _SUBSCRIPT.fullmatch(word) or (word == "[" and commands.closer == ")"):
                self._find(placed, CALCULATED)
        if any(outer is commands for outer in self._stack[self._innermost_document :]):
            self._word(commands).placed.append(placed)
            self._word(commands).text += VALUE

    def _find(self, placed: Placed, place: str) -> None:
        if placed.start not in self._constants:
            self._found.setdefault(placed.start, (placed, place))

    def _find_within(self, start: int, end: int, place: str) -> None:
        for placed in self._placed.values():
            if start <= placed.start < end:
                self._find(placed, place)

    # Frames

    @property
    def _commands(self) -> _Frame:
        return next(frame for frame in reversed(self._stack) if frame.kind is _Kind.COMMANDS)

    @property
    def _innermost_document(self) -> int:
        positions = [number for number, frame in enumerate(self._stack) if frame.kind is _Kind.DOCUMENT]
        return positions[-1] if positions else 0

    @property
    def _reader(self) -> str | None:
        for frame in self._stack:
            if frame.kind is _Kind.DOCUMENT and (name := pipeline_reads_code(frame.pipeline)):
                return name
        return None

    @property
    def _in_backticks(self) -> bool:
        return any(frame.closer == "`" for frame in self._stack)

    def _push(self, kind: _Kind, closer: str = "") -> _Frame:
        frame = _Frame(kind, closer)
        self._stack.append(frame)
        return frame

    def _pop(self) -> None:
        """Leave a frame; what a substitution used is part of the word around it."""
        frame = self._stack.pop()
        if not self._stack or frame.kind is not _Kind.COMMANDS or frame.closer == "":
            return
        outer = self._commands
        outer.used.extend(frame.used)
        if frame.used:
            self._word(outer).placed.extend(frame.used)

    def _close_commands(self, frame: _Frame) -> None:
        self._end_pipeline(frame)
        self._pop()

    def _close_backticks(self) -> None:
        while True:
            frame = self._stack[-1]
            if frame.kind is _Kind.COMMANDS:
                self._end_pipeline(frame)
            self._pop()
            if frame.closer == "`":
                return

    # Words and commands

    def _word(self, frame: _Frame) -> Word:
        if frame.word is None:
            frame.word = Word()
        return frame.word

    def _end_word(self, frame: _Frame) -> None:
        word, frame.word = frame.word, None
        if word is None:
            return
        command = frame.pipeline.commands[-1]
        if frame.is_redirect:
            frame.is_redirect = False
            if word.is_process:
                command.here_string = word
            return
        if frame.is_here_string:
            frame.is_here_string = False
            command.here_string = word
            return
        if self._end_keyword(frame, command, word.text):
            return
        command.words.append(word)

    def _end_keyword(self, frame: _Frame, command: Command, text: str) -> bool:
        """Handle a word that is syntax rather than part of a command; return whether it was."""
        state = frame.cases[-1] if frame.cases else None
        if state == "subject":
            if text == "in" and command.words:
                frame.cases[-1] = "pattern"
                command.words.clear()
                return True
            return False
        if text == "esac" and state is not None and not command.words:
            frame.cases.pop()
            return True
        if command.words or state == "pattern":
            return False
        if text == "case":
            frame.cases.append("subject")
            return True
        return text in _KEYWORDS

    def _end_command(self, frame: _Frame) -> None:
        self._end_word(frame)
        frame.is_redirect = frame.is_here_string = False
        frame.pipeline.commands.append(Command())

    def _end_pipeline(self, frame: _Frame) -> None:
        self._end_word(frame)
        frame.is_redirect = frame.is_here_string = False
        for placed, place in findings(frame.pipeline):
            self._find(placed, place)
        first = frame.pipeline.commands[0].words
        if first and first[0].text in _COMPOUND_ENDS and (reader := pipeline_reads_code(frame.pipeline)):
            for placed in frame.used:
                self._find(placed, EVALUATED.format(reader))
        frame.pipeline = Pipeline()

    # Readers: one for each kind of frame; each reads at least one character and returns the next position.

    def _read_commands(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character in " \t":
            self._end_word(frame)
            return position + 1
        if character == "#" and frame.word is None:
            self._push(_Kind.COMMENT)
            return position + 1
        if character in ";&|()<>\n" and _is_test(frame):
            self._end_word(frame)
            return position + 1
        if character == "\n":
            return self._read_newline(position, frame)
        if character in ";&|":
            return self._read_separator(position, frame)
        if character in "<>":
            return self._read_redirect(position, frame)
        if character in "()":
            return self._read_parenthesis(position, frame)
        if character in "'\"":
            self._word(frame)
            self._push(_Kind.SINGLE if character == "'" else _Kind.DOUBLE, character)
            return position + 1
        if character in "\\$`":
            return self._read_special(position, frame)
        self._word(frame).text += character
        return position + 1

    def _read_newline(self, position: int, frame: _Frame) -> int:
        documents, self._documents = self._documents, []
        self._end_word(frame)
        is_waiting = not frame.pipeline.commands[-1].words and len(frame.pipeline.commands) > 1
        if not is_waiting:
            self._end_pipeline(frame)
        return self._start_document(position + 1, documents)

    def _read_separator(self, position: int, frame: _Frame) -> int:
        pair = self._text[position : position + 2]
        if pair in ("&>", ">&"):
            return self._read_redirect(position, frame)
        if pair in ("||", "&&"):
            self._end_pipeline(frame)
            return position + 2
        if self._text[position] == "|" and not (frame.cases and frame.cases[-1] == "pattern"):
            self._end_command(frame)
            return position + (2 if pair == "|&" else 1)
        self._end_pipeline(frame)
        if pair in (";;", ";&"):
            if frame.cases:
                frame.cases[-1] = "pattern"
            return position + (3 if self._text.startswith(";;&", position) else 2)
        return position + 1

    def _read_redirect(self, position: int, frame: _Frame) -> int:
        if frame.word is not None and frame.word.text.isdigit():
            frame.word = None
        self._end_word(frame)
        if self._text.startswith("<<<", position):
            frame.is_here_string = True
            return position + 3
        if found := _HERE_DOCUMENT.match(self._text, position):
            self._find_within(position, found.end(), _DELIMITER)
            raw = found.group(2)
            delimiter = re.sub(r"\\(.)|['\"]", r"\1", raw)
            is_quoted = any(character in raw for character in "'\"\\")
            self._documents.append(_Document(delimiter, is_quoted, bool(found.group(1)), frame.pipeline))
            return found.end()
        if self._text[position : position + 2] in ("<(", ">("):
            self._word(frame).is_process = True
            self._push(_Kind.COMMANDS, ")")
            return position + 2
        frame.is_redirect = True
        length = 1
        while self._text[position + length : position + length + 1] in ("<", ">", "&", "|") and length < 3:
            length += 1
        return position + length

    def _read_parenthesis(self, position: int, frame: _Frame) -> int:
        if self._text[position] == ")":
            self._end_word(frame)
            if frame.cases and frame.cases[-1] == "pattern":
                frame.pipeline = Pipeline()
                frame.cases[-1] = "body"
            elif frame.closer == ")":
                self._close_commands(frame)
            else:
                self._end_pipeline(frame)
            return position + 1
        if frame.cases and frame.cases[-1] == "pattern" and frame.word is None:
            return position + 1
        if definition := _DEFINITION.match(self._text, position):
            frame.word = None
            frame.pipeline = Pipeline()
            return definition.end()
        words = frame.pipeline.commands[-1].words
        starts = not words or [word.text for word in words] == ["for"]
        if self._text.startswith("((", position) and frame.word is None and starts:
            self._push(_Kind.ARITHMETIC, "))")
            return position + 2
        self._push(_Kind.COMMANDS, ")")
        return position + 1

    def _read_special(self, position: int, frame: _Frame) -> int:
        """Read a backslash, a dollar or a backtick, which mean nearly the same wherever they mean something."""
        character = self._text[position]
        in_commands = frame.kind is _Kind.COMMANDS
        word = self._word(frame) if in_commands else None
        if character == "`":
            if self._in_backticks:
                self._close_backticks()
            else:
                self._push(_Kind.COMMANDS, "`")
            return position + 1
        if character == "\\":
            if placed := self._placed.get(position + 1):
                self._find(placed, _BEHIND_BACKSLASH)
                return position + 1
            if word is not None and self._text[position + 1 : position + 2] != "\n":
                word.text += self._text[position + 1 : position + 2]
            return position + 2
        if placed := self._placed.get(position + 1):
            self._find(placed, _BEHIND_DOLLAR)
            return position + 1
        return self._read_dollar(position, frame)

    def _read_dollar(self, position: int, frame: _Frame) -> int:
        text = self._text
        is_unquoted = frame.kind is _Kind.COMMANDS or (frame.kind is _Kind.PARAMETER and frame.is_quoting)
        if text.startswith("$((", position):
            self._push(_Kind.ARITHMETIC, "))")
            return position + 3
        if text.startswith("$[", position):
            self._push(_Kind.ARITHMETIC, "]")
            return position + 2
        if text.startswith("$(", position):
            self._push(_Kind.COMMANDS, ")")
            return position + 2
        if text.startswith("${", position):
            return self._read_parameter_start(position, frame)
        if is_unquoted and text.startswith(("$'", '$"'), position):
            self._push(_Kind.ANSI if text[position + 1] == "'" else _Kind.DOUBLE, text[position + 1])
            return position + 2
        if frame.kind is _Kind.COMMANDS:
            self._word(frame).text += "$"
        return position + (2 if text.startswith("$$", position) else 1)

    def _read_parameter_start(self, position: int, outer: _Frame) -> int:
        found = _PARAMETER.match(self._text, position)
        end = found.end() if found else position + 2
        self._find_within(position, end, _PARAMETER_NAME)
        frame = self._push(_Kind.PARAMETER, "}")
        operator = _WORD_OPERATOR.match(self._text, end)
        frame.is_calculated = operator is None
        is_inside_quotes = outer.kind in (_Kind.DOUBLE, _Kind.DOCUMENT) or (
            outer.kind is _Kind.PARAMETER and not outer.is_quoting
        )
        frame.is_quoting = not is_inside_quotes or (operator is not None and operator.group()[0] in "#%/^,")
        return operator.end() if operator else end

    def _read_single(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character == "'":
            self._pop()
        elif character == "`" and self._in_backticks:
            self._close_backticks()
        elif character == "\\" and self._in_backticks and self._text.startswith("\\`", position):
            return position + 2
        else:
            self._add_text(character)
        return position + 1

    def _read_ansi(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character == "'":
            self._pop()
        elif character == "\\":
            return self._read_special(position, frame)
        else:
            self._add_text(character)
        return position + 1

    def _read_double(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character == '"':
            self._pop()
        elif character in "\\$`":
            return self._read_special(position, frame)
        else:
            self._add_text(character)
        return position + 1

    def _read_parameter(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character == "}":
            self._pop()
        elif character == "'" and frame.is_quoting:
            self._push(_Kind.SINGLE, "'")
        elif character == '"':
            self._push(_Kind.DOUBLE, '"')
        elif character in "\\$`":
            return self._read_special(position, frame)
        return position + 1

    def _read_arithmetic(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if frame.closer == "]":
            if character == "]":
                self._pop()
                return position + 1
        elif character == "(":
            frame.depth += 1
        elif character == ")" and frame.depth:
            frame.depth -= 1
        elif character == ")":
            self._pop()
            if self._text.startswith("))", position):
                return position + 2
            # It was a subshell in a subshell after all: the outer one is still open.
            self._push(_Kind.COMMANDS, ")")
            return position + 1
        if character in "\\$`":
            return self._read_special(position, frame)
        return position + 1

    def _read_document(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        return self._read_special(position, frame) if character in "\\$`" else position + 1

    def _read_comment(self, position: int, frame: _Frame) -> int:
        character = self._text[position]
        if character == "\n" or (character == "`" and self._in_backticks):
            self._pop()
            return position
        return position + 1

    def _add_text(self, character: str) -> None:
        """Add a quoted character to the word that the quotes are part of."""
        if not any(frame.kind is _Kind.DOCUMENT for frame in self._stack[self._stack.index(self._commands) :]):
            self._word(self._commands).text += character

    # Here-documents

    def _start_document(self, position: int, documents: list[_Document]) -> int:
        """Enter the first of the bodies that start at `position`; those with a quoted delimiter are passed over."""
        for number, document in enumerate(documents):
            end, resume = self._body(position, document)
            if document.is_quoted:
                self._find_within(position, end, _QUOTED_DOCUMENT)
                position = resume
                continue
            frame = self._push(_Kind.DOCUMENT)
            frame.pipeline, frame.end, frame.resume = document.reader, end, resume
            self._documents = documents[number + 1 :]
            return position
        return position

    def _body(self, position: int, document: _Document) -> tuple[int, int]:
        """Return where the body that starts at `position` ends and where the script goes on."""
        length = len(self._text)
        while position < length:
            end = self._text.find("\n", position)
            end = length if end < 0 else end
            line = self._text[position:end]
            if (line.lstrip("\t") if document.strips_tabs else line) == document.delimiter:
                return position, min(end + 1, length)
            position = end + 1
        return length, length

    def _document_at(self, position: int) -> _Frame | None:
        """Return the here-document that ends here, however much inside it is still open."""
        for frame in self._stack:
            if frame.kind is _Kind.DOCUMENT and position >= frame.end:
                return frame
        return None

    def _end_document(self, document: _Frame) -> int:
        while self._stack[-1] is not document:
            if self._stack[-1].kind is _Kind.COMMANDS:
                self._end_pipeline(self._stack[-1])
            self._pop()
        self._stack.pop()
        documents, self._documents = self._documents, []
        return self._start_document(document.resume, documents)


_READERS = {
    _Kind.COMMANDS: Scanner._read_commands,
    _Kind.SINGLE: Scanner._read_single,
    _Kind.DOUBLE: Scanner._read_double,
    _Kind.ANSI: Scanner._read_ansi,
    _Kind.PARAMETER: Scanner._read_parameter,
    _Kind.ARITHMETIC: Scanner._read_arithmetic,
    _Kind.DOCUMENT: Scanner._read_document,
    _Kind.COMMENT: Scanner._read_comment,
}


def _is_test(frame: _Frame) -> bool:
    """Return whether a `[[` is open, in which `&&`, `(`, `<` and a line break do not end the command."""
    words = frame.pipeline.commands[-1].words
    last = frame.word or words[-1] if words else None
    return last is not None and words[0].text == "[[" and last.text != "]]"


def _blanked(text: str, expressions: Iterable[Placed]) -> str:
    """Return the text with each expression replaced by as many plain letters."""
    pieces: list[str] = []
    position = 0
    for placed in sorted(expressions, key=lambda placed: placed.start):
        pieces += [text[position : placed.start], _BLANK * (placed.end - placed.start)]
        position = placed.end
    return "".join([*pieces, text[position:]])
