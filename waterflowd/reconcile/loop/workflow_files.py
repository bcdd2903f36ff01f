"""Workflow files of one repository become plans: read as blobs, with whatever other files of the revision they use.

Rules of this file:

- Other files come from the same tree, by the source: plain files of the repository only, nothing is followed.
- What a file used is remembered with it, as the object that stood at each path. So the same file with other content beside
  it is another one, and a plan that a restart has lost is made again from exactly what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.ports import Compiler
from waterflowd.reconcile import diff, ref_updates
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.source import Source, TreeFile
from waterflowd.reconcile.state import RepositoryState

#: Blobs that are in memory at once: 16 MiB at most.
_BLOBS_AT_ONCE = 16


class WorkflowFiles:
    """Compiles the files of one repository, one call at a time."""

    def __init__(self, source: Source, compiler: Compiler, plans: PlanCache) -> None:
        self._source = source
        self._compiler = compiler
        self._plans = plans

    async def standing(
        self, tree: str, seen: Iterable[TreeFile], state: RepositoryState
    ) -> Callable[[FileApplied], bool]:
        """Tells of what these files became before whether all that it used stands in this tree too."""
        known = (file for one in seen for file in state.known(one.path, one.blob))
        paths = sorted({path for file in known for path in file.used})
        return diff.stands_in(await self._source.lookup(tree, paths) if paths else {})

    async def applied(
        self, tree: str, files: Iterable[TreeFile], state: RepositoryState, stands: Callable[[FileApplied], bool]
    ) -> dict[str, FileApplied]:
        """What each file of the tree became: known from before, refused unread, or compiled now."""
        applied: dict[str, FileApplied] = {}
        unknown: list[TreeFile] = []
        for seen in files:
            known = next(filter(stands, state.known(seen.path, seen.blob)), None)
            if seen.problem is not None:
                applied[seen.path] = ref_updates.file_refused(seen, [seen.problem])
            elif known is not None:
                applied[seen.path] = known
            else:
                unknown.append(seen)
        for start in range(0, len(unknown), _BLOBS_AT_ONCE):
            some = unknown[start : start + _BLOBS_AT_ONCE]
            contents = await self._source.blobs([seen.blob for seen in some])
            for seen in some:
                applied[seen.path] = await self._compiled(tree, seen, contents[seen.blob])
        return applied

    async def _compiled(self, tree: str, seen: TreeFile, content: bytes | None) -> FileApplied:
        if content is None:
            return ref_updates.file_refused(seen, [ref_updates.file_too_large(seen)])
        others = _Others(self._source, tree)
        compiled = await self._compiler.compile(seen.path, content, others.read)
        if others.problems and compiled.plan is None:
            # The compiler knows only that it could not have the file.
            compiled = msgspec.structs.replace(compiled, diagnostics=[*others.problems, *compiled.diagnostics])
        file = ref_updates.file_applied(seen, compiled, others.used)
        if file.plan_hash is not None and compiled.plan is not None:
            self._plans.put(file.plan_hash, compiled.plan)
        return file

    async def again(self, files: Sequence[FileApplied]) -> list[FileApplied]:
        """Brings the plans of good files back; gives those that a newer version of the language refuses."""
        contents = await self._source.blobs([file.blob for file in files])
        refused: list[FileApplied] = []
        for file in files:
            others = _SameOthers(self._source, file)
            compiled = await self._compiler.compile(file.path, contents[file.blob] or b"", others.read)
            if compiled.plan is not None and file.plan_hash is not None:
                self._plans.put(file.plan_hash, compiled.plan)
            else:
                seen = TreeFile(path=file.path, blob=file.blob)
                refused.append(ref_updates.file_refused(seen, compiled.diagnostics, file.used))
        return refused


class _Others:
    """Reads the files of a tree that one workflow asks for, and remembers what stood there."""

    def __init__(self, source: Source, tree: str) -> None:
        self._source = source
        self._tree = tree
        self.used: dict[str, str] = {}
        self.problems: list[Diagnostic] = []

    async def read(self, path: str) -> bytes | None:
        """The file at the path; None when there is none that could be read."""
        found = (await self._source.lookup(self._tree, [path])).get(path)
        self.used[path] = diff.stamp(found)
        if found is None:
            return None
        if found.problem is not None:
            self.problems.append(found.problem)
            return None
        content = (await self._source.blobs([found.blob]))[found.blob]
        if content is None:
            self.problems.append(ref_updates.file_too_large(found))
        return content


class _SameOthers:
    """Reads what a file was compiled with before, whatever stands at these paths now."""

    def __init__(self, source: Source, file: FileApplied) -> None:
        self._source = source
        self._file = file

    async def read(self, path: str) -> bytes | None:
        """The content that the path had."""
        blob = self._file.used.get(path, "")
        if not blob or ":" in blob:
            return None
        return (await self._source.blobs([blob]))[blob]
