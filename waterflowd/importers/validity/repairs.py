"""Chooses the edit for an error of the compiler, by the part of the workflow that the error is about.

Rules of this file: what only describes (a name, permissions, a bound) is commented out. What decides whether or when
something runs is never widened silently: a job condition becomes `false`. What a job needs to do its work (a container, a
matrix) is commented out, and the job fails at its first step. Everything inside a step that is not mechanical replaces the
step by a stand-in. Each attempt to repair the same part takes a larger part: the value, the step, the job.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from waterflow_agent.display import quote
from waterflowd.dsl.models.triggers import Triggers
from waterflowd.dsl.reading.tree import Document, Mapping, Path, Sequence, to_json
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.expr.errors import UNSAFE_EXPRESSION
from waterflowd.importers.findings import DECIDE
from waterflowd.importers.validity import stand_ins
from waterflowd.importers.validity.positions import Part, part_at
from waterflowd.importers.validity.text_edits import Edit, Editor

#: The secret that takes the place of the token that GitHub gives to each job.
TOKEN_SECRET = "FORGE_TOKEN"
_TOKEN = f"store a token of your forge as the secret {TOKEN_SECRET}: there is no token that belongs to a job"
_WRITTEN_OUT = "written out as it is on github.com: change it if your forge has another address"
#: Expressions with a mechanical replacement, and the decision that it leaves.
_EXPRESSIONS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"\bgithub\.token\b"), f"secrets.{TOKEN_SECRET}", _TOKEN),
    (re.compile(r"\bsecrets\.GITHUB_TOKEN\b", re.IGNORECASE), f"secrets.{TOKEN_SECRET}", _TOKEN),
    (re.compile(r"\bgithub\.server_url\b"), "'https://github.com'", _WRITTEN_OUT),
    (re.compile(r"\bgithub\.api_url\b"), "'https://api.github.com'", _WRITTEN_OUT),
    (re.compile(r"\bgithub\.graphql_url\b"), "'https://api.github.com/graphql'", _WRITTEN_OUT),
)
_PERMISSIONS = "no effect here: the daemon's configuration says what a repository may do"
_REMOTE = re.compile(r"[A-Za-z0-9._-]+/[^@\s]+@\S+")
_UNSAFE = (
    "the value of an expression is inserted into this script as text, as on GitHub: anyone who controls the value can run"
    " commands. Pass it through env instead"
)
#: Keys that only GitHub's pages show.
_ONLY_DESCRIBE = (("run-name",), ("author",), ("branding",), ("url",))
#: Keys of a step without which it does the same.
_STEP_DESCRIPTIONS = ("name", "timeout-minutes", "continue-on-error")
#: Keys of a job without which it does the same, or for which the finding is enough.
_JOB_DESCRIPTIONS = ("name", "permissions", "snapshot", "timeout-minutes", "continue-on-error", "concurrency")
#: Keys of mappings in which one entry can be left out.
_MAPPINGS = ("env", "outputs", "environment", "with", "secrets", "defaults")


def sentence_of(diagnostic: Diagnostic) -> str:
    """Return an error as one sentence for a comment."""
    hint = diagnostic.suggestion.partition("\n")[0].rstrip(":")
    return diagnostic.message + (f"; {hint}" if hint and "\n" not in diagnostic.suggestion else "")


class Chosen(NamedTuple):
    """A repair: the part that it is about, the sentence of its finding, and its edits."""

    path: Path
    sentence: str
    is_decision: bool
    edits: list[Edit]


class Repairs:
    """Chooses edits for the errors of one file, over several rounds."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._attempts: Counter[Path] = Counter()

    def choose(
        self, document: Document, diagnostic: Diagnostic, place: Path | None = None, reason: str = ""
    ) -> Chosen | None:
        """Return the repair of an error; None if there is none. An error in another file has the `place` of the `uses`
        that refers to it, and a `reason`.
        """
        editor = Editor(document)
        part = (
            editor.part(place)
            if place is not None
            else part_at(document, diagnostic.line, diagnostic.column, diagnostic.code)
        )
        if part is None:
            return None
        repair = _Repair(editor, part, diagnostic, self._group, self._attempts[part.path] + 1)
        repair.sentence = reason or repair.sentence
        edits = [edit for edit in repair.edits() if edit is not None]
        return Chosen(part.path, repair.sentence, repair.is_decision, edits) if edits else None

    def applied(self, chosen: Chosen) -> None:
        """Count a repair that was applied; the next one of the same part takes a larger part."""
        self._attempts[chosen.path] += 1


