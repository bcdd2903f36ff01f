"""The workflow language: from a file's bytes to a plan, or to everything that is wrong with it.

The way of a file, one module for each station:

    bytes ─reader (scalars, lostlines)─▶ tree ─validation─▶ models (schema, rollout, events) ─build─▶ plan
                │                                                                    │
                └───── report (places) ──▶ diagnostics ─render─▶ text                │
    build: triggers, needs, jobs (matrix, placing, calls), steps (nodes, control, composite), expressions (contexts)

Files of the same revision that it uses (reusable workflows, composite steps) go the same way; a `session` holds them
and the bounds for all of them.

Rules of the package: pure (no file, clock, socket, thread); the same content under the same path gives the same plan
bytes; whatever the content is, the answer is a plan or diagnostics, never an exception. Bounds stand where they are
enforced: size, nesting and aliases in `reader`, jobs and steps in `session`, `build` and `steps`, expressions in
`waterflowd.expr`.

Beside the way stand what editors and readers have of the language: `shapes` and `jsonschema` make its JSON Schema, and
`reference` its pages, both from the models.

Importing the package is cheap; pydantic and PyYAML load with the first compilation. `dsl.inputs` checks what somebody
gives for the inputs of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic, Severity
from waterflowd.dsl.reporting.rendering import render_diagnostic

if TYPE_CHECKING:
    from waterflowd.dsl.compile import Wanted

__all__ = ["Compiled", "Diagnostic", "Severity", "compile_knowing", "compile_workflow", "render_diagnostic"]


def compile_workflow(
    path: str, content: bytes, files: Callable[[str], bytes | None] | Mapping[str, bytes | None] | None = None
) -> Compiled:
    """Compiles the file that stands at `path` of its repository; never raises for what is in it.

    `files` gives the content of another file of the same revision by its path from the root, None where there is none;
    without it, a file that uses others has an error that says so.
    """
    from waterflowd.dsl import compile as stations

    return stations.compile_workflow(path, content, files)


def compile_knowing(path: str, content: bytes, known: Mapping[str, bytes | None]) -> Compiled | Wanted:
    """The same where other files have to be asked for: the answer, or the paths that `known` must have for one."""
    from waterflowd.dsl import compile as stations

    return stations.compile_knowing(path, content, known)
