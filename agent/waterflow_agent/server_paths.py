"""Paths of a job that only its server knows: references in values that the daemon evaluates, and how they are filled in.

Rules of this file: `${{ github.workspace }}` and the like evaluate to a reference, which the agent replaces when it starts the
step. A reference reveals nothing, so text from elsewhere that looks like one does no harm. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: The job's directory, the directory for temporary files of the job, and the directory that contains the job's.
WORKSPACE, TEMP, PARENT = "workspace", "temp", "parent"

# Characters of the private use area: no keyboard has them, and every store and wire keeps them.
_OPEN, _CLOSE = "\ue0f2", "\ue0f3"
_REFERENCE = re.compile(f"{_OPEN}([a-z]{{1,20}}){_CLOSE}")


def reference(name: str) -> str:
    """Return the reference to a path."""
    return f"{_OPEN}{name}{_CLOSE}"


def fill(value: Any, paths: Mapping[str, str]) -> Any:
    """Return the JSON value with references replaced by the paths; the same object if it has none."""
    match value:
        case str():
            return _REFERENCE.sub(lambda found: paths.get(found[1], found[0]), value) if _OPEN in value else value
        case dict():
            return _if_changed(value, {key: fill(item, paths) for key, item in value.items()})
        case list():
            filled = [fill(item, paths) for item in value]
            return value if all(new is old for new, old in zip(filled, value, strict=True)) else filled
    return value


def _if_changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return before if all(after[key] is item for key, item in before.items()) else after
