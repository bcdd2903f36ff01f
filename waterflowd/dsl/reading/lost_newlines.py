"""Notices a file whose newlines were lost on the way, as `curl -d @file` and `tr` do, so that the error can say just that."""

from __future__ import annotations

import re

_KEY = re.compile(r"(name|on|jobs|runs-on|steps|uses|run|with|needs):(?=\s|\\n|$)")

#: So many different keys in one line are no accident, and one of them must be `jobs`.
_KEYS_MIN = 3


def lost_newlines(text: str) -> tuple[str, str] | None:
    """Message and suggestion when `text`, which is no workflow as it stands, was one with newlines; else None."""
    stripped = text.strip()
    if "\n" in stripped or "\r" in stripped or stripped.startswith("{"):
        return None
    found = set(_KEY.findall(stripped))
    if "jobs" not in found or len(found) < _KEYS_MIN:
        return None
    if "\\n" in stripped:
        message = "the file is one line with the two characters \\n where its newlines were"
        return message, "send real newlines: curl --data-binary @file"
    message = "the file's newlines were lost on the way: all of it is one line"
    return message, "send the file as it is: curl --data-binary @file (curl -d and tr remove newlines)"
