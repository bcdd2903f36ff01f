"""Edits of GitHub's files that no error of the compiler requires: groups for runner labels, and new paths of local files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from waterflowd.dsl.reading.tree import Document, Mapping, Node, Path, Scalar, to_json
from waterflowd.importers.findings import DECIDE, Imported
from waterflowd.importers.validity.positions import parts
from waterflowd.importers.validity.text_edits import Edit, EditedText, Editor
from waterflowd.model.plan import Json

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_SECRET = re.compile(r"\bsecrets\.([A-Za-z_][A-Za-z0-9_-]*)", re.IGNORECASE)
_FOREIGN = re.compile(r"windows|macos|mac-os", re.IGNORECASE)


def use_group(text: EditedText, document: Document, group: str, source: str, imported: Imported) -> None:
    """Let every job with steps run on the group."""
    editor = Editor(document)
    edits: list[Edit | None] = []
    for path, node in _in_jobs(document, "runs-on"):
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
    """Let `uses` of local files refer to the imported ones.

    On GitHub `./` is a path of the job's directory, so it may begin with the folder of a checkout.
    """
    editor = Editor(document)
    edits: list[Edit | None] = []
    folders = _checkout_folders(document)
    for part in parts(document.root):
        if part.path[-1:] == ("uses",) and isinstance(part.node, Scalar) and part.node.text.startswith(("./", "$/")):
            used = [part.node.text, *(f"./{part.node.text.removeprefix(folder)}" for folder in folders)]
            new = next((found for found in map(new_path, used) if found is not None), None)
            if new is not None and new != part.node.text:
                edits.append(editor.replace_text(part.path, part.node.text, new, ""))
                line = text.origin(editor.first_line(part.path))
                imported.change(source, line, f"uses {part.node.text}: now {new}")
    text.apply([edit for edit in edits if edit is not None])


def _checkout_folders(document: Document) -> list[str]:
    """The folders into which steps check the repository itself out, such as `./src/`."""
    found: dict[str, None] = {}
    for part in parts(document.root):
        step = part.node
        if not isinstance(step, Mapping) or not {"uses", "with"} <= step.entries.keys():
            continue
        old = to_json(step)
        uses, with_ = (old.get("uses"), old.get("with")) if isinstance(old, dict) else (None, None)
        if isinstance(uses, str) and uses.startswith("actions/checkout@") and isinstance(with_, dict):
            folder = str(with_.get("path") or "").removeprefix("./").strip("/")
            if folder and not with_.get("repository"):
                found[f"./{folder}/"] = None
    return list(found)


def keep_queue(text: EditedText, document: Document, source: str, imported: Imported) -> None:
    """Let a newer run replace the one that waits for a concurrency group, as on GitHub; here all wait in order."""
    editor = Editor(document)
    edits: list[Edit | None] = []
    for path, node in (*_in_jobs(document, "concurrency"), *_at_top(document, "concurrency")):
        if isinstance(node, Mapping):
            if "queue" in node.entries or "group" not in node.entries:
                continue
            edit = editor.add_beside((*path, "group"), "queue", "latest", "")
        elif isinstance(node, Scalar) and node.text:
            edit = editor.replace_value(path, {"group": node.text, "queue": "latest"}, "", is_old_kept=False)
        else:
            continue
        edits.append(edit)
        line = text.origin(editor.first_line(path))
        imported.change(
            source, line, "concurrency: queue: latest, because on GitHub a newer run replaces the one that waits"
        )
    text.apply([edit for edit in edits if edit is not None])


def secrets_of(document: Document) -> list[str]:
    """Return the names of the secrets that a file uses, not those in its comments."""
    texts = [part.node.text for part in parts(document.root) if isinstance(part.node, Scalar)]
    return sorted(
        {name for text in texts for expression in _EXPRESSION.findall(text) for name in _SECRET.findall(expression)}
    )


def _at_top(document: Document, key: str) -> Iterator[tuple[Path, Node]]:
    entry = document.root.entries.get(key) if isinstance(document.root, Mapping) else None
    if entry is not None:
        yield (key,), entry.value


def _in_jobs(document: Document, key: str) -> Iterator[tuple[Path, Node]]:
    jobs = document.root.entries.get("jobs") if isinstance(document.root, Mapping) else None
    if jobs is None or not isinstance(jobs.value, Mapping):
        return
    for name, job in jobs.value.entries.items():
        if isinstance(job.value, Mapping) and (entry := job.value.entries.get(key)) is not None:
            yield ("jobs", name, key), entry.value


def _labels(value: Json) -> list[str]:
    match value:
        case dict():
            return [label for item in value.values() for label in _labels(item)]
        case list():
            return [label for item in value for label in _labels(item)]
    return [str(value)]
