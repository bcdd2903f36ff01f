"""Find the context of each expression in a bash or sh script, and a reference that is safe there.

A stack of frames follows the quoting: commands (also inside `$( )`, `( )` and backticks), single, double and ANSI
quotes, `${ }`, arithmetic, comments and here-documents. The innermost frame determines the reference:

| frame | reference |
|---|---|
| arguments of `[`, `test`, `ssh`, `tar` and the like, the first argument of `printf` | `${NAME:+"${NAME}"}` |
| other commands, double quotes, `${x:-...}`, unquoted here-document, comment | `${NAME}` |
| single quotes | `'"${NAME}"'` |
| `$'...'` | `'"${NAME}"$'` |
| arithmetic, quoted here-document, names and subscripts, after `$` or a backslash | none: the use is unsafe |

The scanner is safe without being a complete shell parser: each reference has balanced quotes and never contains the
value, so a misjudged context yields wrong text, not code. What it must find reliably are the places where the shell or
a command evaluates the value again (shell/commands.py); these uses are reported as unsafe.

The scan works on a copy of the script in which expressions are blanked out, so that their text is never parsed as shell.
The stack is bounded, and no reader looks further than it consumes, so the time is linear in the length of the script.

Why not tree-sitter-bash: it parses faster, but it is less safe. ARCHITECTURE.md ("Why the shell scanner is our own") has the
comparison.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property

from waterflowd.expr.errors import BOUND, ExpressionError
from waterflowd.expr.shell.commands import ARITHMETIC, pipeline_reads_code, reads_options_as_code, unsafe_uses
from waterflowd.expr.shell.frames import Compound, Frame, FrameKind, HereDocument
from waterflowd.expr.shell.invocations import EVALUATED
from waterflowd.expr.shell.variables import variables_of
from waterflowd.expr.shell.words import LIST, SUBSTITUTION, VALUE, UnsafeUse
from waterflowd.expr.template import EmbeddedExpression

BARE = "${{{0}}}"
#: An empty value is no argument, as it is where it is not quoted.
QUOTED = '${{{0}:+"${{{0}}}"}}'
IN_SINGLE_QUOTES = "'\"${{{0}}}\"'"
IN_ANSI_QUOTES = "'\"${{{0}}}\"$'"

#: Nested quotes, substitutions and compound commands; real scripts have about five.
NESTING_MAX = 100

#: Replaces expressions: a character without meaning in a shell that YAML does not allow.
_BLANK = "\x01"

#: Runs of characters without special meaning in a frame.
_PLAIN = {
    FrameKind.COMMANDS: re.compile(r"[^\s;&|()<>'\"\\$`#\x01]+"),
    FrameKind.SINGLE: re.compile(r"[^'\\`\x01]+"),
    FrameKind.DOUBLE: re.compile(r"[^\"\\$`\x01]+"),
    FrameKind.ANSI: re.compile(r"[^'\\\x01]+"),
    FrameKind.PARAMETER: re.compile(r"[^}'\"\\$`\x01]+"),
    FrameKind.ARITHMETIC: re.compile(r"[^()\]\\$`\x01]+"),
    FrameKind.DOCUMENT: re.compile(r"[^\\$`\x01]+"),
    FrameKind.COMMENT: re.compile(r"[^\n\\`\x01]+"),
}
_IN_WORDS = frozenset({FrameKind.COMMANDS, FrameKind.SINGLE, FrameKind.DOUBLE, FrameKind.ANSI})

_PARAMETER = re.compile(r"\$\{[!#]?(?:[A-Za-z_]\w*|[0-9]+|[@*#?$!-])(?:\[[^\]\n]{0,200}\])?")
_NAMED_PARAMETER = re.compile(r"\$\{([A-Za-z_]\w*)")
_WORD_OPERATOR = re.compile(r":?[-=+?]|##?|%%?|//?|\^\^?|,,?|@")
_HERE_DOCUMENT = re.compile(r"<<(-?)[ \t]*((?:[^\s;&|<>()'\"\\]|\\.|'[^']*'|\"[^\"]*\")+)")
_REDIRECTION = re.compile(r"[<>][<>&|]{0,2}|&>>?")
_DEFINITION = re.compile(r"\([ \t]*\)")
_SUBSCRIPT = re.compile(r"\{?[A-Za-z_]\w*\[[^\]]*")
#: A backtick with its preceding backslashes: up to seven nested substitutions.
_BACKTICK = re.compile(r"\\{0,127}`")

_AFTER_DOLLAR = "a name after `$`"
_AFTER_BACKSLASH = "the character after a backslash"
_DUPLICATION = "the target of `>&` or `<&`, which bash expands twice; use `&>` or `>`"
_DELIMITER = "the delimiter of a here-document"
_QUOTED_DOCUMENT = "a here-document with a quoted delimiter, where nothing is expanded"
_UNQUOTED = (
    "an unquoted substitution, which the command may take for an option that runs commands, such as `-v` of `[`;"
    " put it in double quotes"
)
_PARAMETER_NAME = "the name, subscript or offset of `${ }`, where bash runs commands in a subscript"


class Scanner:
    """One scan; afterwards `references` maps the start of each expression to a pattern, and `unsafe_uses` has the unsafe ones.

    `constants` are the starts of the expressions that will be pasted, which is safe anywhere.
    """

    def __init__(self, text: str, expressions: Iterable[EmbeddedExpression], constants: frozenset[int]) -> None:
        self._expressions = {
            expression.start: expression for expression in sorted(expressions, key=lambda expression: expression.start)
        }
        self._starts = list(self._expressions)
        self._constants = constants
        self._text = _blanked(text, self._expressions.values())
        self._stack = [Frame(FrameKind.COMMANDS)]
        #: For each open here-document, where the first of it and those around it ends.
        self._document_ends: list[int] = []
        self._backtick_depth = 0
        self._announced: list[HereDocument] = []
        self._found: dict[int, UnsafeUse] = {}
        self._position = 0
        self._variables = variables_of(text)
        self.references: dict[int, str] = {}

    @property
    def unsafe_uses(self) -> list[UnsafeUse]:
        """The expressions without a safe reference and where they are, in the order of the script."""
        return [self._found[start] for start in sorted(self._found)]

    def scan(self) -> None:
        """Read the whole script; raises ExpressionError when it is nested too deeply."""
        while self._position < len(self._text):
            position, frame = self._position, self._stack[-1]
            if document := self._document_that_ends(position):
                self._position = self._end_document(document)
            elif expression := self._expressions.get(position):
                self._expression(expression, frame)
                self._position = expression.end
            elif plain := _PLAIN[frame.kind].match(self._text, position, self._limit(frame)):
                if frame.kind in _IN_WORDS:
                    self._add_to_word(plain.group())
                self._position = plain.end()
            else:
                self._position = _READERS[frame.kind](self, position, frame)
        while self._stack:
            self._pop()

    # Expressions

    def _expression(self, expression: EmbeddedExpression, frame: Frame) -> None:
        self.references[expression.start] = self._reference(frame)
        if frame.kind is FrameKind.COMMENT:
            return
        for outer in self._stack:
            if outer.kind is FrameKind.ARITHMETIC:
                self._report(expression, ARITHMETIC)
            elif outer.kind is FrameKind.PARAMETER and outer.is_calculated:
                self._report(expression, _PARAMETER_NAME)
            elif outer.kind is FrameKind.DOCUMENT:
                outer.pipeline.here_documents.append(expression)
                if outer.reader:
                    self._report(expression, EVALUATED.format(outer.reader))
            if outer.is_in_subscript:
                self._report(expression, ARITHMETIC)
            if outer.is_duplication:
                self._report(expression, _DUPLICATION)
        if self._is_at_subscript(frame):
            self._report(expression, ARITHMETIC)
        self._commands.used.append(expression)
        if commands := frame.word_owner:
            commands.open_word().expressions.append(expression)
            commands.add(VALUE)

    @staticmethod
    def _is_at_subscript(frame: Frame) -> bool:
        """Return whether the current word is an unfinished subscript: `a[`, or `[` in an array literal."""
        if frame.kind is not FrameKind.COMMANDS or frame.word is None:
            return False
        word = frame.word.text
        return _SUBSCRIPT.fullmatch(word) is not None or (word == "[" and frame.closer == ")")

    def _reference(self, frame: Frame) -> str:
        if frame.kind is FrameKind.SINGLE:
            return IN_SINGLE_QUOTES
        if frame.kind is FrameKind.ANSI:
            return IN_ANSI_QUOTES
        is_split = frame.kind is FrameKind.COMMANDS or (frame.kind is FrameKind.PARAMETER and frame.is_quoting)
        return QUOTED if is_split and reads_options_as_code(self._commands.command) else BARE

    def _report(self, expression: EmbeddedExpression, location: str) -> None:
        if expression.start not in self._constants:
            self._found.setdefault(expression.start, (expression, location))

    def _report_within(self, start: int, end: int, location: str) -> None:
        for number in range(bisect_left(self._starts, start), bisect_left(self._starts, end)):
            self._report(self._expressions[self._starts[number]], location)

    # Frames

    @property
    def _commands(self) -> Frame:
        return self._stack[-1].commands

    def _add_to_word(self, text: str) -> None:
        if owner := self._stack[-1].word_owner:
            owner.add(text)

    def _limit(self, frame: Frame) -> int:
        return frame.end if frame.kind is FrameKind.DOCUMENT else len(self._text)

    def _check_nesting(self, levels: list[Frame] | list[Compound]) -> None:
        if len(levels) > NESTING_MAX:
            text = f"quotes, substitutions and compound commands of a script may nest {NESTING_MAX} levels deep"
            raise ExpressionError(BOUND, text, self._position)

    def _push(self, kind: FrameKind, closer: str = "") -> Frame:
        self._check_nesting(self._stack)
        outer = self._stack[-1] if self._stack else None
        frame = Frame(kind, closer, outer, is_in_subscript=outer is not None and self._is_at_subscript(outer))
        self._stack.append(frame)
        self._backtick_depth += closer == "`"
        return frame

    def _pop(self) -> None:
        """Leave a frame; the expressions in a substitution are part of the word around it."""
        frame = self._stack.pop()
        self._backtick_depth -= frame.closer == "`"
        if frame.kind is FrameKind.DOCUMENT:
            self._document_ends.pop()
        if frame.kind is not FrameKind.COMMANDS:
            return
        self._end_pipeline(frame)
        while frame.compounds:
            # Unclosed, so bash would not run it; a misread script might still be valid, so check it nevertheless.
            frame.pipeline = frame.compounds.pop().outer
            self._end_pipeline(frame)
        if not self._stack:
            return
        if frame.reader:
            self._commands.command.reader = frame.reader
        if frame.used:
            self._commands.used.extend(frame.used)
            if self._stack[-1].kind is FrameKind.COMMANDS and reads_options_as_code(self._stack[-1].command):
                for expression in frame.used:
                    self._report(expression, _UNQUOTED)
            if owner := self._stack[-1].word_owner:
                owner.open_word().expressions.extend(frame.used)

    def _end_pipeline(self, frame: Frame) -> None:
        """Record the unsafe uses of a pipeline, and whether it would run input from outside as code."""
        pipeline = frame.end_pipeline()
        for expression, location in unsafe_uses(pipeline, self._variables):
            self._report(expression, location)
        if not pipeline.commands[0].has_input and (reader := pipeline_reads_code(pipeline, self._variables)):
            frame.note_reader(reader)

    # Readers of a COMMANDS frame: each consumes at least one character and returns the next position.

    def _read_commands(self, position: int, frame: Frame) -> int:
        self._check_nesting(frame.compounds)
        character = self._text[position]
        if character in " \t" or (character in ";&|()<>\n" and frame.is_test):
            frame.end_word()
            return position + 1
        if character == "\n":
            return self._read_line_end(position, frame)
        if character == "#" and frame.word is None:
            self._push(FrameKind.COMMENT)
            return position + 1
        if character in "<>" or self._text.startswith("&>", position):
            return self._read_redirection(position, frame)
        if character in ";&|":
            return self._read_separator(position, frame)
        if character == "(":
            return self._read_opening(position, frame)
        if character == ")":
            return self._read_closing(position, frame)
        if character in "'\"":
            frame.open_word()
            self._push(FrameKind.SINGLE if character == "'" else FrameKind.DOUBLE, character)
            return position + 1
        if character in "\\$`":
            frame.open_word()
            return self._read_special(position, frame)
        frame.add(character)
        return position + 1

    def _read_line_end(self, position: int, frame: Frame) -> int:
        frame.end_word()
        is_behind_pipe = not frame.command.words and len(frame.pipeline.commands) > 1
        if not is_behind_pipe:
            self._end_pipeline(frame)
        return self._start_document(position + 1)

    def _read_separator(self, position: int, frame: Frame) -> int:
        pair = self._text[position : position + 2]
        if pair in ("||", "&&"):
            self._end_pipeline(frame)
            return position + 2
        if pair[0] == "|":
            if frame.is_in_pattern:
                frame.end_word()
            else:
                frame.end_command()
            return position + (2 if pair == "|&" else 1)
        self._end_pipeline(frame)
        if pair not in (";;", ";&"):
            return position + 1
        if frame.cases:
            frame.cases[-1] = "pattern"
        return position + (3 if self._text.startswith(";;&", position) else 2)

    def _read_redirection(self, position: int, frame: Frame) -> int:
        if frame.word is not None and frame.word.text.isdigit():
            frame.word = None
        if self._text.startswith(("<(", ">("), position):
            frame.open_word().is_process = True
            self._push(FrameKind.COMMANDS, ")")
            return position + 2
        frame.end_word()
        frame.command.has_input |= self._text[position] == "<"
        if self._text.startswith("<<<", position):
            frame.is_here_string = True
            return position + 3
        if found := _HERE_DOCUMENT.match(self._text, position):
            self._report_within(position, found.end(), _DELIMITER)
            raw = found.group(2)
            is_quoted = any(character in raw for character in "'\"\\")
            delimiter = re.sub(r"\\(.)|['\"]", lambda match: match.group(1) or "", raw)
            self._announced.append(HereDocument(delimiter, is_quoted, bool(found.group(1)), frame.pipeline))
            return found.end()
        frame.is_redirect = True
        frame.is_duplication = self._text.startswith((">&", "<&"), position)
        redirection = _REDIRECTION.match(self._text, position)
        return redirection.end() if redirection else position + 1

    def _read_opening(self, position: int, frame: Frame) -> int:
        if frame.is_in_pattern and frame.word is None:
            return position + 1
        if definition := _DEFINITION.match(self._text, position):
            frame.word = None
            self._end_pipeline(frame)
            return definition.end()
        words = frame.command.words
        may_calculate = not words or (len(words) == 1 and words[0].text == "for")
        if self._text.startswith("((", position) and frame.word is None and may_calculate:
            self._push(FrameKind.ARITHMETIC, "))")
            return position + 2
        if frame.word is not None:
            frame.add(LIST)
        self._push(FrameKind.COMMANDS, ")")
        return position + 1

    def _read_closing(self, position: int, frame: Frame) -> int:
        frame.end_word()
        if frame.is_in_pattern:
            frame.end_pipeline()
            frame.cases[-1] = "body"
        elif frame.closer == ")":
            self._pop()
        else:
            self._end_pipeline(frame)
        return position + 1

    # Readers of characters that have nearly the same meaning in several frames

    def _read_special(self, position: int, frame: Frame) -> int:
        """Read a backslash, a dollar or a backtick."""
        character = self._text[position]
        if backtick := self._backtick(position):
            return self._read_backtick(backtick)
        if expression := self._expressions.get(position + 1):
            self._report(expression, _AFTER_BACKSLASH if character == "\\" else _AFTER_DOLLAR)
            return position + 1
        if character == "$":
            return self._read_dollar(position, frame)
        escaped = self._text[position + 1 : position + 2]
        if frame.kind is FrameKind.COMMANDS and escaped != "\n":
            frame.add(escaped)
        return position + 2

    def _backtick(self, position: int) -> re.Match[str] | None:
        """Match a backtick that opens or closes a substitution; in a nested one it is preceded by backslashes."""
        character = self._text[position]
        is_possible = character == "`" or (character == "\\" and self._backtick_depth)
        return _BACKTICK.match(self._text, position) if is_possible else None

    def _read_backtick(self, found: re.Match[str], *, may_open: bool = True) -> int:
        """Close or open a substitution. Each level removes half of the backslashes, so their number determines the level."""
        level, backslashes = 1, len(found.group()) - 1
        while backslashes % 2:
            level, backslashes = level + 1, backslashes // 2
        depth = self._backtick_depth
        if level == depth + 1 and may_open:
            if self._stack[-1].kind in _IN_WORDS:
                self._add_to_word(SUBSTITUTION)
            self._push(FrameKind.COMMANDS, "`")
        while level <= depth and self._backtick_depth >= level:
            self._pop()
        return found.end()

    def _read_dollar(self, position: int, frame: Frame) -> int:
        text = self._text
        is_unquoted = frame.kind is FrameKind.COMMANDS or (frame.kind is FrameKind.PARAMETER and frame.is_quoting)
        if text.startswith("$((", position):
            self._push(FrameKind.ARITHMETIC, "))")
            return position + 3
        if text.startswith("$[", position):
            self._push(FrameKind.ARITHMETIC, "]")
            return position + 2
        if text.startswith("$(", position):
            if frame.kind in _IN_WORDS:
                self._add_to_word(SUBSTITUTION)
            self._push(FrameKind.COMMANDS, ")")
            return position + 2
        if text.startswith("${", position):
            if frame.kind in _IN_WORDS:
                named = _NAMED_PARAMETER.match(text, position)
                self._add_to_word(f"${named.group(1) if named else ''}")
            return self._read_parameter_start(position, frame)
        if is_unquoted and text.startswith(("$'", '$"'), position):
            quote = text[position + 1]
            self._push(FrameKind.ANSI if quote == "'" else FrameKind.DOUBLE, quote)
            return position + 2
        if frame.kind in _IN_WORDS:
            self._add_to_word("$")
        # `$$` is the process id, unless its second dollar starts an expression, which was handled before.
        is_process_id = text.startswith("$$", position)
        return position + (2 if is_process_id else 1)

    def _read_parameter_start(self, position: int, outer: Frame) -> int:
        found = _PARAMETER.match(self._text, position)
        end = found.end() if found else position + 2
        self._report_within(position, end, _PARAMETER_NAME)
        operator = _WORD_OPERATOR.match(self._text, end)
        is_quoted = outer.kind in (FrameKind.DOUBLE, FrameKind.DOCUMENT) or (
            outer.kind is FrameKind.PARAMETER and not outer.is_quoting
        )
        frame = self._push(FrameKind.PARAMETER, "}")
        frame.is_calculated = operator is None
        frame.is_quoting = not is_quoted or (operator is not None and operator.group()[0] in "#%/^,")
        return operator.end() if operator else end

    # Readers of the other frames

    def _read_single(self, position: int, frame: Frame) -> int:
        character = self._text[position]
        if character == "'":
            self._pop()
        elif backtick := self._backtick(position):
            return self._read_backtick(backtick, may_open=False)
        else:
            self._add_to_word(character)
        return position + 1

    def _read_double(self, position: int, frame: Frame) -> int:
        """Read double quotes, or `$'...'`, where a dollar and a backtick are not special."""
        character = self._text[position]
        if character == frame.closer:
            self._pop()
        elif character == "\\" or (character in "$`" and frame.kind is FrameKind.DOUBLE):
            return self._read_special(position, frame)
        else:
            self._add_to_word(character)
        return position + 1

    def _read_parameter(self, position: int, frame: Frame) -> int:
        character = self._text[position]
        if character == "}":
            self._pop()
        elif character == '"' or (character == "'" and frame.is_quoting):
            self._push(FrameKind.DOUBLE if character == '"' else FrameKind.SINGLE, character)
        elif character in "\\$`":
            return self._read_special(position, frame)
        return position + 1

    def _read_arithmetic(self, position: int, frame: Frame) -> int:
        character = self._text[position]
        if character in "\\$`":
            return self._read_special(position, frame)
        if character == "]" and frame.closer == "]":
            self._pop()
        elif frame.closer == "]":
            pass
        elif character == "(":
            frame.depth += 1
        elif character == ")" and frame.depth:
            frame.depth -= 1
        elif self._text.startswith("))", position):
            self._pop()
            return position + 2
        elif character == ")":
            # It was a subshell in a subshell, and the outer one is still open.
            self._pop()
            self._push(FrameKind.COMMANDS, ")")
        return position + 1

    def _read_document(self, position: int, frame: Frame) -> int:
        return self._read_special(position, frame) if self._text[position] in "\\$`" else position + 1

    def _read_comment(self, position: int, frame: Frame) -> int:
        if self._text[position] == "\n":
            self._pop()
            return position
        backtick = self._backtick(position)
        return self._read_backtick(backtick, may_open=False) if backtick else position + 1

    # Here-documents

    def _start_document(self, position: int) -> int:
        """Enter the body that starts at `position`; skip bodies with a quoted delimiter."""
        while self._announced:
            document = self._announced.pop(0)
            end, resume = self._body(position, document)
            if not document.is_quoted:
                frame = self._push(FrameKind.DOCUMENT)
                frame.pipeline, frame.end, frame.resume = document.pipeline, end, resume
                frame.reader = pipeline_reads_code(document.pipeline, self._variables)
                self._document_ends.append(min([end, *self._document_ends[-1:]]))
                return position
            self._report_within(position, end, _QUOTED_DOCUMENT)
            position = resume
        return position

    def _body(self, position: int, document: HereDocument) -> tuple[int, int]:
        """Return the end of the body that starts at `position`, and where the script continues."""
        lines = self._lines_without_tabs if document.strips_tabs else self._lines
        starts = lines.get(document.delimiter, ())
        found, length = bisect_left(starts, position), len(self._text)
        if found == len(starts):
            return length, length
        end = self._text.find("\n", starts[found])
        return starts[found], length if end < 0 else end + 1

    @cached_property
    def _lines(self) -> dict[str, list[int]]:
        """Where each line starts, by its text: reading on for each delimiter would cost the square of their number."""
        lines: dict[str, list[int]] = {}
        start = 0
        for line in self._text.split("\n"):
            lines.setdefault(line, []).append(start)
            start += len(line) + 1
        return lines

    @cached_property
    def _lines_without_tabs(self) -> dict[str, list[int]]:
        lines: dict[str, list[int]] = {}
        for line, starts in self._lines.items():
            lines.setdefault(line.lstrip("\t"), []).extend(starts)
        return {line: sorted(starts) for line, starts in lines.items()}

    def _document_that_ends(self, position: int) -> Frame | None:
        """Return the here-document that ends here, even if frames inside it are still open."""
        if not self._document_ends or position < self._document_ends[-1]:
            return None
        return next(frame for frame in self._stack if frame.kind is FrameKind.DOCUMENT and position >= frame.end)

    def _end_document(self, document: Frame) -> int:
        closed = False
        while not closed:
            closed = self._stack[-1] is document
            self._pop()
        return self._start_document(document.resume)


_READERS: dict[FrameKind, Callable[[Scanner, int, Frame], int]] = {
    FrameKind.COMMANDS: Scanner._read_commands,
    FrameKind.SINGLE: Scanner._read_single,
    FrameKind.DOUBLE: Scanner._read_double,
    FrameKind.ANSI: Scanner._read_double,
    FrameKind.PARAMETER: Scanner._read_parameter,
    FrameKind.ARITHMETIC: Scanner._read_arithmetic,
    FrameKind.DOCUMENT: Scanner._read_document,
    FrameKind.COMMENT: Scanner._read_comment,
}


def _blanked(text: str, expressions: Iterable[EmbeddedExpression]) -> str:
    """Return the text with each expression replaced by blanks of the same length."""
    pieces: list[str] = []
    position = 0
    for expression in expressions:
        pieces += [text[position : expression.start], _BLANK * (expression.end - expression.start)]
        position = expression.end
    return "".join([*pieces, text[position:]])
