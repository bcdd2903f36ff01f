"""Compiles a file to a plan: text, document, models, plan. All errors that can be found are reported together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import Compilation, Reader
from waterflowd.dsl.building.workflow import WorkflowBuilder
from waterflowd.dsl.models import validation
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.dsl.reporting.report import TooMany
from waterflowd.model import plan


@dataclass(frozen=True)
class MissingFiles:
    """Files that a compilation needs before it can finish; paths from the root of the repository."""

    paths: list[str]


def compile_workflow(path: str, content: bytes, files: Reader | Mapping[str, bytes | None] | None = None) -> Compiled:
    """Compiles the file at `path` of its repository. Pure: equal arguments give equal bytes."""
    compilation = Compilation(files.get if isinstance(files, Mapping) else files)
    built = _built(compilation, path, content)
    looked_for = list(compilation.looked_for)
    errors = compilation.errors
    encoded = plan.encode(built) if built is not None and not errors else None
    return Compiled(plan=encoded, diagnostics=errors, warnings=compilation.warnings, files=looked_for)


def compile_from_files(path: str, content: bytes, files: Mapping[str, bytes | None]) -> Compiled | MissingFiles:
    """Compiles a file whose repository is not at hand: the result, or the files that are needed for one.

    None in `files` is a file that does not exist. The caller adds what is missing and tries again; each round names files
    that the round before did not have, and the number of files is limited, so this ends.
    """
    missing: dict[str, None] = {}

    def read(other: str) -> bytes | None:
        if other not in files:
            missing.setdefault(other)
        return files.get(other)

    compiled = compile_workflow(path, content, read)
    return MissingFiles(list(missing)) if missing else compiled


def _built(compilation: Compilation, path: str, content: bytes) -> plan.Plan | None:
    source = compilation.open(path, content)
    if source is None:
        return None
    try:
        workflow = validation.validate(source.document, source.report, models.Workflow)
        return WorkflowBuilder(compilation, path).plan(source, workflow) if workflow is not None else None
    except TooMany:
        return None
