"""Helpers for the tests of the language: compile a text, optionally with other files beside it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.dsl import schemas
from waterflowd.dsl import Compiled, Diagnostic, compile_workflow
from waterflowd.model import plan as plans


class Language:
    """Compiles texts as the file `workflows/w.yml` of a repository that may contain other files."""

    def compiled(self, text: str, files: Mapping[str, str] | None = None) -> Compiled:
        known = None if files is None else {path: content.encode() for path, content in files.items()}
        compiled = compile_workflow("workflows/w.yml", text.encode(), known)
        if compiled.plan is not None:
            # An editor must not report an error in a file that compiles.
            assert schemas.complaints(text) == []
        return compiled

    def plan(self, text: str, files: Mapping[str, str] | None = None) -> plans.Plan:
        compiled = self.compiled(text, files)
        assert not compiled.diagnostics
        assert compiled.plan is not None
        decoded = plans.decode(compiled.plan)
        assert plans.encode(decoded) == compiled.plan
        return decoded

    def job(self, keys: str, top: str = "") -> plans.JobPlan:
        """Returns the last job of a workflow whose job has these keys beside its steps, written as in a flow mapping."""
        return self.plan(f"{top}\njobs: {{j: {{{keys}, steps: [{{run: x}}]}}}}").jobs[-1]

    def steps(self, steps: str, top: str = "") -> tuple[plans.StepPlan, ...]:
        """Returns the steps of a job, written as in a flow sequence."""
        return self.plan(f"{top}\njobs: {{j: {{runs-on: g, steps: [{steps}]}}}}").jobs[0].steps

    def error(self, text: str, files: Mapping[str, str] | None = None) -> Diagnostic:
        """Returns the only error of a text."""
        compiled = self.compiled(text, files)
        assert compiled.plan is None
        (error,) = compiled.diagnostics
        return error

    def warnings(self, text: str, files: Mapping[str, str] | None = None) -> list[Diagnostic]:
        """Returns the warnings of a text that compiles."""
        compiled = self.compiled(text, files)
        assert not compiled.diagnostics
        return compiled.warnings


@pytest.fixture
def language() -> Language:
    return Language()
