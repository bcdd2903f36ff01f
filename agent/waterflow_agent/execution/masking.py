"""Masking: finds an attempt's secrets in text, in all common encodings, and replaces them with `***`.

A value has several forms: as it is, each of its lines, Base64 in the three alignments that it may have within other text, URL
encoding, JSON escapes, and the quoting of shells (`set -x`, `printf %q`). `Masks` finds all of them in a complete text, and
`StreamMasker` in output that arrives in chunks. This protects against accidents, not against code that transforms a value.

Theory. A position is masked when any occurrence of any form covers it, so overlapping forms leak nothing of each other; a
sequence of masked positions becomes one `***`. In a stream, a position is undecided while the text from it on is the beginning
of a form. Output is held back from the first undecided position on, which depends on the text alone. So every way to cut the
text into chunks gives the same output, which sending again from an offset relies on.

Rules of this file:

- Values shorter than `BYTES_MIN` are not masked: that would mask every second word.
- Forms longer than `FORM_BYTES_MAX` are searched in parts, so no more than that is ever held back. The parts of Base64 are the
  lines that `base64` and `openssl base64` print.
- The text is searched once, for four bytes of each form that begin with a byte that is rare in logs, chosen so that few
  different bytes are enough. A scan for a set of bytes is several times faster than a search for each form.
- No method shows a value, not even `repr`.
"""

from __future__ import annotations

import base64
import json
import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

#: Replaces a secret. It is shorter than every secret, so masked output never grows.
MASK = b"***"
BYTES_MIN = 4
#: The lines of `base64`, and those of `openssl base64` and PEM.
_LINES = (76, 64)
FORM_BYTES_MAX = _LINES[0]
#: The end of a form in parts is searched too, with enough bytes before it to be unique.
_TAIL_BYTES = 16

#: Bytes in logs, the most frequent first; all others are rare.
_FREQUENT = b" etaoinsrhldcumfpgwybvk.:-/0123456789_=,\"'()[]{}\nTZEOINRADFSLGCPUWMBxzjqHVKYQXJ"
_WINDOW = 4
_SAMPLE = 200


class Masking(ABC):
    """Finds secrets in text, and masks a complete text."""

    __slots__ = ()

    @abstractmethod
    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Returns begin and end of each sequence of masked positions, in order and not adjacent."""

    @abstractmethod
    def undecided(self, text: bytes) -> int:
        """Returns the first position from which the text is the incomplete beginning of a form, or the length of the text."""

    @abstractmethod
    def is_most_of_one(self, beginning: bytes) -> bool:
        """Whether this is at least half of a form."""

    def data(self, data: bytes) -> bytes:
        """Returns a complete text, as bytes, with every form masked."""
        out: list[bytes] = []
        position = 0
        for begin, end in self.find(data):
            out += (data[position:begin], MASK)
            position = end
        return b"".join((*out, data[position:])) if out else data

    def text(self, text: str) -> str:
        """Returns the text with every form masked."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """Returns the JSON value with every form masked in all of its texts, names included."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(name): self.value(item) for name, item in value.items()}
            case list():
                return [self.value(item) for item in value]
        return value


class Masks(Masking):
    """The secrets of one attempt, prepared for the search. Immutable; may be used by any thread."""

    __slots__ = ("_begins", "_forms", "_search", "_windows")

    def __init__(self, values: Iterable[str]) -> None:
        #: Sorted, so that forms with the same beginning are adjacent.
        self._forms = sorted({piece for value in values for form in _forms(value) for piece in _pieces(*form)})
        self._windows: dict[bytes, list[tuple[bytes, int]]] = {}
        for form, offset in _anchored(self._forms):
            self._windows.setdefault(form[offset : offset + _WINDOW], []).append((form, offset))
        self._search = re.compile(_any_of(self._windows), re.DOTALL)
        #: The first bytes of each form, to find where one may begin.
        self._begins = re.compile(_any_of({form[:_WINDOW] for form in self._forms}), re.DOTALL)

    def __repr__(self) -> str:
        return f"Masks({len(self._forms)} forms)"

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """See `Masking.find`."""
        spans: list[tuple[int, int]] = []
        for found in self._search.finditer(text):
            at = found.start()
            for form, offset in self._windows[text[at : at + _WINDOW]]:
                if at >= offset and text.startswith(form, at - offset):
                    spans.append((at - offset, at - offset + len(form)))
        return _merged(spans)

    def undecided(self, text: bytes) -> int:
        """See `Masking.undecided`."""
        for found in self._begins.finditer(text, max(0, len(text) - FORM_BYTES_MAX + 1)):
            if self._longer(text[found.start() :]):
                return found.start()
        for position in range(max(0, len(text) - _WINDOW + 1), len(text)):
            if self._longer(text[position:]):
                return position
        return len(text)

    def is_most_of_one(self, beginning: bytes) -> bool:
        """See `Masking.is_most_of_one`."""
        longer = self._longer(beginning)
        return len(beginning) >= BYTES_MIN and 2 * len(beginning) >= len(longer) > 0

    def _longer(self, beginning: bytes) -> bytes:
        at = bisect_left(self._forms, beginning)
        if at < len(self._forms) and self._forms[at] == beginning:
            at += 1
        return self._forms[at] if at < len(self._forms) and self._forms[at].startswith(beginning) else b""