class _Repair:
    """The repair of one part."""

    def __init__(self, editor: Editor, part: Part, diagnostic: Diagnostic, group: str, attempt: int) -> None:
        self._editor = editor
        self._part = part
        self._diagnostic = diagnostic
        self._group = group
        self._attempt = attempt
        self.sentence = sentence_of(diagnostic)
        self.is_decision = True

    @property
    def _comment(self) -> str:
        return f"{DECIDE} {self.sentence}" if self.is_decision else self.sentence

    def edits(self) -> list[Edit | None]:
        path = self._part.path
        step = next((n + 2 for n, key in enumerate(path[:-1]) if key == "steps" and isinstance(path[n + 1], int)), 0)
        is_job = len(path) > 1 and path[0] == "jobs"
        if is_job and (self._attempt > 2 or len(path) == 2):
            return self._whole_job(path[:2])
        if path[-1:] == ("permissions",) and not step:
            self.sentence, self.is_decision = f"permissions: {_PERMISSIONS}", False
            return [self._editor.remove(path, self._comment)]
        if self._diagnostic.code in (codes.UNKNOWN_KEY, codes.GITHUB_ONLY) and path[-1:] in _ONLY_DESCRIBE and not step:
            self.is_decision = False
            return [self._editor.remove(path, self._comment)]
        if self._attempt == 1 and (found := self._replaced_expression()):
            return [found]
        if step:
            return self._in_step(path[:step], path[step:])
        if is_job:
            return self._in_job(path[:2], path[2:])
        return self._at_top(path)

    def _replaced_expression(self) -> Edit | None:
        text = str(to_json(self._part.node)) if not isinstance(self._part.node, Sequence) else ""
        for pattern, new, sentence in _EXPRESSIONS:
            found = pattern.search(text)
            if found and self._is_about(found.group()):
                edit = self._editor.replace_text(
                    self._part.path, found.group(), new, f"{DECIDE} {found.group()}: {sentence}"
                )
                if edit is not None:
                    self.sentence = f"{found.group()}: {sentence}"
                    return edit
        return None

    def _is_about(self, expression: str) -> bool:
        return expression.partition(".")[2].lower() in self._diagnostic.message.lower()

    def _in_step(self, step: Path, rest: Path) -> list[Edit | None]:
        if self._attempt == 1 and rest:
            if self._diagnostic.code == UNSAFE_EXPRESSION and rest[-1] == "run":
                self.sentence = _UNSAFE
                return [self._editor.add_beside(self._part.path, "unsafe-interpolation", True, self._comment)]
            if rest[0] in _STEP_DESCRIPTIONS:
                return [self._editor.remove((*step, rest[0]), self._comment)]
        whole = self._editor.part(step)
        old = to_json(whole.node) if whole is not None else None
        uses = old.get("uses") if isinstance(old, dict) else None
        if rest[:1] == ("uses",) and isinstance(uses, str) and _REMOTE.fullmatch(uses):
            self.sentence = stand_ins.action_sentence(uses)
        without: tuple[str, ...] = ("if",) if rest[:1] == ("if",) else ()
        if self._attempt > 1:
            without = ("if", "name", "continue-on-error")
        return [self._editor.replace_value(step, stand_ins.step(old, self.sentence, without=without), self._comment)]

    def _in_job(self, job: Path, rest: Path) -> list[Edit | None]:
        key = rest[0]
        if key in _JOB_DESCRIPTIONS:
            return [self._editor.remove((*job, key), self._comment)]
        if key in _MAPPINGS and len(rest) > 1:
            return [self._editor.remove((*job, *rest[:2]), self._comment)]
        if key == "needs":
            return [self._editor.remove((*job, *rest), self._comment)]
        if key == "if":
            return [self._editor.replace_value((*job, key), False, self._comment)]
        if (
            key == "uses"
            and self._diagnostic.code == codes.WRONG_SECRET
            and quote(TOKEN_SECRET) in self._diagnostic.message
        ):
            self.sentence, self.is_decision = f"secrets: {TOKEN_SECRET}, as GitHub passes its token on", False
            return [self._with_token(job)]
        if key == "uses" or self._editor.part((*job, "steps", 0)) is None:
            return self._whole_job(job)
        if key == "runs-on":
            return [self._editor.replace_value((*job, key), self._group, self._comment)]
        return [
            self._editor.remove((*job, key), self._comment),
            self._editor.add_item_before((*job, "steps", 0), stand_ins.failing_step(self.sentence), ""),
        ]

    def _with_token(self, job: Path) -> Edit | None:
        """Pass the token's secret to the workflow that the job calls."""
        value = f"${{{{ secrets.{TOKEN_SECRET} }}}}"
        passed = self._editor.part((*job, "secrets"))
        if passed is None:
            return self._editor.add_beside((*job, "uses"), "secrets", {TOKEN_SECRET: value}, "")
        if isinstance(passed.node, Mapping) and passed.node.entries:
            return self._editor.add_beside((*job, "secrets", next(iter(passed.node.entries))), TOKEN_SECRET, value, "")
        return self._editor.replace_value((*job, "secrets"), {TOKEN_SECRET: value}, "", is_old_kept=False)

    def _whole_job(self, job: Path) -> list[Edit | None]:
        whole = self._editor.part(job)
        old = to_json(whole.node) if whole is not None else None
        return [self._editor.replace_value(job, stand_ins.job(old, self.sentence, self._group), self._comment)]

    def _at_top(self, path: Path) -> list[Edit | None]:
        if not path or path == ("jobs",):
            return []
        if path[0] == "on":
            return [self._in_triggers(path)]
        is_entry = path[0] in ("env", "vars", "inputs") and len(path) > 1 and self._attempt == 1
        return [self._editor.remove(path[:2] if is_entry else path[:1], self._comment)]

    def _in_triggers(self, path: Path) -> Edit | None:
        if len(path) == 1:
            return self._editor.replace_value(path, "workflow_dispatch", self._comment)
        is_event = isinstance(path[1], str) and path[1] in {field.alias for field in Triggers.model_fields.values()}
        if is_event and len(path) > 2 and self._diagnostic.code == codes.UNKNOWN_KEY:
            return self._editor.remove(path[:3], self._comment)
        return self._editor.remove(path[:2], self._comment)
