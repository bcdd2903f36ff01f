"""Lints of the filter patterns of triggers: patterns that match nothing.

Rules of this file: warn only of certain mistakes. GitHub's rules for patterns are in `reconcile/globs.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from waterflow_agent.display import quote
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes

_REF_PREFIXES = {"branches": "refs/heads/", "tags": "refs/tags/"}
#: Characters that Git allows in no ref, except for those with a meaning in patterns.
_NOT_IN_REFS = re.compile(r"[\x00-\x20~^:\x7f]|\.\.|//|@\{")


def warn_patterns(source: SourceFile, path: Path, kind: str, patterns: Sequence[str]) -> None:
    """Warns of patterns at `path` that match nothing; `kind` is `branches`, `tags` or `paths`."""
    for position, written in enumerate(patterns):
        pattern = written.removeprefix("!")
        message, hint = _mistake(kind, pattern)
        if message:
            source.warn_value((*path, position), codes.NO_EFFECT, f"{quote(written)} matches nothing: {message}", hint)


def _mistake(kind: str, pattern: str) -> tuple[str, str]:
    """What is wrong with a pattern, and what to do; empty texts if nothing is."""
    plain = re.sub(r"\\.", "", pattern)
    if plain.rfind("[") > plain.rfind("]"):
        return "its [ is never closed", r"add ], or write \[ for the character"
    if pattern.endswith("\\") and not pattern.endswith("\\\\"):
        return "nothing follows the backslash at its end", "remove it"
    if re.match(r"[?+]", plain):
        return f"nothing precedes the {plain[0]}, which repeats the character before it", "write * for any text"
    if kind == "paths":
        return _mistake_in_path(pattern)
    prefix = _REF_PREFIXES[kind]
    if pattern.startswith(prefix):
        return f"names of {kind} have no {prefix}", f"write {pattern.removeprefix(prefix)}"
    if pattern.startswith("refs/"):
        return f"names of {kind} do not begin with refs/", "write the name alone"
    if found := _NOT_IN_REFS.search(plain):
        return f"no name contains {quote(found.group())}", "remove it"
    if pattern.startswith("/") or (pattern.endswith("/") and not pattern.endswith("\\/")):
        return "names do not begin or end with a slash", "remove it, or write /** for everything below"
    return "", ""


def _mistake_in_path(pattern: str) -> tuple[str, str]:
    if pattern.startswith("./"):
        return "paths begin at the root of the repository, without ./", f"write {pattern.removeprefix('./')}"
    if pattern.startswith("/"):
        return "paths begin at the root of the repository, without a slash", f"write {pattern.lstrip('/')}"
    if pattern == ".." or pattern.startswith("../") or "/../" in pattern:
        return "paths do not contain ..", "write the path from the root of the repository"
    if pattern.endswith("/"):
        return "a path of a file does not end with a slash", f"write {pattern}** for everything below"
    if pattern != pattern.strip():
        return "it begins or ends with white space", f"write {pattern.strip()}"
    return "", ""
