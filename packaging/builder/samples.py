"""Sample configuration files, generated from the configuration classes: each key commented out, with description and default.

The descriptions are the `#:` comments before the fields and the docstrings of tables: administrators read the same text as
developers.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from typing import Any, get_args, get_origin

import msgspec

_WIDTH = 110
#: Example values of keys without a default, by class and key.
_EXAMPLES = {
    ("EnvironmentTable", "name"): "production",
    ("NotifyTable", "name"): "ops",
    ("RepositoryTable", "name"): "ops",
    ("RepositoryTable", "url"): "/srv/git/ops.git",
}


def render(record: type, head: list[str], settings: dict[str, Any] | None = None) -> str:
    """Returns the sample file. `head` is the comment at its top; `settings` are top-level keys that are not commented out."""
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
        return f"{field.encode_name} = {toml(settings[field.encode_name])}"
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = _EXAMPLES[record.__name__, field.encode_name]
    return f"#{field.encode_name} = {toml(value)}"


def toml(value: Any) -> str:
    """Returns a value as TOML has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    # Strings, numbers and booleans are the same in JSON and TOML.
    return json.dumps(value, ensure_ascii=False)


def comment(record: type, path: tuple[str, ...]) -> str:
    """Returns the comment before a key, given its path; before a table of a list, what the table is."""
    *tables, key = path
    for name in tables:
        inner = _table(next(field.type for field in msgspec.structs.fields(record) if field.encode_name == name))
        assert inner is not None
        record = inner
    (field,) = [field for field in msgspec.structs.fields(record) if field.encode_name == key]
    table = _table(field.type)
    about = inspect.cleandoc(table.__doc__ or "").split("\n\n")[0].replace("\n", " ") if table else ""
    return _comments(record).get(field.name) or about


def _comments(record: type) -> dict[str, str]:
    """Returns the `#:` comment before each field, also of the records that it extends."""
    found: dict[str, str] = {}
    for each in reversed(record.__mro__):
        if issubclass(each, msgspec.Struct) and each is not msgspec.Struct:
            found |= _own_comments(each)
    return found


def _own_comments(record: type) -> dict[str, str]:
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
    # The comments are Markdown.
    return [f"# {line}" for line in textwrap.wrap(text.replace("`", ""), _WIDTH)]
