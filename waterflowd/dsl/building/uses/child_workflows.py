"""Child workflows: the workflows that steps start as child runs (`uses: workflow/run`).

Rules of this file: a child workflow is a file of the same revision. It is named by its path from the root, or by its bare
name when it is in the same folder as the workflow that runs. Only its inputs are checked here, not what it starts itself, so
workflows may start each other; it is compiled when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import Compilation, SourceFile, local_path
from waterflowd.dsl.building.inputs import check_arguments
from waterflowd.dsl.building.triggers import started_inputs
from waterflowd.dsl.models.validation import validate
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import TooMany
from waterflowd.model.plan import InputSpec

#: The node that starts a run.
WORKFLOW_RUN = "workflow/run"
_ENDINGS = (".yml", ".yaml")


def child_workflow_path(own_path: str, workflow: str) -> str | None:
    """The file that a step of the workflow at `own_path` names; None when the path is not one of a workflow file."""
    if not workflow.endswith(_ENDINGS):
        return None
    if "/" not in workflow:
        folder = PurePosixPath(own_path).parent
        return local_path(f"./{folder / workflow}")
    return local_path(workflow if workflow.startswith("./") else f"./{workflow}")


class ChildWorkflows:
    """Checks the child workflows of one file's steps."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        #: The inputs of each child workflow, or the reason why it cannot be started.
        self._known: dict[str, tuple[InputSpec, ...] | str] = {}

    def check(self, source: SourceFile, path: Path, parameters: Mapping[str, Any]) -> None:
        """Checks the workflow and the inputs of the step at `path`, as far as they are static."""
        if self._compilation.read is None:
            text = "workflow/run starts a workflow of the same repository, but this file was compiled without one"
            source.at_value((*path, "uses"), codes.WRONG_CALL, text, "push it to a watched repository")
            return
        workflow = parameters.get("workflow")
        if not isinstance(workflow, str) or not expr.is_static(workflow):
            return
        specs = self._specs(source, (*path, "with", "workflow"), workflow)
        values = parameters.get("inputs", {})
        if specs is not None and isinstance(values, Mapping):
            what = f"the workflow {quote(workflow)}"
            check_arguments(source, (*path, "with", "inputs"), specs, values, what)

    def _specs(self, source: SourceFile, at: Path, workflow: str) -> tuple[InputSpec, ...] | None:
        file = child_workflow_path(self._compilation.first, workflow)
        if file is None:
            text = f"{quote(workflow)} is not a workflow of this repository: expected the path or name of a .yml or .yaml file"
            source.at_value(at, codes.WRONG_CALL, text, "write the path from the root of the repository")
            return None
        content = self._compilation.find(file)
        if content is None:
            text = f"the file {quote(file)} does not exist in this revision"
            source.at_value(at, codes.WRONG_CALL, text, "paths are relative to the root of the repository")
            return None
        if file not in self._known:
            self._known[file] = self._inspect(file, content)
        found = self._known[file]
        if isinstance(found, str):
            text = f"the workflow {quote(file)} cannot be started: {found}"
            source.at_value(at, codes.WRONG_CALL, text, "fix that file first")
            return None
        return found

    def _inspect(self, file: str, content: bytes) -> tuple[InputSpec, ...] | str:
        child = self._compilation.peek(file, content)
        if child is None:
            return "it is not valid YAML"
        try:
            workflow = validate(child.document, child.report, models.Workflow)
            specs = started_inputs(child, workflow) if workflow is not None else ()
        except TooMany:
            specs = ()
        errors = child.report.diagnostics(file, child.document.lines)
        return f"line {errors[0].line}: {errors[0].message}" if errors else specs
