"""Masking: what an attempt's secrets look like in text, and the text with `***` in their place.

A value has several faces: as it is, each line of it, Base64 in the three alignments it may have inside of other text,
URL encoding, JSON escapes, and the quoting of shells (`set -x`, `printf %q`). `Masks` finds all of them, `Stream` does so in
output that comes in pieces. It is a help against accidents, not a wall: who may run code can turn a value into something else.

Theory. A position is masked when any occurrence of any face covers it, so overlapping faces leak nothing of each other; a row
of masked positions is one `***`. In a stream, a position is undecided while the text from it on is the beginning of some
face. The first undecided position is where output is held back, and it depends on the text alone. So any way to cut the text
into pieces gives the same output, which resending from an offset relies on.

Rules of this file:

- Nothing shorter than `BYTES_MIN` is looked for: it would mask every second word.
- Faces longer than `FACE_BYTES_MAX` are looked for in pieces, so no more than that is ever held back. The pieces of Base64 are
  the lines that `base64` and `openssl base64` print.
- The text is searched once, for four bytes of each face that begin with a byte that is rare in logs, chosen so that few
  different bytes are enough. That is a scan for a set of bytes, several times faster than to search for each face.
- No method shows a value: `repr` counts.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

#: What stands for a secret. It is shorter than all that it stands for, so masked output never grows.
MASK = b"***"
BYTES_MIN = 4
#: The lines of `base64`, and those of `openssl base64` and PEM.
_LINES = (76, 64)
FACE_BYTES_MAX = _LINES[0]
#: The end of a face in pieces is looked for as well, with as much before it as makes it one of a kind.
_TAIL_BYTES = 16

#: Bytes of logs, the most frequent first; what is not here is rare.
_FREQUENT = b" etaoinsrhldcumfpgwybvk.:-/0123456789_=,\"'()[]{}\nTZEOINRADFSLGCPUWMBxzjqHVKYQXJ"
_WINDOW = 4
_SAMPLE = 200


class Masks:
    """The secrets of one attempt, ready to be looked for. Immutable; may be used by any thread."""

    __slots__ = ("_begins", "_faces", "_search", "_windows")

    def __init__(self, values: Iterable[str]) -> None:
        #: Sorted, so that what begins with a text stands together.
        self._faces = sorted({piece for value in values for face in _faces(value) for piece in _pieces(*face)})
        self._windows: dict[bytes, list[tuple[bytes, int]]] = {}
        for face, offset in _anchored(self._faces):
            self._windows.setdefault(face[offset : offset + _WINDOW], []).append((face, offset))
        self._search = re.compile(_any_of(self._windows), re.DOTALL)
        #: The first bytes of each face, to find where one may begin.
        self._begins = re.compile(_any_of({face[:_WINDOW] for face in self._faces}), re.DOTALL)

    def __repr__(self) -> str:
        return f"Masks({len(self._faces)} faces)"

    def data(self, data: bytes) -> bytes:
        """The bytes, which are whole, with every face masked."""
        out: list[bytes] = []
        position = 0
        for begin, end in self.find(data):
            out += (data[position:begin], MASK)
            position = end
        return b"".join((*out, data[position:])) if out else data

    def text(self, text: str) -> str:
        """The text with every face masked."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """The JSON value with every face masked in every text of it, names included."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(name): self.value(item) for name, item in value.items()}
            case list():
                return [self.value(item) for item in value]
        return value

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Where faces are: begin and end of each row of masked positions, in order, never touching each other."""
        spans: list[tuple[int, int]] = []
        for found in self._search.finditer(text):
            at = found.start()
            for face, offset in self._windows[text[at : at + _WINDOW]]:
                if at >= offset and text.startswith(face, at - offset):
                    spans.append((at - offset, at - offset + len(face)))
        return _merged(spans)

    def undecided(self, text: bytes) -> int:
        """The first position from which on the text is the beginning of a face and not all of it; its length for none."""
        for found in self._begins.finditer(text, max(0, len(text) - FACE_BYTES_MAX + 1)):
            if self._longer(text[found.start() :]):
                return found.start()
        for position in range(max(0, len(text) - _WINDOW + 1), len(text)):
            if self._longer(text[position:]):
                return position
        return len(text)

    def is_most_of_one(self, beginning: bytes) -> bool:
        """Whether this is half of a face or more."""
        longer = self._longer(beginning)
        return len(beginning) >= BYTES_MIN and 2 * len(beginning) >= len(longer) > 0

    def _longer(self, beginning: bytes) -> bytes:
        at = bisect_left(self._faces, beginning)
        if at < len(self._faces) and self._faces[at] == beginning:
            at += 1
        return self._faces[at] if at < len(self._faces) and self._faces[at].startswith(beginning) else b""


class Stream:
    """One stream of an attempt's output, masked as it comes."""

    __slots__ = ("_covered", "_held", "_is_after_mask", "_masks", "is_clean")

    def __init__(self, masks: Masks, *, is_clean: bool = False) -> None:
        self._masks = masks
        #: Nothing of what is still to come is a secret: it is not searched, and told as it would be if it were.
        self.is_clean = is_clean
        self._held = b""
        #: So many bytes at the begin of what is held are told already, as a mask.
        self._covered = 0
        self._is_after_mask = False

    def feed(self, data: bytes) -> bytes:
        """What can be told now that `data` has come; what may be the beginning of a secret is held back."""
        text = self._held + data
        return self._tell(text, [] if self.is_clean else self._masks.find(text), self._masks.undecided(text))

    def finish(self) -> bytes:
        """The rest, at the end or before a gap. The greater half of a secret is masked here as a whole one would be."""
        text = self._held
        spans = self._masks.find(text)
        begin = self._masks.undecided(text)
        if self._masks.is_most_of_one(text[begin:]):
            spans = _merged([*spans, (begin, len(text))])
        told = self._tell(text, spans, len(text))
        self._is_after_mask = False
        return told

    def _tell(self, text: bytes, spans: list[tuple[int, int]], end: int) -> bytes:
        """Tells what is before `end` and holds the rest."""
        if self._covered:
            spans = _merged([(0, self._covered), *spans])
        out: list[bytes] = []
        position = 0
        for begin, stop in spans:
            if begin >= end:
                break
            if begin > position:
                out.append(text[position:begin])
                self._is_after_mask = False
            if not self._is_after_mask:
                out.append(MASK)
                self._is_after_mask = True
            position = stop
        if position < end:
            out.append(text[position:end])
            self._is_after_mask = False
        self._held = text[end:]
        self._covered = max(0, position - end)
        return b"".join(out)


