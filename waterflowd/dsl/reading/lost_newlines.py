"""Detects a file whose newlines were lost in transfer, as by `curl -d @file` or `tr`, so that the error can say so."""

from __future__ import annotations

import re

_KEY = re.compile(r"(name|on|jobs|runs-on|steps|uses|run|with|needs):(?=\s|\\n|$)")

#: Minimum number of different keys in one line that cannot be accidental; one of them must be `jobs`.
_KEYS_MIN = 3


def lost_newlines(text: str) -> tuple[str, str] | None:
    """Message and suggestion when `text` was a workflow before its newlines were lost; else None."""
    stripped = text.strip()
    if "\n" in stripped or "\r" in stripped or stripped.startswith("{"):
        return None
    found = set(_KEY.findall(stripped))
    if "jobs" not in found or len(found) < _KEYS_MIN:
        return None
    if "\\n" in stripped:
        message = "the file is a single line with the two characters \\n in place of newlines"
        return message, "send real newlines: curl --data-binary @file"
    message = "the file is a single line: its newlines were lost in transfer"
    return message, "send the file as it is: curl --data-binary @file (curl -d and tr remove newlines)"
