"""Checks the expressions of a file: their grammar, their names, and what each key may use.

Rules of this file: an offset in a text becomes an offset in the file, also inside block scalars. What a key may use is an
`Availability` (`contexts`); contexts, steps and jobs that exist but are not available get an error that says so. A value that
is always null gets a warning.
"""

from __future__ import annotations

import re

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl.building import secret_references, server_values
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.constants import combinations, find_constants, value_at
from waterflowd.dsl.building.contexts import (
    KNOWN,
    NEED_FIELDS,
    SECRETS,
    STEP_FIELDS,
    Availability,
    NeededJob,
    ServerValue,
)
from waterflowd.dsl.building.lints.expressions import lints, mapping_as_text
from waterflowd.dsl.models import github_names
from waterflowd.dsl.reading.offsets import source_offset
from waterflowd.dsl.reading.tree import Path, Scalar
from waterflowd.dsl.reporting import codes
from waterflowd.expr import errors as expression_errors
from waterflowd.expr import file_hash
from waterflowd.expr.json_text import Problem
from waterflowd.expr.nodes import IMPLIED, Call, Literal, walk
from waterflowd.expr.scope import ANY
from waterflowd.model.plan import Json
from waterflowd.model.wording import did_you_mean, listed

_DIRECTORY = "working-directory"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_OPEN = "${{"


def _null_of_job(name: str, job: NeededJob, used: tuple[str, ...]) -> tuple[str, str]:
    """Message and suggestion for a property of a needed job that is always null; empty texts for others."""
    key = used[2].lower()
    if key not in NEED_FIELDS:
        fields = ", ".join(NEED_FIELDS)
        return f"jobs have no property {quote(used[2])}", did_you_mean(
            key, NEED_FIELDS
        ) or f"known properties: {fields}"
    if key == "outputs" and (job.has_matrix or job.is_each):
        below = "servers['NAME']" if job.is_each and not job.has_matrix else "instances[...]"
        return f"the job {quote(name)} has several instances, so it has no outputs itself", (
            f"read one: {used[0]}.{name}.{below}.outputs"
        )
    if key == "servers" and not job.is_each:
        return f"the job {quote(name)} has no target: each, so it has no servers", ""
    if key == "instances" and not job.has_matrix and not job.is_each:
        return f"the job {quote(name)} has neither a matrix nor target: each, so it has no instances", ""
    if key != "outputs" or job.outputs is None or len(used) < 4 or used[3] == ANY:
        return "", ""
    if used[3] in job.outputs:
        return "", ""
    known = f"known outputs: {listed(job.outputs)}" if job.outputs else "add it under outputs of that job"
    return f"the job {quote(name)} has no output {quote(used[3])}", did_you_mean(used[3], job.outputs) or known


def _misuse(use: server_values.Use, *, is_sent: bool) -> tuple[str, str, str] | None:
    """Code, message and suggestion for a use of a value that only the server knows; None if it is filled in there."""
    name = f"{use.context}.{use.name}" if use.name else use.context
    variable = server_values.PATHS.get((use.context, use.name.lower()))
    if variable is not None:
        hint = f"write {variable} in the script"
        if not is_sent:
            return codes.SERVER_ONLY, f"{name} is only known on the server; it can be used in run, env and with", hint
        return (
            (codes.SERVER_ONLY, f"{name} is only known on the server, so nothing can be computed with it", hint)
            if (use.is_computed)
            else None
        )
    if is_sent and not use.is_computed:
        return None
    hint = "pass it to the script through env, and compute there"
    if use.context != SECRETS:
        what = "a secret" if use.kind is ServerValue.SECRET else "a path that only the server knows"
        code = codes.WRONG_SECRET if use.kind is ServerValue.SECRET else codes.SERVER_ONLY
        subject = f"{name} contains {what}" if use.name else f"the variables of {use.context} include {what}"
        return (
            code,
            f"{subject}, so it can only be interpolated (alone, in text or in format(...)) in run, env and with",
            hint,
        )
    if not use.name:
        text = "a secret must be named as secrets.NAME; all secrets, or a computed name, cannot be used"
    else:
        text = "a secret can only be interpolated (alone, in text or in format(...)), not computed with"
    return codes.WRONG_SECRET, text, hint


#: Each set of patterns costs a walk over the tree of the commit.
_HASHED_MAX = 20