def _faces(value: str) -> Iterator[tuple[bytes, bool]]:
    """What the value may look like, and whether it is Base64."""
    whole = value.strip()
    for line in {line.strip() for line in whole.splitlines()}:
        for face in {line, *_escaped(line)}:
            yield face.encode("utf-8", "surrogatepass"), False
    data = whole.encode("utf-8", "surrogatepass")
    for skipped, alignment in ((0, 0), (2, 1), (3, 2)):
        # The digits that depend on the value alone: those before and after it have bits of its neighbours.
        digits = base64.b64encode(b"\0" * alignment + data).rstrip(b"=")
        shared = digits[skipped : len(digits) - bool((alignment + len(data)) % 3)]
        yield shared, True
        yield shared.translate(bytes.maketrans(b"+/", b"-_")), True


def _escaped(line: str) -> Iterator[str]:
    for safe in ("", "/"):
        yield quote(line, safe=safe, errors="replace")
    yield quote_plus(line, errors="replace")
    yield json.dumps(line)[1:-1]
    yield json.dumps(line, ensure_ascii=False)[1:-1]
    # What bash prints for `set -x`, what dash does, `printf %q`, and the inside of $'...'.
    yield line.replace("'", "'\\''")
    yield line.replace("'", "'\"'\"'")
    yield re.sub(r"([^A-Za-z0-9_@%+=:,./-])", r"\\\1", line)
    yield line.replace("\\", "\\\\").replace("'", "\\'")


def _pieces(face: bytes, is_base64: bool) -> Iterator[bytes]:
    """The face, or the pieces of one that is too long."""
    if len(face) <= _LINES[1]:
        if len(face) >= BYTES_MIN:
            yield face
        return
    if len(face) <= FACE_BYTES_MAX:
        yield face
    else:
        yield face[-_TAIL_BYTES:]
    for length in _LINES if is_base64 else _LINES[:1]:
        for begin in range(0, len(face), length):
            piece = face[begin : begin + length]
            if len(piece) >= 2 * BYTES_MIN:
                yield piece


def _anchored(faces: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Each face with the place of the window to look for; the windows begin with few bytes, and those are rare."""
    left = list(faces)
    while left:
        # A sample is enough to choose by: a key file has thousands of faces of one kind.
        counts: dict[int, int] = {}
        for face in left[:: 1 + len(left) // _SAMPLE]:
            for byte in set(face[: 1 - _WINDOW]):
                counts[byte] = counts.get(byte, 0) + 1
        best = min(sorted(counts), key=lambda byte: _frequency(byte) / counts[byte])
        rest = []
        for face in left:
            offset = face.find(best, 0, 1 - _WINDOW)
            if offset < 0:
                rest.append(face)
            else:
                yield face, offset
        left = rest


def _frequency(byte: int) -> int:
    rank = _FREQUENT.find(byte)
    return 1 if rank < 0 else 3 + len(_FREQUENT) - rank


def _any_of(windows: Iterable[bytes]) -> bytes:
    """A pattern that matches the first byte of any of the windows, so that overlapping ones are all found."""
    tree: dict[bytes, list[bytes]] = {}
    for window in windows:
        tree.setdefault(window[:1], []).append(window[1:])
    branches = [re.escape(first) + b"(?=%s)" % _branches(rest) for first, rest in sorted(tree.items())]
    return b"|".join(branches) if branches else b"(?!)"


def _branches(words: list[bytes]) -> bytes:
    tree: dict[bytes, list[bytes]] = {}
    for word in words:
        tree.setdefault(word[:1], []).append(word[1:])
    if all(not rest[0] for rest in tree.values()):
        return b"[%s]" % b"".join(map(re.escape, sorted(tree)))
    branches = [re.escape(first) + _branches(rest) for first, rest in sorted(tree.items())]
    return branches[0] if len(branches) == 1 else b"(?:%s)" % b"|".join(branches)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(spans) < 2:
        return spans
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
