"""Searches the output of one attempt for a text, from a line to the end of the log.

Rules of this file:

- Plain text only: a regular expression of a stranger could take any time. A match is within one line, and a line is found once.
- The log is read and searched in parts of 1 MiB in a thread. All searches together use one thread at a time, and it lets the
  event loop continue after every call that takes a part of a millisecond.
- A search ends with its reader, after so many lines, and at the end that the log had when the search began.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from waterflowd.api.streaming.output_pages import find_line
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import OutputPiece
from waterflowd.ports import OutputLogs

HITS_MAX = 10_000
#: Characters of a text to search for.
QUERY_MAX = 1_000
#: Characters of a line that a hit shows, and how many of them may be before the match.
_SHOWN, _SHOWN_BEFORE = 400, 100
_READ_BYTES = 1 << 20
#: Bytes that are searched in one step.
_STEP_BYTES = 256 << 10
#: How often a search says how far it is.
_PROGRESS_BYTES = 32 << 20
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") | frozenset(range(0x80, 0x100))


class SearchHit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A line that matches: its number, its text, and the character (from 0) of the line at which the first match begins.

    The text of a long line is an excerpt, and `begin` the character of the line at which it begins.
    """

    line: int
    column: int
    text: str
    begin: int = 0


class SearchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes have been searched, and how many lines match.

    The last one `is_complete`; `more` says that the search has ended because there are too many hits.
    """

    scanned: int
    hits: int
    is_complete: bool
    more: bool


class Query:
    """What to search for. Letters that ASCII lacks are compared without case in their one-letter forms."""

    def __init__(self, text: str, *, is_case_sensitive: bool, is_whole_word: bool) -> None:
        self._lowers = not is_case_sensitive
        self._is_whole_word = is_whole_word
        encoded = text.encode()
        self.length_max = len(encoded)
        self._find: Callable[[bytes, int], tuple[int, int]]
        if is_case_sensitive or text.isascii():
            self._find = _finder(encoded.lower() if self._lowers else encoded)
        else:
            pattern = re.compile(b"".join(map(_either, text)))
            self.length_max = 4 * len(text)
            self._find = lambda content, begin: found.span() if (found := pattern.search(content, begin)) else (-1, -1)

    def prepared(self, content: bytes) -> bytes:
        """The content as it is searched, with every byte in its place."""
        return content.lower() if self._lowers else content

    def find(self, content: bytes, begin: int) -> int:
        """Where the next match in prepared content begins; -1 if there is none."""
        while True:
            start, end = self._find(content, begin)
            if start < 0 or not self._is_whole_word or self._is_word(content, start, end):
                return start
            begin = start + 1

    @staticmethod
    def _is_word(content: bytes, start: int, end: int) -> bool:
        return not (
            (start and content[start - 1] in _WORD and content[start] in _WORD)
            or (end < len(content) and content[end] in _WORD and content[end - 1] in _WORD)
        )


def _finder(text: bytes) -> Callable[[bytes, int], tuple[int, int]]:
    def find(content: bytes, begin: int) -> tuple[int, int]:
        start = content.find(text, begin)
        return start, start + len(text)

    return find


def _either(character: str) -> bytes:
    """An expression for a character in either case, in content in which ASCII is in lower case."""
    forms = {form.encode().lower() for form in (character, character.lower(), character.upper()) if len(form) == 1}
    return b"(?:" + b"|".join(map(re.escape, sorted(forms))) + b")"


class Scanner:
    """Searches consecutive content of a log, which begins with a line."""

    def __init__(self, query: Query, line: int) -> None:
        self._query = query
        #: The line that the next content belongs to, and the bytes of that line that are no longer here.
        self._line = line
        self._before = 0
        self._rest = b""
        self._is_found = False

    def scan(self, content: bytes, *, is_end: bool) -> list[SearchHit]:
        """Searches all lines that are complete, and the begin of a long one; `is_end` also an incomplete last one."""
        buffer = self._rest + content
        limit = len(buffer) if is_end else buffer.rfind(b"\n") + 1
        overlap = self._query.length_max + 1
        if not limit and (self._is_found or len(buffer) > _STEP_BYTES):
            limit = len(buffer) if self._is_found else max(0, len(buffer) - overlap)
        hits = self._hits(buffer, limit) if limit else []
        newline = buffer.rfind(b"\n", 0, limit)
        self._before = limit - newline - 1 if newline >= 0 else self._before + limit
        self._rest = buffer[limit:]
        return hits

    def _hits(self, buffer: bytes, limit: int) -> list[SearchHit]:
        prepared = self._query.prepared(buffer)
        hits: list[SearchHit] = []
        position = 0
        if self._is_found:
            position = self._next_line(buffer, 0, limit)
        while not self._is_found:
            start = self._query.find(prepared, position)
            if not 0 <= start < limit:
                self._line += buffer.count(b"\n", position, limit)
                break
            self._line += buffer.count(b"\n", position, start)
            hits.append(self._hit(buffer, start))
            position = self._next_line(buffer, start, limit)
        return hits

    def _next_line(self, buffer: bytes, position: int, limit: int) -> int:
        """Goes to the line after one that was found; if it begins later, the rest of this one does not matter."""
        newline = buffer.find(b"\n", position, limit)
        self._is_found = newline < 0
        self._line += newline >= 0
        return newline + 1

    def _hit(self, buffer: bytes, start: int) -> SearchHit:
        begin = buffer.rfind(b"\n", 0, start) + 1
        end = buffer.find(b"\n", start)
        end = len(buffer) if end < 0 else end
        before = self._before if begin == 0 else 0
        column = before + len(buffer[begin:start].decode("utf-8", "replace"))
        line = buffer[begin : min(end, start + 4 * _SHOWN)].decode("utf-8", "replace").removesuffix("\r")
        shown = 0
        if len(line) > _SHOWN or before:
            shown = max(0, column - before - _SHOWN_BEFORE)
            line = line[shown : shown + _SHOWN]
        return SearchHit(line=self._line, column=column, text=line, begin=before + shown)


class OutputSearch:
    """The searches of one daemon."""

    def __init__(self, outputs: OutputLogs) -> None:
        self._outputs = outputs
        self._lock = asyncio.Lock()

    async def search(
        self, name: AttemptId, query: Query, line: int, hits_max: int
    ) -> AsyncGenerator[Sequence[SearchHit | SearchProgress], None]:
        """What is found from a line on, in parts, and how far the search is; the last item is the last progress."""
        marks = await self._outputs.line_marks(name)
        first = await find_line(self._outputs, name, marks, line)
        scanner = Scanner(query, first.line)
        offset, end, said = first.offset, marks[-1].offset, first.offset
        hits = 0
        while offset < end and hits <= hits_max:
            async with self._lock:
                pieces = await self._outputs.read(name, offset, _READ_BYTES)
                found = await asyncio.to_thread(_scan, scanner, pieces, offset, end)
            offset = min(end, pieces[-1].offset + len(pieces[-1].data))
            items: list[SearchHit | SearchProgress] = list(found[: max(0, hits_max - hits)])
            hits += len(found)
            if offset - said >= _PROGRESS_BYTES and offset < end and hits <= hits_max:
                said = offset
                items.append(SearchProgress(scanned=offset - first.offset, hits=hits, is_complete=False, more=False))
            if items:
                yield items
        scanned = offset - first.offset
        yield [SearchProgress(scanned=scanned, hits=min(hits, hits_max), is_complete=True, more=hits > hits_max)]


def _scan(scanner: Scanner, pieces: Sequence[OutputPiece], offset: int, end: int) -> list[SearchHit]:
    """Searches the pieces from an offset to the end of the log. In a thread; scans of one scanner do not overlap."""
    content = b"".join(piece.data for piece in pieces)[offset - pieces[0].offset : end - pieces[0].offset]
    is_last = offset + len(content) >= end
    hits: list[SearchHit] = []
    for begin in range(0, len(content), _STEP_BYTES):
        part = content[begin : begin + _STEP_BYTES]
        hits += scanner.scan(part, is_end=is_last and begin + _STEP_BYTES >= len(content))
        # Lets the event loop continue, which would wait up to 5 ms for this thread otherwise.
        time.sleep(0)
    return hits