class ExpressionChecker:
    """Checks texts, conditions, values and scripts of one file."""

    def __init__(self, source: SourceFile, hashed: dict[str, None]) -> None:
        self._document = source.document
        self._report = source.report
        self._hashed = hashed

    def text(self, path: Path, value: str, available: Availability) -> None:
        """Checks a text that may hold expressions."""
        if _OPEN not in value:
            return
        try:
            template = expr.parse_template(value)
        except expr.ExpressionError as error:
            self._add(path, value, error)
            return
        is_text = template.single is None or path[-1:] == ("run",)
        for expression in template.expressions:
            self._check(path, value, expression.node, available, available.scope)
            for lint in mapping_as_text(expression.node) if is_text and self._report.takes_warnings else ():
                self._report.warn(self._offset(path, value, lint.offset), lint.code, lint.message, lint.hint)

    def value(self, path: Path, value: Json, available: Availability) -> None:
        """Checks every text in a JSON value."""
        match value:
            case str():
                self.text(path, value, available)
            case dict():
                for key, item in value.items():
                    self.value((*path, key), item, available)
            case list():
                for position, item in enumerate(value):
                    self.value((*path, position), item, available)

    def condition(self, path: Path, value: str | None, available: Availability) -> None:
        """Checks an `if`."""
        if value is None:
            return
        try:
            node = expr.parse_condition(value)
        except expr.ExpressionError as error:
            self._add(path, value, error)
            return
        self._check(path, value, node, available, available.condition_scope)

    def script(self, path: Path, text: str, shell: str, available: Availability, *, unsafe: bool) -> expr.Script | None:
        """The script with its expressions turned into data; None when there is an error, which is reported.

        The names in it are checked by `text`, of which this repeats nothing.
        """
        if _OPEN not in text:
            return expr.Script(text=text)
        constant = find_constants(available)
        try:
            return expr.lower_script(text, shell, unsafe=unsafe, constant=constant)
        except expr.ExpressionError as first:
            errors = [first]
            if first.code == expression_errors.UNSAFE_EXPRESSION:
                # Lowering stops at the first error; authors want to see all of them.
                errors = expr.check_script(text, shell, constant=constant)
        for error in errors:
            self._add(path, text, error)
        return None

    def _check(self, path: Path, text: str, node: expr.Node, available: Availability, scope: expr.Scope) -> None:
        errors = expr.check(node, scope)
        references = [(used, offset) for used, offset in expr.references(node) if offset != IMPLIED]
        uses = {offset: used for used, offset in references}
        if self._report.takes_warnings:
            for lint in lints(node, available.booleans):
                self._report.warn(self._offset(path, text, lint.offset), lint.code, lint.message, lint.hint)
        for error in errors:
            used = next((uses[offset] for offset in sorted(uses, reverse=True) if offset <= error.offset), ())
            self._add_named(path, text, error, used, available)
        self._hash_files(path, text, node)
        for used, offset in references:
            if used[0] == SECRETS and SECRETS in scope.contexts:
                self._secret(path, text, used, offset)
            elif used[0] == "matrix":
                self._missing_in_matrix(path, text, used, offset, available)
            elif not errors and len(used) > 2:
                self._always_null(path, text, used, offset, available)
        self._server_values(path, text, node, available)
        for used, offset in references:
            if used[0] == "github":
                self._github(path, text, used, offset)

    def _server_values(self, path: Path, text: str, node: expr.Node, available: Availability) -> None:
        """Reports uses of secrets and of other values that only the server knows, except where they are filled in."""
        is_sent = available.is_sent or path[-1] == _DIRECTORY
        for use in server_values.uses(node, available.server_env):
            if use.context == SECRETS and SECRETS not in available.contexts:
                continue  # Reported as a context that is not available.
            problem = _misuse(use, is_sent=is_sent)
            if problem is not None:
                self._report.add(self._offset(path, text, use.offset), *problem)

    def _github(self, path: Path, text: str, used: tuple[str, ...], offset: int) -> None:
        """Reports fields of the event that GitHub has and Waterflow does not, and warns of those that are always empty."""
        names = [name.lower() for name in used[1:3]]
        at = self._offset(path, text, offset)
        if names[:1] and (why := github_names.ALWAYS_EMPTY_FIELDS.get(names[0])):
            self._report.warn(at, codes.ALWAYS_NULL, f"github.{names[0]}: {why}")
        if len(names) < 2 or names[0] != "event":
            return
        field = names[1]
        if hint := github_names.GITHUB_ONLY_EVENT_FIELDS.get(field):
            self._report.add(at, codes.GITHUB_ONLY, f"github.event.{field} has no value in Waterflow", hint)
        elif why := github_names.ALWAYS_EMPTY_EVENT_FIELDS.get(field):
            hint = f"for a webhook with such data, write event.{field}"
            self._report.warn(at, codes.ALWAYS_NULL, f"github.event.{field}: {why}", hint)

    def _hash_files(self, path: Path, text: str, node: expr.Node) -> None:
        """Collects the patterns of `hashFiles`, which must be known when the run starts and its commit is available."""
        for call, _ in walk(node):
            if not isinstance(call, Call) or call.name.lower() != "hashfiles":
                continue
            patterns = [argument.value for argument in call.arguments if isinstance(argument, Literal)]
            written = [pattern for pattern in patterns if isinstance(pattern, str)]
            try:
                file_hash.patterns_of(written)
            except Problem as problem:
                self._report.add(self._offset(path, text, call.offset), codes.WRONG_VALUE, problem.text)
                continue
            if len(written) != len(call.arguments):
                message = "hashFiles takes string literals only, because files are hashed when the run starts"
                hint = "write the patterns out: hashFiles('**/package-lock.json')"
                self._report.add(self._offset(path, text, call.offset), codes.WRONG_VALUE, message, hint)
            elif len(self._hashed) < _HASHED_MAX or "\n".join(written) in self._hashed:
                self._hashed.setdefault("\n".join(written))
            else:
                message = f"a workflow can call hashFiles with at most {_HASHED_MAX} different sets of patterns"
                self._report.add(self._offset(path, text, call.offset), codes.BOUND, message)

    def _secret(self, path: Path, text: str, used: tuple[str, ...], offset: int) -> None:
        if len(used) > 1 and used[1].lower() == secret_references.GITHUB_TOKEN:
            self._report.add(self._offset(path, text, offset), codes.GITHUB_ONLY, *secret_references.NO_GITHUB_TOKEN)
        elif len(used) > 1 and not _SECRET_NAME.fullmatch(used[1]) and used[1] != ANY:
            message = f"{quote(used[1])} is not a valid secret name: use letters, digits, _ and -, no digit first, at most 100"
            self._report.add(self._offset(path, text, offset), codes.WRONG_SECRET, message)

    def _missing_in_matrix(
        self, path: Path, text: str, used: tuple[str, ...], offset: int, available: Availability
    ) -> None:
        """Warns of a matrix value, or a property of one, that no instance has."""
        if len(used) < 2 or ANY in used or not self._report.takes_warnings:
            return
        if "matrix" in available.contexts and not available.has_matrix:
            message = f"this job has no strategy.matrix, so {'.'.join(used)} is always null"
            hint = "add the matrix, or remove the expression"
            self._report.warn(self._offset(path, text, offset), codes.ALWAYS_NULL, message, hint)
        if available.matrix is None:
            return
        instances = combinations(available.matrix)
        if not instances or any(value_at(values, used[1:]) is not None for values in instances):
            return
        known = dict.fromkeys(name for values in instances for name in values)
        hint = did_you_mean(used[1], list(known)) if used[1] not in known else ""
        message = f"no instance of the matrix has {'.'.join(used[1:])}, so it is always null"
        self._report.warn(self._offset(path, text, offset), codes.ALWAYS_NULL, message, hint)

    def _always_null(self, path: Path, text: str, used: tuple[str, ...], offset: int, available: Availability) -> None:
        """Warns of a property that no job or step ever has."""
        name, context, key = used[1], used[0], used[2].lower()
        message = hint = ""
        if ANY in (name, key) or not self._report.takes_warnings:
            return
        if context == "steps" and key not in STEP_FIELDS:
            message, hint = f"steps have no property {quote(used[2])}", did_you_mean(key, STEP_FIELDS)
        elif context in ("needs", "jobs") and (job := available.jobs.get(name.lower())) is not None:
            message, hint = _null_of_job(name, job, used)
        if message:
            hint = hint or (f"known properties: {', '.join(STEP_FIELDS)}" if context == "steps" else "")
            self._report.warn(
                self._offset(path, text, offset), codes.ALWAYS_NULL, f"{message}: it is always null", hint
            )

    def _add_named(
        self, path: Path, text: str, error: expr.ExpressionError, used: tuple[str, ...], available: Availability
    ) -> None:
        """Reports an error about a name, with the reason if the name exists but is not available."""
        found = _NAME.match(text, error.offset)
        name = found.group() if found else ""
        code, message = error.code, error.text
        suggestion: str | None = None
        if error.code == expression_errors.UNKNOWN_CONTEXT:
            lowered = name.lower()
            if lowered in KNOWN:
                code = expression_errors.NOT_HERE
                explanation = available.reason_against(lowered)
                message = f"the context {lowered} cannot be used here" + (f": {explanation}" if explanation else "")
                suggestion = "" if explanation else f"available here: {', '.join(sorted(available.contexts))}"
        elif error.code == expression_errors.UNKNOWN_NAME and len(used) > 1:
            reason = available.reason_out_of_reach(used[0], used[1])
            if reason is not None:
                code, message, suggestion = expression_errors.NOT_HERE, reason, ""
            elif used[0] == "github" and (hint := github_names.GITHUB_ONLY_FIELDS.get(used[1].lower())):
                code, message, suggestion = codes.GITHUB_ONLY, f"github.{used[1]} has no value in Waterflow", hint
        if suggestion is None:
            suggestion = f'did you mean "{error.suggestion}"?' if error.suggestion else ""
        self._report.add(self._offset(path, text, error.offset), code, message, suggestion)

    def _add(self, path: Path, text: str, error: expr.ExpressionError) -> None:
        message, _, rest = error.text.partition("\n")
        suggestion = rest or (f'did you mean "{error.suggestion}"?' if error.suggestion else "")
        self._report.add(self._offset(path, text, error.offset), error.code, message.removesuffix(":"), suggestion)

    def _offset(self, path: Path, text: str, offset: int) -> int:
        node, _ = self._document.find(path)
        return source_offset(self._document, node, text, offset) if isinstance(node, Scalar) else node.start
