"""Configuration files, written from the records that read them: every key with its comment and its default, all of it off.

The records' comments (`#:` before a field, and the docstring of a table) are the one text; what they say in the code is what an
administrator reads in the file.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from typing import Any, get_args, get_origin

import msgspec

_WIDTH = 110
#: What a value looks like where a key has no default, by record and key.
_EXAMPLES = {
    ("EnvironmentTable", "name"): "production",
    ("RepositoryTable", "name"): "ops",
    ("RepositoryTable", "url"): "/srv/git/ops.git",
}


def render(record: type, head: list[str], settings: dict[str, Any] | None = None) -> str:
    """The file of a record. `head` is the comment at its top, `settings` are the keys of the first level that are on."""
    lines = [*(f"# {line}".rstrip() for line in head), ""]
    comments = _comments(record)
    tables = []
    for field in msgspec.structs.fields(record):
        if _table(field.type) is not None:
            tables.append(field)
            continue
        lines += [*_wrapped(comments.get(field.name, "")), _line(record, field, settings or {}), ""]
    for field in tables:
        lines += _render_table(field)
    return "\n".join(lines).rstrip() + "\n"


def _render_table(field: Any) -> list[str]:
    table = _table(field.type)
    assert table is not None
    is_list = get_origin(field.type) is tuple
    header = f"[[{field.encode_name}]]" if is_list else f"[{field.encode_name}]"
    comments = _comments(table)
    about = inspect.cleandoc(table.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    many = " Repeat this table for each of them." if is_list else ""
    lines = [*_wrapped(about + many), f"#{header}" if is_list else header, ""]
    for inner in msgspec.structs.fields(table):
        lines += [*_wrapped(comments.get(inner.name, "")), _line(table, inner, {}), ""]
    return lines


def _table(kind: Any) -> type | None:
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def _line(record: type, field: Any, settings: dict[str, Any]) -> str:
    if field.encode_name in settings:
        return f"{field.encode_name} = {_toml(settings[field.encode_name])}"
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = _EXAMPLES[record.__name__, field.encode_name]
    return f"#{field.encode_name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's texts, numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False)


def _comments(record: type) -> dict[str, str]:
    """Field: the `#:` lines before it."""
    source = textwrap.dedent(inspect.getsource(record))
    lines = source.splitlines()
    found: dict[str, str] = {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            texts: list[str] = []
            number = node.lineno - 2
            while lines[number].strip().startswith("#:"):
                texts.insert(0, lines[number].strip().removeprefix("#:").strip())
                number -= 1
            found[node.target.id] = " ".join(texts)
    return found


def _wrapped(text: str) -> list[str]:
    # The records' comments are written in Markdown.
    return [f"# {line}" for line in textwrap.wrap(text.replace("`", ""), _WIDTH)]
