"""Names of files below a folder, and patterns for them.

Listings of servers are not trusted: a name that could lead out of the folder is rejected before anything is written.
Patterns are those of a shell: `*`, `?` and `[...]` match within one part of a name, `**` matches any number of folders, and a
leading dot must be matched explicitly.
"""

from __future__ import annotations

import re

from waterflow_agent.nodes.node import NodeFailure

#: Files of one transfer. Each needs about half a kilobyte during the transfer.
FILES_MAX = 100_000
#: Length of a whole name, as PATH_MAX of Linux.
LENGTH_MAX = 4_096


def checked(name: str, where: object) -> str:
    """Return the name if it is below a folder. Raises `NodeFailure`."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise _refusal(name, where, "which leads out of the destination")
    # Invalid UTF-8 is decoded to unprintable characters.
    if "" in parts or "." in parts or len(name) > LENGTH_MAX or not name.isprintable():
        raise _refusal(name, where, "which is not a valid name")
    return name


def part(name: str, where: object) -> str:
    """Return the name if it has a single part. Raises `NodeFailure`."""
    if "/" in name:
        raise _refusal(name, where, "which leads out of the destination")
    return checked(name, where)


def _refusal(name: str, where: object, reason: str) -> NodeFailure:
    shortened = name if len(name) <= 200 else f"{name[:200]}..."
    return NodeFailure(f"{where} lists {shortened!r}, {reason}; nothing was written")


def is_pattern(text: str) -> bool:
    """Return whether the text contains a wildcard."""
    return any(char in text for char in "*?[")


def split(text: str) -> tuple[str, str]:
    """Return the folder before the first part with a wildcard, without a trailing slash, and the pattern below it."""
    parts = text.split("/")
    first = next(index for index, part in enumerate(parts) if is_pattern(part))
    folder = "/".join(parts[:first])
    return folder or ("/" if text.startswith("/") else ""), "/".join(parts[first:])


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern to a regular expression. Raises `NodeFailure`."""
    parts = text.split("/")
    found = "/".join(_part(part) if part != "**" else "\0" for part in parts)
    anything = r"(?!\.)[^/]+"
    found = re.sub("\0/", lambda _: f"(?:{anything}/)*", found).replace("\0", f"{anything}(?:/{anything})*")
    try:
        return re.compile(found, re.DOTALL)
    except re.error:
        raise NodeFailure(f'invalid pattern "{text}"') from None


def _part(text: str) -> str:
    found = "" if text.startswith(".") else r"(?!\.)"
    position = 0
    while position < len(text):
        char = text[position]
        end = text.find("]", position + 2) if char == "[" else -1
        if char == "*":
            found += "[^/]*"
        elif char == "?":
            found += "[^/]"
        elif end > 0:
            inner = text[position + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            found += f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner}]"
            position = end
        else:
            found += re.escape(char)
        position += 1
    return found
