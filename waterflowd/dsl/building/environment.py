"""Names of environment variables, as `env` gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from waterflow_agent.display import quote
from waterflowd.dsl.reading.tree import Document, Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import Report
from waterflowd.expr.scripts import VARIABLE_PREFIX

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_CHARACTERS_MAX = 255


def check_environment(path: Path, names: Iterable[str], document: Document, report: Report) -> None:
    """Reports names that no shell can read, and those that scripts keep for their expressions."""
    for name in names:
        if not _NAME.fullmatch(name) or len(name) > _NAME_CHARACTERS_MAX:
            text = f"{quote(name)} is no name of an environment variable"
            hint = "letters, digits and _ only, and no digit at the beginning"
        elif name.upper().startswith(VARIABLE_PREFIX):
            text = f"names that begin with {VARIABLE_PREFIX} are kept for the expressions of scripts"
            hint = "choose another name"
        else:
            continue
        report.add(document.key_start((*path, name)), codes.WRONG_VALUE, text, hint)
