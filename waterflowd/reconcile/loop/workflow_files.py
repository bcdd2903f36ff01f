"""Compiles the workflow files of one repository, together with the other files of the revision that they use.

Rules of this file:

- Other files are read from the same tree, through the source: plain files of the repository only, links are not followed.
- The objects of the files that a workflow uses are recorded with it. So it is compiled again when one of them changes, and a
  plan that a restart has lost is compiled again from exactly the same content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.ports import Compiler
from waterflowd.reconcile import diff, ref_updates
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import Source, TreeFile
from waterflowd.reconcile.state import RepositoryState

#: Blobs in memory at a time: at most 16 MiB.
_BLOBS_AT_ONCE = 16


class Plans(Protocol):
    """What keeps the plans of compiled files."""

    def put(self, plan_hash: str, plan: bytes) -> None:
        """Keeps a plan."""
        ...


def compiler_client(repository: str) -> str:
    """The name under which files of a repository are compiled."""
    return f"repository {repository}"


class WorkflowFiles:
    """Compiles the files of one repository, one call at a time."""

    def __init__(self, repository: str, source: Source, compiler: Compiler, plans: Plans) -> None:
        self._client = compiler_client(repository)
        self._source = source
        self._compiler = compiler
        self._plans = plans

    async def unchanged_in(
        self, tree: str, files: Iterable[TreeFile], state: RepositoryState
    ) -> Callable[[FileApplied], bool]:
        """A test for earlier results of these files: whether everything that one used is the same in this tree."""
        known = (result for file in files for result in state.known(file.path, file.blob))
        paths = sorted({path for result in known for path in result.used})
        return diff.unchanged_in(await self._source.lookup(tree, paths) if paths else {})

    async def apply(
        self, tree: str, files: Iterable[TreeFile], state: RepositoryState, is_unchanged: Callable[[FileApplied], bool]
    ) -> dict[str, FileApplied]:
        """The result for each file: one from before that still holds, an error for what cannot be read, or compiled now."""
        applied: dict[str, FileApplied] = {}
        unknown: list[TreeFile] = []
        for file in files:
            known = next(filter(is_unchanged, state.known(file.path, file.blob)), None)
            if file.problem is not None:
                applied[file.path] = ref_updates.file_refused(file, [file.problem])
            elif known is not None:
                applied[file.path] = known
            else:
                unknown.append(file)
        for start in range(0, len(unknown), _BLOBS_AT_ONCE):
            batch = unknown[start : start + _BLOBS_AT_ONCE]
            contents = await self._source.blobs([file.blob for file in batch])
            for file in batch:
                applied[file.path] = await self._compile(tree, file, contents[file.blob])
        return applied

    async def _compile(self, tree: str, file: TreeFile, content: bytes | None) -> FileApplied:
        if content is None:
            return ref_updates.file_refused(file, [ref_updates.file_too_large(file)])
        others = _TreeReader(self._source, tree)
        compiled = await self._compiler.compile(file.path, content, others.read, client=self._client)
        if others.problems and compiled.plan is None:
            # The compiler only knows that the file could not be read.
            compiled = msgspec.structs.replace(compiled, diagnostics=[*others.problems, *compiled.diagnostics])
        applied = ref_updates.file_applied(file, compiled, others.used)
        if applied.plan_hash is not None and compiled.plan is not None:
            self._plans.put(applied.plan_hash, compiled.plan)
        return applied

    async def compile_again(self, files: Sequence[FileApplied]) -> list[FileApplied]:
        """Compiles valid files whose plans are lost; returns those that a newer version of the language refuses."""
        contents = await self._source.blobs([file.blob for file in files])
        refused: list[FileApplied] = []
        for file in files:
            others = _RecordedReader(self._source, file)
            content = contents[file.blob] or b""
            compiled = await self._compiler.compile(file.path, content, others.read, client=self._client)
            if compiled.plan is not None and file.plan_hash is not None:
                self._plans.put(file.plan_hash, compiled.plan)
            else:
                tree_file = TreeFile(path=file.path, blob=file.blob)
                refused.append(ref_updates.file_refused(tree_file, compiled.diagnostics, file.used))
        return refused


class _TreeReader:
    """Reads the files of a tree that one workflow uses, and records their objects."""

    def __init__(self, source: Source, tree: str) -> None:
        self._source = source
        self._tree = tree
        self.used: dict[str, str] = {}
        self.problems: list[Diagnostic] = []

    async def read(self, path: str) -> bytes | None:
        """The content of the file at the path; None if it cannot be read."""
        found = (await self._source.lookup(self._tree, [path])).get(path)
        self.used[path] = diff.object_key(found)
        if found is None:
            return None
        if found.problem is not None:
            self.problems.append(found.problem)
            return None
        content = (await self._source.blobs([found.blob]))[found.blob]
        if content is None:
            self.problems.append(ref_updates.file_too_large(found))
        return content


class _RecordedReader:
    """Reads the files that a workflow was compiled with before, whatever is at these paths now."""

    def __init__(self, source: Source, file: FileApplied) -> None:
        self._source = source
        self._file = file

    async def read(self, path: str) -> bytes | None:
        """The content that the path had then."""
        blob = self._file.used.get(path, "")
        if not blob or ":" in blob:
            return None
        return (await self._source.blobs([blob]))[blob]
