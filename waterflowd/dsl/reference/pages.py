"""The pages under docs/reference/: one for each concept and node, and one each for contexts, functions and codes.

Rules of this file: nothing is written here that a model or a text says; a page is the same bytes each time. What an
error looks like is what the compiler says about the example.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import compile_workflow, models, render_diagnostic
from waterflowd.dsl.reference import SECTIONS, Key, Section, json_schema, shapes
from waterflowd.dsl.reference.diagnostics import EXAMPLES, NOT_OF_A_FILE
from waterflowd.dsl.reference.entries import PLACES
from waterflowd.dsl.reference.expressions import CONTEXTS, FUNCTIONS
from waterflowd.dsl.reference.nodes import NODES
from waterflowd.dsl.reporting.codes import CODES

_BANNER = "<!-- Made by `make reference` from the language's models and texts; changes here are lost. -->\n"
#: A context that more keys see is seen nearly everywhere.
_SEEN_MAX = 16
_ONLY = {
    "steps": "a job with `steps`",
    "call": "a job that calls a workflow (`uses`)",
    "process": "steps that run on a server: not with nodes that the daemon runs, nor composite steps",
    "attempts": "steps that run on a server, and `workflow/run`: not with the other nodes that the daemon runs",
    "script": "scripts: `run`, or the node `shell`",
}
_RUNS_IN = {
    "process": "a process on the server",
    "host": "a process of its own on the server",
    "agent": "the agent on the server",
    "engine": "the daemon's log; holds no server",
}

#: A code's cause and next action.
Advice = Mapping[str, tuple[str, str]]


def pages(advice: Advice) -> dict[str, str]:
    """Every file of the folder by its name. `advice` holds each code's cause and next action."""
    made = {f"{section.name}.md": _concept_page(name, section) for name, section in SECTIONS.items()}
    made |= {f"node-{name.replace('/', '-')}.md": _node_page(node) for name, node in node_schema.BUILT_IN.items()}
    made |= {
        "README.md": _index(),
        "contexts.md": _contexts(),
        "functions.md": _functions(),
        "diagnostics.md": _diagnostics(advice),
    }
    made |= {f"{kind}.schema.json": json_schema.schema_text(kind) for kind in json_schema.KINDS}
    return dict(sorted(made.items()))


def _page(title: str, *parts: str) -> str:
    return "\n".join([f"# {title}\n", _BANNER, *(part.rstrip("\n") + "\n" for part in parts)])


def _fence(text: str, info: str = "yaml") -> str:
    # Files that are used by path are not there for who copies an example; the tests bring them.
    needs_files = "uses: ./" in text and info == "yaml"
    return f"```{'yml' if needs_files else info}\n{text.rstrip(chr(10))}\n```"


# Concepts and nodes -------------------------------------------------------------------------------------------------------


def _concept_page(name: str, section: Section) -> str:
    concept = json_schema.CONCEPTS[name]
    fields = {str(field.alias): field for field in concept.model_fields.values()}
    parts = [section.what, f"Stands at: {section.where}."]
    for key, entry in section.keys.items():
        field = fields[key]
        default = _default(entry, json_schema.default_value(field), is_required=field.is_required())
        parts.append(_key(key, entry, section, (shapes.of_field(field).words, default)))
    return _page(_title(section), *parts)


def _title(section: Section) -> str:
    return f"{section.name.removeprefix('node-')}"


def _default(entry: Key, default: Any, *, is_required: bool) -> str:
    if is_required:
        return "required"
    if entry.default:
        return entry.default
    if default is None or default in ({}, []):
        return "none"
    shown = json.dumps(default).strip('"') if not isinstance(default, list) else f"[{', '.join(map(str, default))}]"
    return f"`{shown}`"


def _key(key: str, entry: Key, section: Section, facts: tuple[str, str]) -> str:
    words, default = facts
    lines = [f"## `{key}`", "", entry.what, "", f"- Takes: {entry.takes or words}.", f"- Default: {default}."]
    lines.append(f"- Expressions: {_place(entry)}.")
    if entry.only:
        lines.append(f"- Goes with: {_ONLY[entry.only]}.")
    if entry.example:
        lines += ["", _fence(section.framed(entry.example))]
    if entry.pitfalls:
        lines += ["", "Pitfalls:", "", *(f"- {pitfall}" for pitfall in entry.pitfalls)]
    return "\n".join(lines)


def _place(entry: Key) -> str:
    if not entry.place:
        return "none"
    place = PLACES[entry.place]
    names = ", ".join(f"[`{name}`](contexts.md#{name})" for name in place.contexts)
    return names + ("; `success()`, `failure()`, `cancelled()`, `always()`" if place.has_status else "")


def _node_page(node: node_schema.NodeSchema) -> str:
    section = NODES.get(node.name) or Section("", f"`with` of `uses: {node.name}`", node.summary, "", {})
    names = [f"`{name}`" for name in (node.name, *node.aliases)]
    outputs = ", ".join(f"`{name}`" for name in node.outputs) or "none of its own"
    facts = [
        f"- Name: {', or '.join(names)}; `@v1` may follow.",
        f"- Runs in: {_RUNS_IN[node.runs_in.value]}.",
        f"- Outputs: {outputs}.",
    ]
    parts = [section.what, "\n".join(facts)]
    for key, (words, default, described) in _node_keys(node).items():
        entry = section.keys.get(key) or Key(described, "")
        shown = _default(entry, default, is_required=default is _REQUIRED)
        parts.append(_key(key, entry, section, (words, shown)))
    return _page(node.name, *parts)


