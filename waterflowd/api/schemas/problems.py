"""Problem details (RFC 9457), the errors of workflow files, and the result of a validation."""

from __future__ import annotations

from typing import Literal

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic, help_of
from waterflowd.model.plan import Plan


class FileErrorSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One error of a workflow file, with its place. `help` is the page of the documentation that explains the code."""

    code: str
    path: str
    line: int
    column: int
    message: str
    snippet: str
    caret: int
    suggestion: str
    help: str

    @classmethod
    def of(cls, diagnostic: Diagnostic) -> FileErrorSchema:
        """The error that the compiler reported."""
        return cls(
            code=diagnostic.code,
            path=diagnostic.path,
            line=diagnostic.line,
            column=diagnostic.column,
            message=diagnostic.message,
            snippet=diagnostic.snippet,
            caret=diagnostic.caret,
            suggestion=diagnostic.suggestion,
            help=help_of(diagnostic.code),
        )


class ProblemSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request failed. `where` is the field of the request, `errors` are those of the workflow file."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    where: str | None = None
    errors: list[FileErrorSchema] | None = None


class ValidJobSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a valid workflow file."""

    id: str
    group: str
    steps: int


class ValidFileSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow file without errors."""

    valid: Literal[True]
    name: str
    path: str
    jobs: list[ValidJobSchema]
    errors: list[FileErrorSchema]

    @classmethod
    def of(cls, plan: Plan) -> ValidFileSchema:
        """The compiled file."""
        jobs = [ValidJobSchema(id=job.id, group=job.group, steps=len(job.steps)) for job in plan.jobs]
        return cls(valid=True, name=plan.name, path=plan.path, jobs=jobs, errors=[])
