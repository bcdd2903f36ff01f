"""The way of a file: bytes, text, tree, models, plan. Errors of all stages that could be reached come back together."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import Compilation, Reader
from waterflowd.dsl.building.workflow import WorkflowBuilder
from waterflowd.dsl.models import validation
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.dsl.reporting.report import TooMany
from waterflowd.model import plan


class Wanted(msgspec.Struct, frozen=True):
    """Files that a compilation has to see before it can answer; paths from the root of the repository."""

    paths: list[str]


def compile_workflow(path: str, content: bytes, files: Reader | Mapping[str, bytes | None] | None = None) -> Compiled:
    """Compiles the file that stands at `path` of its repository. Pure: equal arguments give equal bytes."""
    compilation = Compilation(files.get if isinstance(files, Mapping) else files)
    built = _built(compilation, path, content)
    looked_for = list(compilation.looked_for)
    errors = compilation.errors
    encoded = plan.encode(built) if built is not None and not errors else None
    return Compiled(plan=encoded, diagnostics=errors, warnings=compilation.warnings, files=looked_for)


def compile_knowing(path: str, content: bytes, known: Mapping[str, bytes | None]) -> Compiled | Wanted:
    """Compiles a file whose repository is elsewhere: the answer, or which files have to be known first.

    None in `known` is a file that does not exist. Each round wants files that the round before did not know, and a
    compilation looks at few, so this ends.
    """
    wanted: dict[str, None] = {}

    def read(other: str) -> bytes | None:
        if other not in known:
            wanted.setdefault(other)
        return known.get(other)

    compiled = compile_workflow(path, content, read)
    return Wanted(list(wanted)) if wanted else compiled


def _built(compilation: Compilation, path: str, content: bytes) -> plan.Plan | None:
    source = compilation.open(path, content)
    if source is None:
        return None
    try:
        workflow = validation.validate(source.document, source.report, models.Workflow)
        return WorkflowBuilder(compilation, path).plan(source, workflow) if workflow is not None else None
    except TooMany:
        return None
