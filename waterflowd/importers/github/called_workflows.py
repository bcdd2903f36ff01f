"""The token in called workflows: GitHub passes its own on to them, here they declare the secret that takes its place.

The jobs that call such a workflow then have an error, and its repair passes the secret.
"""

from __future__ import annotations

from waterflowd.dsl.reading.tree import Document, Mapping, Scalar, Sequence, to_json
from waterflowd.importers.findings import Imported
from waterflowd.importers.github.rewriting import secrets_of
from waterflowd.importers.validity.repairs import TOKEN_SECRET
from waterflowd.importers.validity.text_edits import Edit, EditedText, Editor
from waterflowd.model.plan import Json

_CALL = "workflow_call"
_DECLARED: dict[str, Json] = {TOKEN_SECRET: {"required": True}}


def declare_token(text: EditedText, document: Document, source: str, imported: Imported) -> None:
    """Declare the secret of a workflow that uses it and can be called."""
    entry = document.root.entries.get("on") if isinstance(document.root, Mapping) else None
    if entry is None or TOKEN_SECRET not in secrets_of(document):
        return
    editor = Editor(document)
    match entry.value:
        case Mapping(entries=events) if _CALL in events:
            edit = _in_call(editor, events[_CALL].value)
        case Scalar(text=event) if event == _CALL:
            edit = editor.replace_value(("on",), {_CALL: {"secrets": _DECLARED}}, "", is_old_kept=False)
        case Sequence() as node if _CALL in (names := _names(node)):
            written: dict[str, Json] = {name: {"secrets": _DECLARED} if name == _CALL else None for name in names}
            edit = editor.replace_value(("on",), written, "", is_old_kept=False)
        case _:
            return
    if edit is not None:
        line = text.origin(editor.first_line(("on",)))
        text.apply([edit])
        imported.change(source, line, f"secrets of workflow_call: {TOKEN_SECRET}, as GitHub passes its token on")


def _in_call(editor: Editor, call: object) -> Edit | None:
    """The edit of `workflow_call` in a mapping of events; None if there is nothing to do."""
    path = ("on", _CALL)
    if not isinstance(call, Mapping) or not call.entries:
        return editor.replace_value(path, {"secrets": _DECLARED}, "", is_old_kept=False)
    if "secrets" not in call.entries:
        return editor.add_beside((*path, next(iter(call.entries))), "secrets", _DECLARED, "")
    declared = call.entries["secrets"].value
    if not isinstance(declared, Mapping) or not declared.entries:
        return editor.replace_value((*path, "secrets"), _DECLARED, "", is_old_kept=False)
    if TOKEN_SECRET in declared.entries:
        return None
    return editor.add_beside(
        (*path, "secrets", next(iter(declared.entries))), TOKEN_SECRET, _DECLARED[TOKEN_SECRET], ""
    )


def _names(node: Sequence) -> list[str]:
    names = to_json(node)
    assert isinstance(names, list)
    return [str(name) for name in names]
