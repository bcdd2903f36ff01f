"""Names of files below a folder, and patterns of them.

A name comes from a listing, and a listing may come from a server that lies: what is not plainly a name below the folder is
refused, before anything is written. Patterns are those of a shell: `*`, `?` and `[...]` match inside of one part of a name,
`**` any number of folders, and a leading dot only what is written as one.
"""

from __future__ import annotations

import re

from waterflow_agent.nodes.node import NodeFailure

#: Of one transfer; more is a failure that says so. Each costs about half a kilobyte while the transfer runs.
FILES_MAX = 100_000
#: Of a whole name, as PATH_MAX of Linux.
LENGTH_MAX = 4_096


def checked(name: str, where: object) -> str:
    """`name` if it is one below a folder. Raises `NodeFailure` that shows it."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise _refusal(name, where, "which would lead out of the destination")
    # What is not UTF-8 has characters that are not printable, too.
    if "" in parts or "." in parts or len(name) > LENGTH_MAX or not name.isprintable():
        raise _refusal(name, where, "which is no name that other places can have")
    return name


def part(name: str, where: object) -> str:
    """`name` if it is one in a folder, without a folder in it. Raises `NodeFailure` that shows it."""
    if "/" in name:
        raise _refusal(name, where, "which would lead out of the destination")
    return checked(name, where)


def _refusal(name: str, where: object, why: str) -> NodeFailure:
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    return NodeFailure(f"{where} lists {shown!r}, {why}; nothing was written")


def is_pattern(text: str) -> bool:
    """Whether something in it is a wildcard."""
    return any(char in text for char in "*?[")


def split(text: str) -> tuple[str, str]:
    """The folder in front of the first part with a wildcard, without a slash at its end, and the pattern below it."""
    parts = text.split("/")
    first = next(index for index, part in enumerate(parts) if is_pattern(part))
    folder = "/".join(parts[:first])
    return folder or ("/" if text.startswith("/") else ""), "/".join(parts[first:])


def compile_pattern(text: str) -> re.Pattern[str]:
    """What the pattern matches. Raises `NodeFailure`."""
    parts = text.split("/")
    found = "/".join(_part(part) if part != "**" else "\0" for part in parts)
    anything = r"(?!\.)[^/]+"
    found = re.sub("\0/", lambda _: f"(?:{anything}/)*", found).replace("\0", f"{anything}(?:/{anything})*")
    try:
        return re.compile(found, re.DOTALL)
    except re.error:
        raise NodeFailure(f'"{text}" is no pattern') from None


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
