"""What msgspec says of a value with a wrong type, in the words of the documentation and of messages.

Rules of this file: people who write files and settings do not know msgspec, nor the types of Python or JSON.
"""

from __future__ import annotations

import re

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_PHRASES = (
    (re.compile(r"^Object missing required field"), "missing key"),
    (re.compile(r"^Object contains unknown field"), "unknown key"),
    (re.compile(r"^Invalid enum value"), "unknown value"),
    (re.compile(r"^E"), "e"),
    (re.compile(r" matching regex '\^\[\^,\]\*\$'"), " without a comma"),
    (re.compile(r" of length >= "), " with a length of at least "),
    (re.compile(r" of length <= "), " with a length of at most "),
    (re.compile(r" >= "), " of at least "),
    (re.compile(r" <= "), " of at most "),
    (re.compile(r", got "), ", not "),
    (re.compile(r"`"), ""),
)
_TYPE = re.compile(r"`(\w+(?: \| \w+)*)`")


def explain(error: Exception) -> tuple[str, str]:
    """What a `msgspec.ValidationError` says, without a capital, and the path of the value, such as `api.port` or `steps[0]`.

    The path is empty for the whole value.
    """
    text, _, path = str(error).partition(" - at ")
    text = _TYPE.sub(_in_words, text)
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    return text, path.strip("`").removeprefix("$").removeprefix(".")


def located(error: Exception) -> str:
    """The same as one text, which begins with the path."""
    text, path = explain(error)
    return f"{path}: {text}" if path else text


def _in_words(found: re.Match[str]) -> str:
    names = found[1].split(" | ")
    if not all(name in _TYPES for name in names):
        return f'"{found[1]}"'
    # Where something else is possible, "nothing" only confuses.
    return " or ".join(_TYPES[name] for name in names if name != "null" or len(names) == 1)
