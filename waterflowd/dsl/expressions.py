"""Checks the expressions of a file where they stand: their grammar, their names, and what may be used in which key.

Rules of this file: an offset in a text becomes an offset in the file, also inside block scalars. What a key may see
is a `Place`; contexts that exist but not there, and steps and jobs that exist but are out of reach, are errors that
say so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from waterflowd import expr
from waterflowd.dsl import codes
from waterflowd.dsl.places import quoted
from waterflowd.dsl.report import Report
from waterflowd.dsl.tree import Document, Path, Scalar
from waterflowd.expr import errors as expression_errors
from waterflowd.expr.nodes import IMPLIED
from waterflowd.model.plan import Json

#: What each context holds, where the language fixes it; None where data decides.
_FIXED: dict[str, Collection[str] | None] = {
    "run": ("id", "number", "attempt", "workflow", "url"),
    "git": ("sha", "short-sha", "ref", "branch", "tag", "message", "author", "repository"),
    "event": None,
    "env": None,
    "job": None,
    "agent": None,
    "runner": None,
}

_TRIGGER = ("inputs", "vars", "git", "event")
_JOB = (*_TRIGGER, "run", "needs")
_STEP = (*_JOB, "steps", "env", "job", "agent", "runner")

NOT_BUILT_CONTEXTS = frozenset(["matrix", "strategy", "secrets"])
NOT_BUILT_FUNCTIONS = frozenset(["hashFiles"])

_FUNCTIONS = expr.PLAIN_FUNCTIONS - NOT_BUILT_FUNCTIONS
_CONDITION_FUNCTIONS = _FUNCTIONS | expr.STATUS_FUNCTIONS

#: GitHub's context and ours.
_GITHUB_NAMES = {
    "sha": "git.sha",
    "ref": "git.ref",
    "ref_name": "git.branch",
    "head_ref": "git.branch",
    "repository": "git.repository",
    "actor": "git.author",
    "event": "event",
    "event_name": "event.name",
    "run_id": "run.id",
    "run_number": "run.number",
    "run_attempt": "run.attempt",
    "workflow": "run.workflow",
    "job": "job.id",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OPEN = "${{"


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an expression may use where it stands, and what exists out of its reach, with a sentence about each."""

    contexts: Mapping[str, Collection[str] | None]
    out_of_reach: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def scope(self) -> expr.Scope:
        """The names for a value."""
        return expr.Scope(contexts=self.contexts, functions=_FUNCTIONS)

    @property
    def condition_scope(self) -> expr.Scope:
        """The names for an `if`."""
        return expr.Scope(contexts=self.contexts, functions=_CONDITION_FUNCTIONS)


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of one file that expressions may use."""

    inputs: Collection[str]
    #: None when the file declares none: then the start request says which there are.
    variables: Collection[str] | None
    jobs: Collection[str]

    def for_variable(self, earlier: Collection[str]) -> Place:
        """A value of `vars` sees the ones before it."""
        later = {
            ("vars", name.lower()): f"the variable {quoted(name)} stands further down; a variable sees those before it"
            for name in self.variables or ()
            if name not in earlier
        }
        return Place(contexts=self._contexts(_TRIGGER) | {"vars": earlier}, out_of_reach=later)

    def for_workflow(self) -> Place:
        """The workflow's `env`, which is rendered for each step but belongs to no job."""
        return Place(contexts=self._contexts((*_TRIGGER, "run")))

    def for_group(self) -> Place:
        """`runs-on`."""
        return Place(contexts=self._contexts(_TRIGGER))

    def for_job(self, needs: Collection[str], *, has_env: bool = False) -> Place:
        """The keys of a job; its `env` may refer to the workflow's."""
        contexts = self._contexts((*_JOB, "env") if has_env else _JOB) | {"needs": needs}
        return Place(contexts=contexts, out_of_reach=self._other_jobs(needs))

    def for_step(self, needs: Collection[str], earlier: Collection[str], later: Iterable[str]) -> Place:
        """The keys of a step, and the outputs of a job, for which all steps are earlier ones."""
        out_of_reach = {
            ("steps", name.lower()): f"the step {quoted(name)} has not run yet here; only earlier steps can be used"
            for name in later
        }
        contexts = self._contexts(_STEP) | {"needs": needs, "steps": earlier}
        return Place(contexts=contexts, out_of_reach=out_of_reach | self._other_jobs(needs))

    def _contexts(self, names: Iterable[str]) -> dict[str, Collection[str] | None]:
        known = _FIXED | {"inputs": self.inputs, "vars": self.variables}
        return {name: known.get(name) for name in names}

    def _other_jobs(self, needs: Collection[str]) -> dict[tuple[str, str], str]:
        return {
            ("needs", name.lower()): f"the job {quoted(name)} is not in needs of this job; add it there"
            for name in self.jobs
            if name not in needs
        }


