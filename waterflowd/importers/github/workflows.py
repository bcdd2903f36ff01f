"""Imports the files of GitHub Actions: workflows, and the composite actions and reusable workflows that they use."""

from __future__ import annotations

import json
from collections.abc import Sequence

from waterflowd.dsl import Compiled, compile_workflow
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import Document, Mapping
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.importers.findings import Imported, WrittenFile
from waterflowd.importers.github import called_workflows, rewriting
from waterflowd.importers.origin import INCLUDES_MAX, Names, Origin, Unreadable, folder_of, joined, stem_of
from waterflowd.importers.validity.loop import Reader, Target, make_valid
from waterflowd.importers.validity.text_edits import EditedText

_PROGRAM = "an action that is a program or an image, and not steps, does not run here: write its commands as run"
#: More than the jobs of any file in braces; the others take one round.
_ROUNDS_MAX = 100
_ACTION_FILES = ("action.yml", "action.yaml")


def import_files(paths: Sequence[str], origin: Origin) -> Imported:
    """Import workflow files."""
    importer = _Importer(origin)
    for path in paths:
        importer.workflow(path)
    return importer.imported


class _Importer:
    """Imports files, each once; knows the new path of each."""

    def __init__(self, origin: Origin) -> None:
        self.imported = Imported()
        self._origin = origin
        self._workflow_names = Names()
        self._step_names = Names()
        #: Path of each source that was imported or is being imported: its new path below the prefix, None if it was refused.
        self._new_paths: dict[str, str | None] = {}
        self._written: dict[str, bytes] = {}
        self._reasons: dict[str, str] = {}

    def workflow(self, path: str) -> str | None:
        """Import one workflow; return its new path."""
        if path not in self._new_paths:
            target = f"workflows/{self._workflow_names.take(stem_of(path))}.yml"
            self._new_paths[path] = target
            self._new_paths[path] = self._import(path, target, is_step=False)
        return self._new_paths[path]

    def _action(self, path: str) -> str | None:
        if path not in self._new_paths:
            name = self._step_names.take(stem_of(folder_of(path)) or "step")
            target = f"steps/{name}/step.yml"
            self._new_paths[path] = target
            self._new_paths[path] = self._import(path, target, is_step=True)
        return self._new_paths[path]

    def _import(self, path: str, target: str, *, is_step: bool) -> str | None:
        try:
            if len(self._new_paths) > 20 * INCLUDES_MAX:
                raise Unreadable(f"more than {20 * INCLUDES_MAX:,} files; import fewer at a time")
            text = EditedText(self._origin.text(path))
        except Unreadable as error:
            self.imported.refuse(path, str(error))
            return None
        self._rewrite(text, path, is_step=is_step)
        if is_step and not _is_composite(text.text):
            self._reasons[path] = _PROGRAM
            self.imported.refuse(path, _PROGRAM)
            return None
        written = self._origin.target(target)
        compile_as = _compile_step if is_step else compile_workflow
        aim = Target(
            path=written,
            source=path,
            group=self._origin.group,
            read=self._read,
            compile=compile_as,
            reasons=self._reasons,
        )
        if not make_valid(text, aim, self.imported):
            return None
        document = _document(text.text)
        if document is not None and not is_step:
            called_workflows.declare_token(text, document, path, self.imported)
        if document is not None and (names := rewriting.secrets_of(document)):
            self.imported.change(path, 0, f"secrets to store and to grant: {', '.join(names)}")
        self._written[written] = text.text.encode()
        self.imported.files.append(WrittenFile(path=target, content=text.text, source=path))
        return target

    def _rewrite(self, text: EditedText, path: str, *, is_step: bool) -> None:
        # Of several edits in one collection in braces, each round applies one.
        for _ in range(_ROUNDS_MAX):
            before = text.text
            if not is_step and (document := _document(text.text)) is not None:
                rewriting.use_group(text, document, self._origin.group, path, self.imported)
            if not is_step and (document := _document(text.text)) is not None:
                rewriting.keep_queue(text, document, path, self.imported)
            if (document := _document(text.text)) is not None:
                rewriting.use_new_paths(text, document, self._new_path, path, self.imported)
            if text.text == before:
                break

    def _new_path(self, uses: str) -> str | None:
        """Import what a `uses` refers to; return the new `uses`, None if it stays."""
        path = joined("", uses.removeprefix("$/"))
        if path is None:
            return None
        if path.endswith((".yml", ".yaml")):
            new = self.workflow(path) if self._origin.read(path) is not None else None
            return f"./{self._origin.target(new)}" if new else None
        for name in _ACTION_FILES:
            if self._origin.read(f"{path}/{name}".lstrip("/")) is not None:
                new = self._action(f"{path}/{name}".lstrip("/"))
                return f"./{self._origin.target(folder_of(new))}" if new else None
        return None

    def _read(self, path: str) -> bytes | None:
        return self._written.get(path) or self._origin.read(path)


def _document(text: str) -> Document | None:
    try:
        return reader.read(text, DiagnosticReport())
    except reader.Unreadable:
        return None


def _is_composite(text: str) -> bool:
    document = _document(text)
    runs = document.root.entries.get("runs") if document and isinstance(document.root, Mapping) else None
    return runs is not None and isinstance(runs.value, Mapping) and "steps" in runs.value.entries


def _compile_step(path: str, content: bytes, read: Reader) -> Compiled:
    """Compile a composite step by a workflow that uses it; errors of that workflow are left out."""
    workflow = json.dumps({"jobs": {"a": {"runs-on": "a", "steps": [{"uses": f"./{folder_of(path)}"}]}}}).encode()
    answer = compile_workflow("", workflow, lambda other: content if other == path else read(other))
    errors = [error for error in answer.diagnostics if error.path]
    return Compiled(plan=None, diagnostics=errors, warnings=answer.warnings, files=answer.files)
