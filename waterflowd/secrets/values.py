"""What a secret's name and value may be, and the text that holds several of them.

Rules of this file: no message holds a value, or a line that one stands in.
"""

from __future__ import annotations

import tomllib

from waterflow_agent.errors import Rejected

#: Linux takes no variable of more than 128 KiB, and a value may stand in the midst of a text.
BYTES_MAX = 64 << 10


def normalize_name(name: str) -> str:
    """The name as sources compare it: the same in any case, `-` and `_` are one."""
    return name.replace("-", "_").lower()


def problem(value: str) -> str:
    """What makes it impossible to give this to a step; empty for nothing."""
    if "\0" in value:
        return "has a NUL byte, which no environment can hold"
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {size} bytes; {BYTES_MAX} is the most" if size > BYTES_MAX else ""


def parse(content: bytes, place: str) -> dict[str, str]:
    """The values in TOML lines of `name = "value"`, by plain name; raises `Rejected` WF622 that names the place."""
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        # The message of the parser may quote the line, and with it a secret: its place is enough.
        where = str(error).rpartition("(")[2].rstrip(")") if isinstance(error, tomllib.TOMLDecodeError) else "no text"
        raise Rejected("WF622", f'{place} is not TOML ({where}); it holds lines of name = "value"') from None
    wrong = [name for name, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise Rejected("WF622", f'{place}: the value of {wrong[0]} is no text; write {wrong[0]} = "value"')
    return {normalize_name(name): value for name, value in found.items()}
