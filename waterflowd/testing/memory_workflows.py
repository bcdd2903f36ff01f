"""`ports.ChildWorkflows` over files in memory: one repository whose commits all hold the same files."""

from __future__ import annotations

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.dsl import compile_workflow
from waterflowd.dsl.reporting import codes


class MemoryChildWorkflows:
    """Compiles its `files`, by their path from the root, for any repository and commit."""

    def __init__(self, files: dict[str, str] | None = None) -> None:
        self.files = files if files is not None else {}
        #: The requested plans, in order.
        self.asked: list[tuple[str, str, str]] = []
        self._failures: list[WaterflowError] = []

    def fail_next(self, error: WaterflowError) -> None:
        """The next call of `plan` fails."""
        self._failures.append(error)

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """See `ports.ChildWorkflows`."""
        self.asked.append((repository, revision, path))
        if self._failures:
            raise self._failures.pop(0)
        if path not in self.files:
            raise Rejected(codes.WRONG_CALL, f'there is no workflow file "{path}"')
        others = {name: text.encode() for name, text in self.files.items()}
        compiled = compile_workflow(path, others[path], others)
        if compiled.plan is None:
            raise Rejected("WF511", f'the workflow "{path}" has errors: {compiled.diagnostics[0].message}')
        return compiled.plan