_REQUIRED = object()


def _node_keys(node: node_schema.NodeSchema) -> dict[str, tuple[str, Any, str]]:
    """Each parameter's words, default and description."""
    model = models.CONTROL_FLOW.get(node.name)
    if model is not None:
        return {
            str(field.alias): (
                shapes.of_field(field).words,
                _REQUIRED if field.is_required() else json_schema.default_value(field),
                "",
            )
            for field in model.model_fields.values()
        }
    _, components = msgspec.json.schema_components([node.parameters])
    (record,) = components.values()
    required = set(record.get("required", ()))
    return {
        name: (
            shapes.of_parameter(found).words,
            _REQUIRED if name in required else found.get("default"),
            found.get("description", ""),
        )
        for name, found in record["properties"].items()
    }


# Expressions --------------------------------------------------------------------------------------------------------------


def _contexts() -> str:
    parts = ["What expressions can name. The page of each key says which of them it sees."]
    for name, context in CONTEXTS.items():
        lines = [f"## `{name}`", "", context.what, "", f"- Where: {context.where}.", f"- Example: `{context.example}`"]
        if context.fields:
            lines += ["", "| field | holds |", "|---|---|"]
            lines += [f"| `{field}` | {what} |" for field, what in context.fields.items()]
        seen = list(dict.fromkeys(_keys_that_see(name)))
        if len(seen) <= _SEEN_MAX:
            lines += ["", f"Keys that see it: {', '.join(seen)}."]
        parts.append("\n".join(lines))
    return _page("Contexts", *parts)


def _keys_that_see(context: str) -> Iterator[str]:
    for section in SECTIONS.values():
        for key, entry in section.keys.items():
            if entry.place and context in PLACES[entry.place].contexts:
                yield f"[`{key}` of {_title(section)}]({section.name}.md#{key})"


def _functions() -> str:
    parts = ["Names are compared without case. In text, everything that is no array and no object is read as text."]
    for name, function in FUNCTIONS.items():
        lines = [f"## `{name}`", "", f"`{function.call}`", "", function.what]
        if function.examples:
            rows = [(example, expr.evaluate(expr.parse(example), expr.Env())) for example in function.examples]
            shown = [f"| `{example}` | `{json.dumps(value, ensure_ascii=False)}` |" for example, value in rows]
            lines += ["", "| expression | value |", "|---|---|", *(row.replace("\n", "\\n") for row in shown)]
        parts.append("\n".join(lines))
    return _page("Functions", *parts)


# Codes --------------------------------------------------------------------------------------------------------------------


def _diagnostics(advice: Advice) -> str:
    parts = [
        "Each error and warning of the language, with the smallest file that gives it. Codes are stable: one is never used for"
        " something else. The codes of the rest of the system are in [errors](../errors.md)."
    ]
    for code in sorted(CODES):
        cause, action = advice[code]
        lines = [f"## {code}", "", f"{_sentence(CODES[code])}", "", f"- Cause: {cause}", f"- What to do: {action}"]
        if code in NOT_OF_A_FILE:
            lines += ["", "No file gives it: it is met while a run goes on."]
        else:
            lines += ["", *_shown(code)]
        parts.append("\n".join(lines))
    return _page("Diagnostics", *parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _shown(code: str) -> Iterator[str]:
    example = EXAMPLES[code]
    compiled = compile_workflow("workflows/example.yml", example.content or example.text.encode(), example.files)
    found = [one for one in (*compiled.diagnostics, *compiled.warnings) if one.code == code]
    yield _fence(example.text, "yml")
    if example.note:
        yield f"\n{example.note}"
    yield "\n" + _fence("\n".join(render_diagnostic(one) for one in found), "")


# The index ----------------------------------------------------------------------------------------------------------------

_EDITOR = """## In an editor

The language has a JSON Schema (draft 7): [workflow.schema.json](workflow.schema.json) for workflows,
[step.schema.json](step.schema.json) for the files of composite steps. `waterflowctl schema` prints it, and the daemon
serves it at `/v1/schema`. Editors with the YAML language server (VS Code, Neovim, Helix, Zed, Emacs, and others) then
complete keys and nodes, show what a key means, and mark what is wrong while you type. A line at the top of a file is enough:

```yml
# yaml-language-server: $schema=https://waterflow.example.org/v1/schema
```

or, for all files of a repository, in the settings of VS Code:

```json
{"yaml.schemas": {"./.waterflow/workflow.schema.json": ["workflows/*.yml", ".waterflow/workflows/*.yml"]}}
```

with the file that `waterflowctl schema > .waterflow/workflow.schema.json` has written. The schema knows keys, values and nodes'
parameters; expressions, names and other files are checked by `waterflowctl validate`."""


def _index() -> str:
    concepts = [f"- [{_title(section)}]({section.name}.md): {section.where}" for section in SECTIONS.values()]
    nodes = [
        f"- [`{name}`](node-{name.replace('/', '-')}.md): {node.summary}" for name, node in node_schema.BUILT_IN.items()
    ]
    return _page(
        "Reference of the language",
        "Made from the models that the compiler itself uses. For a description in one piece read"
        " [workflows](../workflows.md).",
        "## Keys\n\n" + "\n".join(concepts),
        "## Nodes\n\n" + "\n".join(nodes),
        "## Expressions\n\n- [Contexts](contexts.md)\n- [Functions](functions.md)",
        "## Errors and warnings\n\n- [Every code with an example](diagnostics.md)",
        _EDITOR,
    )
