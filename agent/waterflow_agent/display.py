"""Text from outside, made safe to show to people: on a terminal, in a log line, in a message or on a page.

Rules of this file: it is for display only. Identities, contexts and payloads carry the text unchanged. The daemon and the agent
use the same functions, so that text looks the same wherever it is shown.
"""

from __future__ import annotations

#: Characters that do not print but are harmless: spaces, and the joiners that scripts and emoji need.
_HARMLESS = frozenset("\u00a0\u2002\u2003\u2009\u200c\u200d\u202f\u3000")
#: Characters. More than any reason or error of the project has, and few enough that no name fills a screen.
LENGTH_MAX = 1_000
#: Marks where text was cut.
ELLIPSIS = "…"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def escape_for_display(text: str, length_max: int = LENGTH_MAX) -> str:
    """Returns the text on one line with every unsafe character escaped, such as `\\n`, `\\x1b` and `\\u202e`.

    The result has at most `length_max` characters and ends with an ellipsis where it was cut.
    """
    # The text is cut before it is escaped, so that the work is bounded, and again after it, because escapes are longer.
    text = text[: length_max + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _HARMLESS else _escape(c) for c in text)
    return shorten(text, length_max)


def quote(text: str, length_max: int = 60) -> str:
    """Returns a name from outside as it appears in a message: escaped, cut to `length_max` characters, in double quotes."""
    return f'"{escape_for_display(text, length_max)}"'


def single_line(text: str, length_max: int) -> str:
    """Returns a message of several lines as one line: each character that does not print becomes a space."""
    text = shorten(text, length_max)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def shorten(text: str, length_max: int) -> str:
    """Returns at most `length_max` characters of the text, with an ellipsis where it was cut."""
    return text if len(text) <= length_max else text[: length_max - 1] + ELLIPSIS


def missing_line(dropped: int, cause: str = "") -> bytes:
    """Returns the line that replaces dropped bytes of an output log."""
    return f"\n[waterflow: {dropped} bytes of output were dropped here{': ' if cause else ''}{cause}]\n".encode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def size_text(size: int) -> str:
    """Returns a number of bytes as text, such as `1.5 MiB`."""
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"
