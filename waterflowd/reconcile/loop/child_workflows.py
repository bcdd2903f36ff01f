"""The plans of workflows that steps start as child runs, at the commit of the parent run.

Rules of this file: files are read from the repository's objects, independently of its loop, so that a remote that hangs does
not delay anything; the commit of a run is always present. A plan never changes, so the most recent ones are cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.dsl.reporting import codes as dsl_codes
from waterflowd.ports import Compiler
from waterflowd.reconcile import codes
from waterflowd.reconcile.loop.workflow_files import compiler_client
from waterflowd.reconcile.settings import RepositorySettings

#: Cached plans; one has a few kilobytes, at most 16 MiB.
_PLANS_MAX = 32

#: Returns the content of a regular file by repository, commit and path; None if it does not exist.
ReadFile = Callable[[RepositorySettings, str, str], Awaitable[bytes | None]]


class CommittedWorkflows:
    """`ports.ChildWorkflows` over the configured repositories."""

    def __init__(self, repositories: Mapping[str, RepositorySettings], read: ReadFile, compiler: Compiler) -> None:
        self._repositories = repositories
        self._read = read
        self._compiler = compiler
        self._plans: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """See `ports.ChildWorkflows`."""
        key = repository, revision, path
        if key not in self._plans:
            self._plans[key] = await self._compiled(repository, revision, path)
            if len(self._plans) > _PLANS_MAX:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    async def _compiled(self, repository: str, revision: str, path: str) -> bytes:
        settings = self._repositories.get(repository)
        if settings is None:
            text = f"repository {quote(repository)} is no longer watched"
            raise Rejected(dsl_codes.WRONG_CALL, text)

        async def read(other: str) -> bytes | None:
            return await self._read(settings, revision, other)

        content = await read(path)
        if content is None:
            text = (
                f'no workflow file "{escape_for_display(path)}" at {revision[:7]}; paths start at the repository root'
            )
            raise Rejected(dsl_codes.WRONG_CALL, text)
        compiled = await self._compiler.compile(path, content, read, client=compiler_client(repository))
        if compiled.plan is not None:
            return compiled.plan
        first = compiled.diagnostics[0]
        if first.code == dsl_codes.COMPILER_STOPPED:
            # A compiler that was killed says nothing about the file.
            raise Retryable(codes.PLAN_NOT_READY, first.message)
        text = f'workflow "{escape_for_display(path)}" has errors at {revision[:7]}: line {first.line}: {first.message}'
        raise Rejected(codes.BROKEN_WORKFLOW, text)