class Expressions:
    """Checks texts, conditions, values and scripts of one file."""

    def __init__(self, document: Document, report: Report) -> None:
        self._document = document
        self._report = report

    def text(self, path: Path, value: str, place: Place) -> None:
        """Checks a text that may hold expressions."""
        if _OPEN not in value:
            return
        try:
            template = expr.parse_template(value)
        except expr.ExpressionError as error:
            self._add(path, value, error)
            return
        for placed in template.expressions:
            self._check(path, value, placed.node, place, place.scope)

    def value(self, path: Path, value: Json, place: Place) -> None:
        """Checks every text in a JSON value."""
        match value:
            case str():
                self.text(path, value, place)
            case dict():
                for key, item in value.items():
                    self.value((*path, key), item, place)
            case list():
                for position, item in enumerate(value):
                    self.value((*path, position), item, place)

    def condition(self, path: Path, value: str | None, place: Place) -> None:
        """Checks an `if`."""
        if value is None:
            return
        try:
            node = expr.parse_condition(value)
        except expr.ExpressionError as error:
            self._add(path, value, error)
            return
        self._check(path, value, node, place, place.condition_scope)

    def script(self, path: Path, text: str, shell: str, *, unsafe: bool) -> expr.Script | None:
        """The script with its expressions turned into data; None when there is an error, which is reported.

        The names in it are checked by `text`, of which this repeats nothing.
        """
        if _OPEN not in text:
            return expr.Script(text=text)
        try:
            return expr.lower_script(text, shell, unsafe=unsafe)
        except expr.ExpressionError as first:
            # Lowering stops at the first place; people want to see all of them.
            errors = [first] if first.code != expression_errors.UNSAFE_PLACE else expr.check_script(text, shell)
        for error in errors:
            self._add(path, text, error)
        return None

    def _check(self, path: Path, text: str, node: expr.Node, place: Place, scope: expr.Scope) -> None:
        errors = expr.check(node, scope)
        if not errors:
            return
        uses = {offset: used for used, offset in expr.references(node) if offset != IMPLIED}
        for error in errors:
            used = next((uses[offset] for offset in sorted(uses, reverse=True) if offset <= error.offset), ())
            self._add_named(path, text, error, used, place)

    def _add_named(
        self, path: Path, text: str, error: expr.ExpressionError, used: tuple[str, ...], place: Place
    ) -> None:
        """Reports an error about a name, with what is known about the name beyond its place."""
        found = _NAME.match(text, error.offset)
        name = found.group() if found else ""
        code, message, suggestion = error.code, error.text, None
        if error.code == expression_errors.UNKNOWN_CONTEXT:
            lowered = name.lower()
            if lowered in NOT_BUILT_CONTEXTS:
                code, message, suggestion = codes.NOT_BUILT, f"the context {lowered} is known, not built yet", ""
            elif lowered == "github":
                ours = _GITHUB_NAMES.get(used[1].lower()) if len(used) > 1 else None
                code, message = codes.GITHUB_ONLY, "the context github does not exist here"
                suggestion = f"write {ours}" if ours else "see git, event and run"
            elif lowered in _FIXED or lowered in _STEP:
                code = expression_errors.NOT_HERE
                known = ", ".join(sorted(place.contexts))
                message, suggestion = f"the context {lowered} cannot be used here", f"known here: {known}"
        elif error.code == expression_errors.UNKNOWN_FUNCTION:
            real = next((known for known in NOT_BUILT_FUNCTIONS if known.lower() == name.lower()), None)
            if real is not None:
                code, message, suggestion = codes.NOT_BUILT, f"the function {real} is known, not built yet", ""
        elif error.code == expression_errors.UNKNOWN_NAME and len(used) > 1:
            reason = place.out_of_reach.get((used[0], used[1].lower()))
            if reason is not None:
                code, message, suggestion = expression_errors.NOT_HERE, reason, ""
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


def source_offset(document: Document, scalar: Scalar, value: str, offset: int) -> int:
    """The offset in the file of character `offset` of a scalar's value, as near as can be told."""
    offset = max(0, min(offset, len(value)))
    source = document.text[scalar.start : scalar.end]
    opening = 0 if not scalar.style else 1
    if source[opening : opening + len(value)] == value:
        return scalar.start + opening + offset
    if scalar.style == "|" and value == scalar.value:
        return _in_literal_block(document, scalar, value, offset)
    return _by_expression(scalar, source, value, offset)


def _in_literal_block(document: Document, scalar: Scalar, value: str, offset: int) -> int:
    """A literal block keeps its lines, each without the indentation."""
    header = document.lines.position(document.text.index("|", scalar.start))[0]
    row = value.count("\n", 0, offset)
    column = offset - (value.rfind("\n", 0, offset) + 1)
    line = value.split("\n")[row]
    source = document.lines.line(header + 1 + row)
    indentation = len(source) - len(line) if source.endswith(line) else 0
    return document.lines.start(header + 1 + row) + indentation + column


def _by_expression(scalar: Scalar, source: str, value: str, offset: int) -> int:
    """Quotes, escapes and folding change a text, but seldom an expression: counts the expressions up to the place."""
    before = value.count(_OPEN, 0, offset + len(_OPEN))
    start = opened = -1
    for _ in range(before):
        start, opened = source.find(_OPEN, start + 1), value.find(_OPEN, opened + 1)
    if before == 0 or start < 0:
        return scalar.start
    return scalar.start + min(start + max(0, offset - opened), len(source))
