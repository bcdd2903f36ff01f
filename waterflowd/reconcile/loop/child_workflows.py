"""ChildWorkflows: the plans of workflows that steps start, of any commit that a run stands at.

Rules of this file: files are read from the repository's objects, apart from its loop, so that a remote that hangs holds nothing
up; a commit that a run has come from is there. An answer never changes, so the newest ones are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.dsl.reporting import codes as dsl_codes
from waterflowd.ports import Compiler
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

#: Plans that are kept; one has a few kilobytes, and 16 MiB at the most.
_PLANS_MAX = 32

#: Gives the content of a plain file: of a repository, at a commit, at a path; None when there is none.
ReadFile = Callable[[RepositorySettings, str, str], Awaitable[bytes | None]]


class CommittedWorkflows:
    """`ports.ChildWorkflows` over the configured repositories."""

    def __init__(self, repositories: Sequence[RepositorySettings], read: ReadFile, compiler: Compiler) -> None:
        self._repositories = {settings.name: settings for settings in repositories}
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
            text = f'there is no repository "{escape_for_display(repository, 60)}" in the configuration any more'
            raise Rejected(dsl_codes.WRONG_CALL, text)

        async def read(other: str) -> bytes | None:
            return await self._read(settings, revision, other)

        content = await read(path)
        if content is None:
            text = f'there is no workflow file "{escape_for_display(path)}" at {revision[:7]}; the path counts from the root'
            raise Rejected(dsl_codes.WRONG_CALL, text)
        compiled = await self._compiler.compile(path, content, read)
        if compiled.plan is not None:
            return compiled.plan
        first = compiled.diagnostics[0]
        if first.code == dsl_codes.COMPILER_STOPPED:
            # A compiler that was killed says nothing against a file.
            raise Retryable(codes.PLAN_NOT_READY, first.message)
        text = f'the workflow "{escape_for_display(path)}" has errors at {revision[:7]}: line {first.line}: {first.message}'
        raise Rejected(codes.BROKEN_WORKFLOW, text)