class MaskSet(Masking):
    """The secrets of an attempt to which further ones are added while it prints. Immutable; may be used by any thread.

    Preparing the search takes milliseconds for many values. So added values are in parts, and a new value is prepared together
    with those of the last parts that are not larger, as when a binary number is counted up: each value a few times in total.
    """

    __slots__ = ("_parts",)

    def __init__(self, first: Masking | None = None) -> None:
        self._parts: tuple[tuple[tuple[str, ...], Masking], ...] = () if first is None else (((), first),)

    def __repr__(self) -> str:
        return f"MaskSet({', '.join(map(repr, (masks for _, masks in self._parts)))})"

    def with_value(self, value: str) -> MaskSet:
        """Returns a set that masks this value, too."""
        values: tuple[str, ...] = (value,)
        parts = list(self._parts)
        while parts and 0 < len(parts[-1][0]) <= len(values):
            values = parts.pop()[0] + values
        larger = MaskSet()
        larger._parts = (*parts, (values, Masks(values)))
        return larger

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """See `Masking.find`."""
        if len(self._parts) == 1:
            return self._parts[0][1].find(text)
        return _merged([span for _, masks in self._parts for span in masks.find(text)])

    def undecided(self, text: bytes) -> int:
        """See `Masking.undecided`."""
        return min((masks.undecided(text) for _, masks in self._parts), default=len(text))

    def is_most_of_one(self, beginning: bytes) -> bool:
        """See `Masking.is_most_of_one`."""
        return any(masks.is_most_of_one(beginning) for _, masks in self._parts)


class StreamMasker:
    """Masks one stream of an attempt's output as it arrives."""

    __slots__ = ("_covered", "_held", "_is_after_mask", "_masks", "is_clean")

    def __init__(self, masks: Masking, *, is_clean: bool = False) -> None:
        self._masks = masks
        #: The rest of the stream contains no secret, so it is not searched. The output is the same as if it were.
        self.is_clean = is_clean
        self._held = b""
        #: How many bytes at the beginning of the held text are already in the output, as a mask.
        self._covered = 0
        self._is_after_mask = False

    def change(self, masks: Masking) -> None:
        """Searches what follows, and what is held back, for these secrets."""
        self._masks = masks

    def feed(self, data: bytes) -> bytes:
        """Returns the output that is decided by now; what may be the beginning of a secret is held back."""
        text = self._held + data
        return self._release(text, [] if self.is_clean else self._masks.find(text), self._masks.undecided(text))

    def finish(self) -> bytes:
        """Returns the rest, at the end or before a gap. More than half of a secret is masked like a complete one."""
        text = self._held
        spans = self._masks.find(text)
        begin = self._masks.undecided(text)
        if self._masks.is_most_of_one(text[begin:]):
            spans = _merged([*spans, (begin, len(text))])
        released = self._release(text, spans, len(text))
        self._is_after_mask = False
        return released

    def _release(self, text: bytes, spans: list[tuple[int, int]], end: int) -> bytes:
        """Returns the masked output before `end` and holds back the rest."""
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


def _forms(value: str) -> Iterator[tuple[bytes, bool]]:
    """Yields the forms of the value, and whether they are Base64."""
    whole = value.strip()
    for line in {line.strip() for line in whole.splitlines()}:
        for form in {line, *_escaped(line)}:
            yield form.encode("utf-8", "surrogatepass"), False
    data = whole.encode("utf-8", "surrogatepass")
    for skipped, alignment in ((0, 0), (2, 1), (3, 2)):
        # Only the digits that depend on the value alone: those before and after it contain bits of adjacent text.
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
    # `set -x` in bash, in dash, `printf %q`, and the inside of $'...'.
    yield line.replace("'", "'\\''")
    yield line.replace("'", "'\"'\"'")
    yield re.sub(r"([^A-Za-z0-9_@%+=:,./-])", r"\\\1", line)
    yield line.replace("\\", "\\\\").replace("'", "\\'")


def _pieces(form: bytes, is_base64: bool) -> Iterator[bytes]:
    """Yields the form, or its parts if it is too long."""
    if len(form) <= _LINES[1]:
        if len(form) >= BYTES_MIN:
            yield form
        return
    if len(form) <= FORM_BYTES_MAX:
        yield form
    else:
        yield form[-_TAIL_BYTES:]
    for length in _LINES if is_base64 else _LINES[:1]:
        for begin in range(0, len(form), length):
            piece = form[begin : begin + length]
            if len(piece) >= 2 * BYTES_MIN:
                yield piece


def _anchored(forms: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yields each form with the offset of the bytes to search for, which begin with one of a few rare bytes."""
    left = list(forms)
    while left:
        # A sample is enough: a key file has thousands of similar forms.
        counts: dict[int, int] = {}
        for form in left[:: 1 + len(left) // _SAMPLE]:
            for byte in set(form[: 1 - _WINDOW]):
                counts[byte] = counts.get(byte, 0) + 1
        best = min(sorted(counts), key=lambda byte: _frequency(byte) / counts[byte])
        rest = []
        for form in left:
            offset = form.find(best, 0, 1 - _WINDOW)
            if offset < 0:
                rest.append(form)
            else:
                yield form, offset
        left = rest


def _frequency(byte: int) -> int:
    rank = _FREQUENT.find(byte)
    return 1 if rank < 0 else 3 + len(_FREQUENT) - rank


def _any_of(windows: Iterable[bytes]) -> bytes:
    """Returns a pattern that matches the first byte of each window, so that overlapping ones are all found."""
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
