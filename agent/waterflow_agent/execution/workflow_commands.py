"""Workflow commands: lines of a step's output that begin with `::`, with GitHub's syntax and names.

    ::NAME KEY=VALUE,KEY=VALUE::DATA

A name and a key are matched whatever their case; spaces before `::` are allowed. In data, `%0D`, `%0A` and `%25` stand for
CR, LF and `%`; in values of properties also `%3A` and `%2C` for `:` and `,`. What the commands do:

- `add-mask` masks its data from then on. The line is printed without its data.
- `error`, `warning`, `notice`, `debug`, `group` and `endgroup` are printed as `##[NAME]text`, GitHub's form in a log, by which
  readers of the log recognize them (`waterflowctl logs`, the web pages).
- After `stop-commands` lines are printed as they are, until a line `::TOKEN::` with its data as the token.

Rules of this file:

- The output of a program is not trusted. A command only adds masks and changes what is printed; every other line, such as
  `::set-output ...`, is printed as it is.
- What is printed depends on the text alone, not on how it is cut into chunks; see `masking`. So a line that may be a command is
  held back until it is complete.
- Everything has a limit, and what exceeds it is said in a line of the log. The data of `add-mask` is not printed even then.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import NamedTuple

from waterflow_agent.execution.masking import BYTES_MIN, MASK

#: The longest line that is a command, with its spaces and `::`.
LINE_BYTES_MAX = 16 << 10
#: Values that one attempt may mask, and their length in total.
MASKS_MAX = 100
MASKS_BYTES_MAX = 64 << 10
#: Commands of one attempt, because each takes time to read.
COMMANDS_MAX = 10_000
#: Lines that say why a value is not masked.
_NOTES_MAX = 10
#: The longest token of `stop-commands`.
_TOKEN_LENGTH_MAX = 1_000

_KEY = b"::"
_ADD_MASK = "add-mask"
_STOP = "stop-commands"
#: Commands that are printed as `##[NAME]text`.
_SHOWN = frozenset({"error", "warning", "notice", "debug", "group", "endgroup"})
#: Those whose text begins with their properties.
_LOCATED = frozenset({"error", "warning", "notice"})
#: Names that GitHub knows, which cannot be the token of `stop-commands`.
_REGISTERED = _SHOWN | {
    _ADD_MASK,
    _STOP,
    "set-output",
    "set-env",
    "add-path",
    "save-state",
    "echo",
    "add-matcher",
    "remove-matcher",
    "pause-logging",
}
_SPACES = b" \t\r\f\v"
#: Spaces before `::`; a line with more is no command.
_INDENT = rb"[ \t\r\f\v]{0,256}"
_HIDDEN = b"::add-mask::" + MASK
#: What a line begins with that may become a command.
_BEGINNING = re.compile(_INDENT + rb"(?:::|:?\Z)")


def _pattern(*names: str) -> re.Pattern[bytes]:
    """Returns a pattern for the beginning of a line with one of these commands."""
    words = "|".join(map(re.escape, names)).encode("utf-8", "surrogateescape")
    return re.compile(rb"(?mi)^%s::(?:%s)(?=[ :])" % (_INDENT, words))


_ANY = _pattern(_ADD_MASK, _STOP, *sorted(_SHOWN))
_ONLY_MASKS = _pattern(_ADD_MASK)


class Command(NamedTuple):
    """A parsed line."""

    #: As it was written.
    name: str
    properties: dict[str, str]
    data: str


class Printed(NamedTuple):
    """What is printed for a piece of output; a command may also add a mask, which applies to its own text already."""

    text: bytes
    #: The text is the whole of what a command prints. Otherwise it is a part of the stream's text.
    is_command: bool = False
    mask: str = ""
    #: The text is marked as an error, a warning or a notice, which is listed with the run; "" for neither.
    level: str = ""


def parse(line: str) -> Command | None:
    """Returns the command of a line, whose name may be unknown, or None when the line has not the form of one."""
    head, separator, data = line.lstrip().removeprefix("::").partition("::")
    if not line.lstrip().startswith("::") or not separator:
        return None
    name, _, rest = head.partition(" ")
    properties: dict[str, str] = {}
    for part in rest.strip().split(","):
        key, _, value = part.partition("=")
        if key and value:
            properties[key.lower()] = _unescaped(value.replace("%3A", ":").replace("%2C", ","))
    return Command(name, properties, _unescaped(data))


def _unescaped(text: str) -> str:
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


class WorkflowCommands:
    """The commands in the output of one attempt, over all of its streams."""

    def __init__(self) -> None:
        #: The values that were masked so far, in order.
        self.masks: list[str] = []
        #: Finds the next line that is a command now.
        self.pattern = _ANY
        self._masks_bytes = 0
        self._count = 0
        self._notes = 0
        #: Until a line with this name nothing is a command; "" when commands are read.
        self._stop_token = ""
        self._streams: dict[int, _Lines] = {}

    def copy(self) -> WorkflowCommands:
        """Returns commands in the same state, independent of these."""
        duplicate = copy.copy(self)
        duplicate.masks = list(self.masks)
        duplicate._streams = {number: copy.copy(lines) for number, lines in self._streams.items()}
        return duplicate

    def feed(self, stream: int, data: bytes) -> Iterator[Printed]:
        """Yields what is printed for the next piece of a stream, as far as it is decided by now."""
        lines = self._streams.get(stream)
        if lines is None:
            lines = self._streams[stream] = _Lines()
        for piece in lines.feed(data, self):
            printed = self._printed(piece)
            lines.is_skipping = piece.is_too_long and printed.is_command and not piece.text.endswith(b"\n")
            yield printed

    def finish(self, stream: int) -> Iterator[Printed]:
        """Yields what is printed for the rest of a stream, at its end or before a gap."""
        lines = self._streams.get(stream)
        for piece in lines.finish() if lines is not None else ():
            yield self._printed(piece)

    @property
    def streams(self) -> list[int]:
        """The streams that have printed something."""
        return sorted(self._streams)

    def _printed(self, piece: _Piece) -> Printed:
        if not piece.may_be_command:
            return Printed(piece.text)
        if piece.is_too_long:
            return self._too_long(piece.text)
        line = piece.text.rstrip(b"\r\n")
        command = parse(line.decode("utf-8", "surrogateescape"))
        printed = self._obey(command, line) if command is not None else None
        if printed is None:
            return Printed(piece.text)
        end = b"\n" if piece.text.endswith(b"\n") else b""
        return printed._replace(text=printed.text + end, is_command=True)

    def _too_long(self, text: bytes) -> Printed:
        """Prints a line that exceeds the limit; of an `add-mask`, nothing else of the line is printed."""
        if self._stop_token or _ONLY_MASKS.match(text) is None:
            return Printed(text)
        return Printed(_HIDDEN + self._note(f"its line has more than {LINE_BYTES_MAX} bytes") + b"\n", is_command=True)

    def _note(self, reason: str) -> bytes:
        """Returns a line that says why a value is not masked; none when there were many."""
        self._notes += 1
        return f"\nwaterflow: ::add-mask:: is ignored: {reason}".encode() if self._notes <= _NOTES_MAX else b""

    def _obey(self, command: Command, line: bytes) -> Printed | None:
        """Returns what the command prints, without the end of the line; None when it is no command."""
        name = command.name.lower()
        if self._count >= COMMANDS_MAX:
            return Printed(_HIDDEN) if name == _ADD_MASK else None
        printed = self._carry_out(name, command, line)
        self._count += printed is not None
        if printed is None or self._count < COMMANDS_MAX:
            return printed
        self.pattern = _ONLY_MASKS
        note = (
            f"\nwaterflow: {COMMANDS_MAX} workflow commands, the most that a step may print: the others have no effect"
        )
        return printed._replace(text=printed.text + note.encode())

    def _carry_out(self, name: str, command: Command, line: bytes) -> Printed | None:
        if self._stop_token:
            if name != self._stop_token.lower():
                return None
            self._stop_token, self.pattern = "", _ANY
            return Printed(line)
        if name == _STOP:
            token = command.data
            if not token.strip() or token.lower() in _REGISTERED or len(token) > _TOKEN_LENGTH_MAX:
                text = "::stop-commands:: is ignored: its token is empty, too long or the name of a command"
                return Printed(line + f"\nwaterflow: {text}".encode())
            self._stop_token, self.pattern = token, _pattern(token)
            return Printed(line)
        if name == _ADD_MASK:
            return self._add_mask(command.data)
        if name in _SHOWN:
            level = name if name in _LOCATED else ""
            location = _location(command.properties) if level else ""
            return Printed(f"##[{name}]{location}{command.data}".encode("utf-8", "surrogateescape"), level=level)
        return None

    def _add_mask(self, data: str) -> Printed:
        value = data.strip()
        size = len(value.encode("utf-8", "surrogateescape"))
        reason = ""
        if any("\ud800" <= character <= "\udfff" for character in value):
            reason = "its value is not UTF-8"
        elif size < BYTES_MIN:
            reason = f"its value has less than {BYTES_MIN} bytes"
        elif value in self.masks:
            return Printed(_HIDDEN)
        elif len(self.masks) >= MASKS_MAX or self._masks_bytes + size > MASKS_BYTES_MAX:
            reason = f"a step may mask {MASKS_MAX} values with {MASKS_BYTES_MAX >> 10} KiB in total"
        if reason:
            return Printed(_HIDDEN + self._note(reason))
        self.masks.append(value)
        self._masks_bytes += size
        return Printed(_HIDDEN, mask=value)


def _location(properties: dict[str, str]) -> str:
    """Returns where the message points to, and its title, as they precede it: `FILE:LINE:COLUMN: TITLE: `."""
    line = properties.get("line") or ""
    column = properties.get("col") or properties.get("column") or ""
    place = ":".join(part for part in (properties.get("file", ""), line, column if line else "") if part)
    return "".join(f"{part}: " for part in (place, properties.get("title", "")) if part)


class _Piece(NamedTuple):
    text: bytes
    #: The text is a line with its newline, or without one at the end of a stream, that begins with `::` and a command's name.
    may_be_command: bool = False
    is_too_long: bool = False


class _Lines:
    """Finds the lines of one stream that may be commands. Everything else is passed on at once."""

    __slots__ = ("_held", "_is_line_begin", "is_skipping")

    def __init__(self) -> None:
        #: The beginning of a line that may be a command.
        self._held = b""
        #: The held text is at the beginning of a line; if there is none, what follows.
        self._is_line_begin = True
        #: The rest of the line is left out. Set by the reader of the line's beginning.
        self.is_skipping = False

    def feed(self, data: bytes, commands: WorkflowCommands) -> Iterator[_Piece]:
        text = self._held + data if self._held else data
        begin = self._skip(text) if self.is_skipping else 0
        at = begin if _KEY in text else len(text)
        while (found := commands.pattern.search(text, at)) is not None:
            line = found.start()
            newline = text.find(b"\n", found.end())
            end = len(text) if newline < 0 else newline + 1
            is_too_long = end - line > LINE_BYTES_MAX
            if line == 0 and not self._is_line_begin:
                # The beginning of this text is in the middle of a line.
                at = max(1, end) if newline >= 0 else len(text)
                continue
            if newline < 0 and not is_too_long:
                break
            if line > begin:
                yield _Piece(text[begin:line])
            yield _Piece(text[line:end], may_be_command=True, is_too_long=is_too_long)
            at = begin = end
            self._is_line_begin = newline >= 0
        yield from self._rest(text, begin)

    def finish(self) -> Iterator[_Piece]:
        held, self._held = self._held, b""
        # What follows a gap is in the middle of a line.
        self._is_line_begin = False
        if held:
            yield _Piece(held, may_be_command=held.lstrip(_SPACES).startswith(_KEY))

    def _skip(self, text: bytes) -> int:
        """Returns where to continue behind a line that is left out."""
        newline = text.find(b"\n")
        if newline < 0:
            return len(text)
        self.is_skipping, self._is_line_begin = False, True
        return newline + 1

    def _rest(self, text: bytes, begin: int) -> Iterator[_Piece]:
        """Yields the text from `begin` on, and holds back the beginning of a line that may be a command."""
        newline = text.rfind(b"\n", begin)
        line = newline + 1 if newline >= 0 else begin if self._is_line_begin else -1
        if 0 <= line < len(text) and len(text) - line <= LINE_BYTES_MAX and _BEGINNING.match(text, line) is not None:
            self._held, self._is_line_begin = text[line:], True
            text = text[:line]
        else:
            self._held, self._is_line_begin = b"", line == len(text)
        if len(text) > begin:
            yield _Piece(text[begin:])
