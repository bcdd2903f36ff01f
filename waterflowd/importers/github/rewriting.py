"""Edits of GitHub's files that no error of the compiler requires: groups for runner labels, and new paths of local files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from waterflowd.dsl.reading.tree import Document, Mapping, Node, Path, Scalar, to_json
from waterflowd.importers.findings import DECIDE, Imported
from waterflowd.importers.validity.positions import parts
from waterflowd.importers.validity.text_edits import Edit, EditedText, Editor
from waterflowd.model.plan import Json

_FOREIGN = re.compile(r"windows|macos|mac-os", re.IGNORECASE)


def use_group(text: EditedText, document: Document, group: str, source: str, imported: Imported) -> None:
    """Let every job with steps run on the group."""
    editor = Editor(document)
    edits: list[Edit | None] = []
    for path, node in _runs_on(document):
        old = to_json(node)
        if old == group:
            continue
        line = text.origin(editor.first_line(path))
        labels = _labels(old)
        comment = ""
        if any("${{" in label for label in labels):
            sentence = (
                f"an expression chose the machine of this job; now every instance runs on the group {group}: remove the"
                " values of the matrix that your servers do not have, or choose servers by labels"
            )
            comment = imported.decide(source, line, sentence)
        elif any(_FOREIGN.search(label) for label in labels):
            sentence = f"this job ran on {', '.join(labels)}; servers here run Linux"
            comment = imported.decide(source, line, sentence)
        else:
            imported.change(source, line, f"runs-on {', '.join(labels)}: now the group {group}")
        assert not comment or comment.startswith(DECIDE)
        edits.append(editor.replace_value(path, group, comment))
    text.apply([edit for edit in edits if edit is not None])


def use_new_paths(
    text: EditedText, document: Document, new_path: Callable[[str], str | None], source: str, imported: Imported
) -> None:
    """Let `uses` of local files refer to the imported ones."""
    editor = Editor(document)
    edits: list[Edit | None] = []
    for part in parts(document.root):
        if part.path[-1:] == ("uses",) and isinstance(part.node, Scalar) and part.node.text.startswith("./"):
            new = new_path(part.node.text)
            if new is not None and new != part.node.text:
                edits.append(editor.replace_text(part.path, part.node.text, new, ""))
                line = text.origin(editor.first_line(part.path))
                imported.change(source, line, f"uses {part.node.text}: now {new}")
    text.apply([edit for edit in edits if edit is not None])


def secrets_of(text: str) -> list[str]:
    """Return the names of the secrets that a file uses."""
    return sorted(set(re.findall(r"\bsecrets\.([A-Za-z_][A-Za-z0-9_-]*)", text)))


def _runs_on(document: Document) -> Iterator[tuple[Path, Node]]:
    jobs = document.root.entries.get("jobs") if isinstance(document.root, Mapping) else None
    if jobs is None or not isinstance(jobs.value, Mapping):
        return
    for name, job in jobs.value.entries.items():
        if isinstance(job.value, Mapping) and (entry := job.value.entries.get("runs-on")) is not None:
            yield ("jobs", name, "runs-on"), entry.value


def _labels(value: Json) -> list[str]:
    match value:
        case dict():
            return [label for item in value.values() for label in _labels(item)]
        case list():
            return [label for item in value for label in _labels(item)]
    return [str(value)]
