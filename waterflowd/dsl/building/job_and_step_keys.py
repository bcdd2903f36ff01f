"""Keys that jobs and steps share: `env`, `working-directory`, `shell` and `retry`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from waterflow_agent.display import quote
from waterflow_agent.nodes.schema import SHELLS
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.constants import constant_texts
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.lints import jobs_and_steps as lints
from waterflowd.dsl.reading.tree import Document, Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.expr.scripts import VARIABLE_PREFIX
from waterflowd.model.plan import ALL_VARIABLES, RetryPolicy

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NAME_CHARACTERS_MAX = 255


def check_variable_names(path: Path, names: Iterable[str], document: Document, report: DiagnosticReport) -> None:
    """Reports names that are not those of environment variables, and those reserved for expressions in scripts."""
    for name in names:
        if name == ALL_VARIABLES:
            continue
        if not _NAME.fullmatch(name) or len(name) > _NAME_CHARACTERS_MAX:
            text = f"{quote(name)} is not a valid name of an environment variable"
            hint = "use letters, digits, _, - and ., and begin with a letter or _"
        elif name.upper().startswith(VARIABLE_PREFIX):
            text = f"names that begin with {VARIABLE_PREFIX} are reserved for expressions in scripts"
            hint = "choose another name"
        else:
            continue
        report.add(document.key_start((*path, name)), codes.WRONG_VALUE, text, hint)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_working_directory(source: SourceFile, path: Path, directory: str | None) -> None:
    """Reports a directory outside the job's; one with an expression is checked in the run."""
    if directory is None or not expr.is_static(directory):
        return
    what = ""
    if directory.startswith("/"):
        what = "is absolute"
    elif ".." in directory.split("/"):
        what = "leaves the job's directory"
    if _CONTROL.search(directory):
        what = "contains a control character"
    if what:
        text = f"working-directory {quote(directory)} {what}; expected a path inside the job's directory"
        hint = "use cd in the script to leave it" if what != "contains a control character" else ""
        source.at_value(path, codes.OUTSIDE_PATH, text, hint)


def check_shell(source: SourceFile, path: Path, shell: str | None, available: Availability) -> None:
    """Reports a shell that no server knows; one that an expression yields is checked as far as the file determines it."""
    for text in () if shell is None else constant_texts(shell, available) or ():
        if text and text not in SHELLS and "{0}" not in text:
            message = f"shell: {quote(text)} is unknown; expected {', '.join(SHELLS)}, or a command with {{0}}"
            source.at_value(path, codes.WRONG_VALUE, message, f"write {text} {{0}} to run it with that program")


def retry_policy(source: SourceFile, path: Path, retry: models.Retry | None) -> RetryPolicy | None:
    """The retry policy at `path`."""
    if retry is None:
        return None
    lints.warn_retry(source, path, retry.max_attempts)
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_interval_ms=retry.initial_interval,
        backoff_coefficient=retry.backoff_coefficient,
        max_interval_ms=retry.max_interval,
        jitter=retry.jitter,
        on=tuple(retry.on),
        never_on=tuple(retry.never_on),
    )
