"""Names and values of secrets, and the TOML text that holds several of them.

Rules of this file: no message contains a value, or a line that holds one.
"""

from __future__ import annotations

import tomllib

from waterflow_agent.errors import Rejected

#: Linux limits an environment variable to 128 KiB, and a value may be part of a longer text.
BYTES_MAX = 64 << 10


def normalize_name(name: str) -> str:
    """The name as sources compare it: in lower case, with `_` for `-`."""
    return name.replace("-", "_").lower()


def problem(value: str) -> str:
    """Why a step cannot receive the value; empty if it can."""
    if "\0" in value:
        return "contains a NUL byte, which an environment variable cannot hold"
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {size:,} bytes; the maximum is {BYTES_MAX:,}" if size > BYTES_MAX else ""


def parse(content: bytes, source: str) -> dict[str, str]:
    """The values in TOML lines of `name = "value"`, by normalized name; raises `Rejected` WF622 that names the source."""
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        # The parser's message may quote the line and the secret in it; the position is enough.
        where = str(error).rpartition("(")[2].rstrip(")") if isinstance(error, tomllib.TOMLDecodeError) else "not text"
        raise Rejected("WF622", f'{source} is not valid TOML ({where}); expected lines of name = "value"') from None
    wrong = [name for name, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise Rejected("WF622", f'{source}: the value of {wrong[0]} must be a string; write {wrong[0]} = "value"')
    return {normalize_name(name): value for name, value in found.items()}
