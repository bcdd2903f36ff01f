"""The workflow language: from a file's bytes to a plan, or to everything that is wrong with it.

The way of a file, one module for each station:

    bytes ─reader (scalars, lostlines)─▶ tree ─validation─▶ models of schema ─build (needs, steps, nodes, expressions)─▶ plan
                                        └──────────────── report (places) ────────────────▶ diagnostics ─render─▶ text

Rules of the package: pure (no file, clock, socket, thread); the same content under the same path gives the same plan
bytes; whatever the content is, the answer is a plan or diagnostics, never an exception. Bounds stand where they are
enforced: size, nesting and aliases in `reader`, jobs and steps in `build`, expressions in `waterflowd.expr`.

Importing the package is cheap; pydantic and PyYAML load with the first compilation. `dsl.inputs` checks what somebody
gives for the inputs of a plan.
"""

from __future__ import annotations

from waterflowd.dsl.diagnostics import Compiled, Diagnostic
from waterflowd.dsl.render import render_diagnostic

__all__ = ["Compiled", "Diagnostic", "compile_workflow", "render_diagnostic"]


def compile_workflow(path: str, content: bytes) -> Compiled:
    """Compiles the file that stands at `path` of its repository; never raises for what is in it."""
    from waterflowd.dsl import compile as stations

    return stations.compile_workflow(path, content)
