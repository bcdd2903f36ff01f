"""`working-directory`: a path inside of the job's directory."""

from __future__ import annotations

import re

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl.building.source import Source
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_directory(source: Source, path: Path, directory: str | None) -> None:
    """Reports a directory that is known to leave the job's; one with an expression is checked when it is known."""
    if directory is None or not expr.is_static(directory):
        return
    what = "absolute" if directory.startswith("/") else "above it" if ".." in directory.split("/") else ""
    if _CONTROL.search(directory):
        what = "with a control character"
    if what:
        text = f"working-directory {quote(directory)} is {what}; it is a path inside of the job's directory"
        hint = "use cd in the script to leave it" if what != "with a control character" else ""
        source.at_value(path, codes.OUTSIDE_PATH, text, hint)
