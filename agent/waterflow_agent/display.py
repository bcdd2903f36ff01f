"""Text from outside, made safe to show to people: on a terminal, in a log line, in a message or on a page.

Rules of this file: it is for display only. Identities, contexts and payloads carry the text unchanged. The daemon and the agent
use the same functions, so that text looks the same wherever it is shown.
"""

from __future__ import annotations

import re

#: Control characters, line and paragraph separators, surrogates, and invisible characters that reorder or hide text.
#: The joiners U+200C and U+200D stay: scripts and emoji need them, and they cannot hide anything.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
#: Characters. More than any reason or error of the project has, and few enough that no name fills a screen.
LENGTH_MAX = 1_000
#: Marks where text was cut.
ELLIPSIS = "…"


def escape_for_display(text: str, length_max: int = LENGTH_MAX) -> str:
    """Returns the text on one line with every unsafe character escaped, such as `\\n`, `\\x1b` and `\\u202e`.

    The result has at most `length_max` characters and ends with an ellipsis where it was cut.
    """
    # The text is cut before it is escaped, so that the work is bounded, and again after it, because escapes are longer.
    text = text[: length_max + 1]
    if not text.isprintable():
        text = _UNSAFE.sub(_escape, text)
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


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
