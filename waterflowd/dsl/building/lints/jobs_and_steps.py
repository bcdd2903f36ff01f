"""Lints: warnings about mistakes that are not errors, such as conditions that are always false, values that have no effect, and
retries that may repeat a request.

Rules of this file: warn only of certain mistakes, never of what depends on data or may be intended.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping

from waterflowd import expr
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.models import github_names
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.expr.nodes import walk
from waterflowd.model.plan import ALL_VARIABLES, Json, RetryPolicy
from waterflowd.model.wording import did_you_mean

#: Methods that are not idempotent (RFC 9110, section 9.2.2; RFC 5789, section 2), and the header that makes them so where the
#: server knows it.
_NOT_IDEMPOTENT, _IDEMPOTENCY_KEY = frozenset(["POST", "PATCH"]), "idempotency-key"
_GITHUB_VARIABLE = re.compile(r"\$(?:env:|\{)?(GITHUB_[A-Z_]+|RUNNER_[A-Z_]+)\b")
#: A command of GitHub in a string or at the beginning of a word, and what replaces it.
_STATE_COMMAND = re.compile(r"(?<![\w:])::(set-output|set-env|add-path|save-state)\b", re.IGNORECASE)
_STATE_COMMANDS = {
    "set-output": 'write echo "NAME=VALUE" >> "$GITHUB_OUTPUT"',
    "set-env": 'write echo "NAME=VALUE" >> "$GITHUB_ENV"',
    "add-path": 'write echo "DIRECTORY" >> "$GITHUB_PATH"',
    "save-state": "write a file in $RUNNER_TEMP, which later steps of the job can read",
}
_UNDECIDED = frozenset(["now", "hashfiles", "success", "failure", "cancelled"])


def is_never(condition: str | None) -> bool:
    """Whether an `if` is false in every run, because it depends on the file alone."""
    if condition is None:
        return False
    try:
        node = expr.parse_condition(condition)
        if expr.is_success_implied(node):
            assert isinstance(node, expr.Logical)
            node = node.operands[1]
        for part, _ in walk(node):
            if isinstance(part, expr.Context) or (isinstance(part, expr.Call) and part.name.lower() in _UNDECIDED):
                return False
        return not expr.evaluate_condition(node, expr.Env(status=expr.Status()))
    except expr.ExpressionError:
        return False


def warn_never(source: SourceFile, path: Path, what: str, condition: str | None) -> bool:
    """Warns of an `if` below `path` that is always false; returns whether it is."""
    if not is_never(condition):
        return False
    source.warn_value((*path, "if"), codes.NEVER_RUNS, f"this {what} can never run: its condition is always false")
    return True


def warn_unreachable(
    source: SourceFile, needs: dict[str, tuple[str, ...]], conditions: dict[str, str | None], never: Collection[str]
) -> None:
    """Warns of jobs that require the success of a job that can never run."""
    dependents: dict[str, list[str]] = {}
    for job, needed in needs.items():
        for need in needed:
            dependents.setdefault(need, []).append(job)
    stopped = set(never)
    waiting = deque(never)
    while waiting:
        need = waiting.popleft()
        for job in dependents.get(need, ()):
            if job in stopped or not _requires_success(conditions[job]):
                continue
            stopped.add(job)
            waiting.append(job)
            text = f"this job can never run, because the job {need} in its needs never runs"
            hint = "add `if: always()` to run it anyway"
            source.warn_value(("jobs", job, "needs", needs[job].index(need)), codes.NEVER_RUNS, text, hint)


def warn_retry(source: SourceFile, path: Path, max_attempts: int) -> None:
    """Warns of a `retry` at `path` that never retries."""
    if max_attempts == 1:
        text = "max-attempts includes the first attempt, so 1 means no retry"
        source.warn_value((*path, "max-attempts"), codes.NO_EFFECT, text, "write 2 or more, or remove retry")


def warn_repeat(
    source: SourceFile, path: Path, node: str, params: Mapping[str, Json], retry: RetryPolicy | None
) -> None:
    """Warns of the `retry` of a step at `path` that may repeat a request whose response was lost."""
    if retry is None or retry.max_attempts < 2:
        return
    if node == "notify/webhook":
        text, hint = (
            "the message may be sent twice: the first attempt may succeed although its response is lost",
            "remove retry if once is enough",
        )
    elif node == "http/request" and _is_repeated(params):
        method = str(params["method"]).upper()
        text = f"the {method} may be executed twice: the first attempt may succeed although its response is lost"
        hint = "send an Idempotency-Key header that the server supports, such as ${{ run.id }}, or remove retry"
    else:
        return
    source.warn_value((*path, "retry"), codes.UNSAFE_RETRY, text, hint)


def _is_repeated(params: Mapping[str, Json]) -> bool:
    headers = params.get("headers")
    has_key = isinstance(headers, dict) and any(name.lower() == _IDEMPOTENCY_KEY for name in headers)
    return str(params.get("method", "")).upper() in _NOT_IDEMPOTENT and not has_key


def warn_github_variables(source: SourceFile, path: Path, script: Json, known: Collection[str]) -> None:
    """Warns of GitHub's variables in the script at `path` that nothing sets, so that they are empty."""
    if not isinstance(script, str) or ALL_VARIABLES in known or not source.report.takes_warnings:
        return
    unset = dict.fromkeys(found for found in _GITHUB_VARIABLE.findall(script) if found not in known)
    for name in unset:
        if name in github_names.SCRIPT_VARIABLES or re.search(rf"(?<![\w$]){name}=", script):
            continue
        hint = github_names.GITHUB_ONLY_VARIABLES.get(name) or did_you_mean(name, github_names.SCRIPT_VARIABLES)
        source.warn_value(path, codes.ALWAYS_NULL, f"the variable {name} of GitHub is empty here", hint)


def warn_state_commands(source: SourceFile, path: Path, script: Json) -> None:
    """Warns of commands in the script at `path` that would set something on GitHub: what a step prints sets nothing."""
    if not isinstance(script, str) or not source.report.takes_warnings:
        return
    for name in dict.fromkeys(found.lower() for found in _STATE_COMMAND.findall(script)):
        text = f"the command ::{name} has no effect: what a step prints sets nothing"
        source.warn_value(path, codes.NO_EFFECT, text, _STATE_COMMANDS[name])


def warn_timeout(source: SourceFile, path: Path, step: float | str | None, job: float | str) -> None:
    """Warns of a step's `timeout-minutes` that is longer than its job's."""
    if isinstance(step, float) and isinstance(job, float) and step > job:
        text = f"the job times out after {job:g} minutes, before this step does after {step:g}"
        hint = f"set timeout-minutes of the job to {step:g} or more"
        source.warn_value((*path, "timeout-minutes"), codes.NO_EFFECT, text, hint)


def _requires_success(condition: str | None) -> bool:
    if condition is None:
        return True
    try:
        return expr.is_success_implied(expr.parse_condition(condition))
    except expr.ExpressionError:
        return False
