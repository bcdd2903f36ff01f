"""References to secrets: what the log holds instead of their values.

Rules of this file: an expression never sees a secret's value. `${{ secrets.NAME }}` evaluates to a reference, which the host
replaces by the value when it sends the task, and only for the names listed in the step's plan. So text from elsewhere that
looks like a reference reveals nothing that the step could not read anyway.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Characters of the private use area: no keyboard has them, and every store and wire keeps them.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_REFERENCE = re.compile(f"{_OPEN}([A-Za-z0-9_-]{{1,100}}){_CLOSE}")


def reference(name: str) -> str:
    """The reference to the secret."""
    return f"{_OPEN}{name}{_CLOSE}"


def has_reference(value: object) -> bool:
    """Whether a value is text that contains a reference to a secret."""
    return isinstance(value, str) and _OPEN in value


def fill(value: Any, names: frozenset[str], resolve: Callable[[str], str]) -> Any:
    """The JSON value with the references to `names` replaced by the results of `resolve`; others stay."""
    match value:
        case str():
            if _OPEN not in value:
                return value
            return _REFERENCE.sub(lambda found: resolve(found[1]) if found[1] in names else found[0], value)
        case dict():
            return {key: fill(item, names, resolve) for key, item in value.items()}
        case list():
            return [fill(item, names, resolve) for item in value]
    return value
