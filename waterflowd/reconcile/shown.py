"""How text that comes from Git is shown to people: on one line, bounded, with everything that does not print escaped.

Rule of this file: it is for display only. Identities, contexts and payloads carry the text as it is.
"""

from __future__ import annotations


def shown(text: str, length_max: int = 200) -> str:
    """The text with control, format and line-breaking characters as `\\n`, `\\x1b`, `\\u202e`, cut with an ellipsis."""
    # The cut comes first, so that the work is bounded; escapes may make the result longer, hence the second one.
    head = text[: length_max + 1]
    if not head.isprintable():
        head = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in head)
    return head if len(head) <= length_max else head[: length_max - 1] + "…"
