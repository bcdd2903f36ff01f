"""The pages under docs/reference/: one for each model and node, and one each for contexts, functions and codes.

Rules of this file: it only renders; every text comes from the models, the nodes' records, the contexts, the functions and
the codes. A page is the same bytes each time, and each error message in it is the compiler's own output for the example.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import compile_workflow, render_diagnostic
from waterflowd.dsl.models.expression_scopes import CONTEXTS, SCOPES
from waterflowd.dsl.reference import annotated_schema, json_schema
from waterflowd.dsl.reference.diagnostics import EXAMPLES, RUNTIME_CODES
from waterflowd.dsl.reference.entries import NODES, SECTIONS, Key, Section
from waterflowd.dsl.reporting.codes import CODES

_BANNER = "<!-- Made by `make reference` from the models of the language; changes here are lost. -->\n"
#: A context that more keys see is visible almost everywhere.
_SEEN_MAX = 16
_ONLY = {
    "steps": "a job with `steps`",
    "call": "a job that calls a workflow (`uses`)",
    "process": "a step that runs on a server; not a node that the daemon runs, and not a composite step",
    "attempts": "a step that runs on a server, or `workflow/run`; not another node that the daemon runs",
    "script": "a script: `run`, or the node `shell`",
}
_RUNS_IN = {
    "process": "a process on the server",
    "host": "a separate process on the server",
    "agent": "the agent on the server",
    "engine": "the daemon; it occupies no server",
}

#: A code's cause and next action.
Advice = Mapping[str, tuple[str, str]]


def pages(advice: Advice) -> dict[str, str]:
    """Every file of the folder by its name. `advice` holds each code's cause and next action."""
    made = {f"{section.page.name}.md": _section_page(section) for section in SECTIONS.values()}
    made |= {f"{NODES[name].page.name}.md": _node_page(node) for name, node in node_schema.BUILT_IN.items()}
    made |= {
        "README.md": _index(),
        "contexts.md": _contexts(),
        "functions.md": _functions(),
        "diagnostics.md": _diagnostics(advice),
    }
    made |= {f"{kind}.schema.json": json_schema.schema_text(kind) for kind in annotated_schema.FILES}
    return dict(sorted(made.items()))


def _page(title: str, *parts: str) -> str:
    return "\n".join([f"# {title}\n", _BANNER, *(part.rstrip("\n") + "\n" for part in parts)])


def _fence(text: str, info: str = "yaml") -> str:
    # A reader who copies an example does not have the files that it uses by path; the tests provide them.
    needs_files = "uses: ./" in text and info == "yaml"
    return f"```{'yml' if needs_files else info}\n{text.rstrip(chr(10))}\n```"


# Models and nodes ---------------------------------------------------------------------------------------------------------


def _section_page(section: Section) -> str:
    parts = [section.description, f"Path: {section.page.where}."]
    return _page(section.page.name, *parts, *(_key(name, key, section) for name, key in section.keys.items()))


def _node_page(node: node_schema.NodeSchema) -> str:
    section = NODES[node.name]
    names = [f"`{name}`" for name in (node.name, *node.aliases)]
    facts = [
        f"- Name: {' or '.join(names)}, optionally followed by `@v1`.",
        f"- Runs in: {_RUNS_IN[node.runs_in.value]}.",
        f"- Outputs: {', '.join(f'`{name}`' for name in node.outputs) or 'no fixed ones'}.",
    ]
    parts = [section.description, "\n".join(facts)]
    return _page(node.name, *parts, *(_key(name, key, section) for name, key in section.keys.items()))


def _key(name: str, key: Key, section: Section) -> str:
    lines = [f"## `{name}`", "", key.description, "", f"- Values: {key.takes}.", f"- Default: {_default(key)}."]
    lines.append(f"- Expressions: {_expressions(key)}.")
    if key.only:
        lines.append(f"- Only for: {_ONLY[key.only]}.")
    lines += ["", _fence(section.framed(key.example))]
    if key.pitfalls:
        lines += ["", "Pitfalls:", "", *(f"- {pitfall}" for pitfall in key.pitfalls)]
    return "\n".join(lines)


def _default(key: Key) -> str:
    if key.is_required:
        return "required"
    if key.without:
        return key.without
    if key.default is None or key.default in ({}, []):
        return "none"
    if isinstance(key.default, list):
        return f"`[{', '.join(map(str, key.default))}]`"
    return "`" + json.dumps(key.default).strip('"') + "`"


def _expressions(key: Key) -> str:
    if not key.expressions:
        return "none"
    scope = SCOPES[key.expressions]
    names = ", ".join(f"[`{name}`](contexts.md#{name})" for name in scope.contexts)
    return names + ("; `success()`, `failure()`, `cancelled()`, `always()`" if scope.has_status else "")


# Expressions --------------------------------------------------------------------------------------------------------------


def _contexts() -> str:
    parts = ["The names that expressions can use. The page of each key lists the contexts that it sees."]
    for name, context in CONTEXTS.items():
        lines = [f"## `{name}`", "", context.description, ""]
        lines += [f"- Where: {context.where}.", f"- Example: `{context.example}`"]
        if context.fields:
            lines += ["", "| field | value |", "|---|---|"]
            lines += [f"| `{field}` | {text} |" for field, text in context.fields.items()]
        keys = list(dict.fromkeys(_keys_that_see(name)))
        if len(keys) <= _SEEN_MAX:
            lines += ["", f"Keys that see it: {', '.join(keys)}."]
        parts.append("\n".join(lines))
    return _page("Contexts", *parts)


def _keys_that_see(context: str) -> Iterator[str]:
    for section in SECTIONS.values():
        for name, key in section.keys.items():
            if key.expressions and context in SCOPES[key.expressions].contexts:
                yield f"[`{name}` of {section.page.name}]({section.page.name}.md#{name})"


def _functions() -> str:
    parts = [
        "Function names are case-insensitive. Where text is expected, numbers, booleans and null are converted to text."
    ]
    for function in expr.FUNCTIONS.values():
        lines = [f"## `{function.name}`", "", f"`{function.usage}`", "", function.description]
        if function.examples:
            rows = [(example, expr.evaluate(expr.parse(example), expr.Env())) for example in function.examples]
            values = [f"| `{example}` | `{json.dumps(value, ensure_ascii=False)}` |" for example, value in rows]
            lines += ["", "| expression | value |", "|---|---|", *(row.replace("\n", "\\n") for row in values)]
        parts.append("\n".join(lines))
    return _page("Functions", *parts)


# Codes --------------------------------------------------------------------------------------------------------------------


def _diagnostics(advice: Advice) -> str:
    parts = [
        "Each error and warning of the language, with a minimal file that causes it. Codes are stable: a code never gets"
        " another meaning. The other codes are in [errors](../errors.md)."
    ]
    for code in sorted(CODES):
        cause, action = advice[code]
        lines = [f"## {code}", "", f"{_sentence(CODES[code])}", "", f"- Cause: {cause}", f"- What to do: {action}"]
        if code in RUNTIME_CODES:
            lines += ["", "It is not caused by a file: it occurs during a run."]
        else:
            lines += ["", *_diagnostic_example(code)]
        parts.append("\n".join(lines))
    return _page("Diagnostics", *parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _diagnostic_example(code: str) -> Iterator[str]:
    example = EXAMPLES[code]
    compiled = compile_workflow("workflows/example.yml", example.content or example.text.encode(), example.files)
    found = [diagnostic for diagnostic in (*compiled.diagnostics, *compiled.warnings) if diagnostic.code == code]
    yield _fence(example.text, "yml")
    if example.note:
        yield f"\n{example.note}"
    yield "\n" + _fence("\n".join(render_diagnostic(diagnostic) for diagnostic in found), "")


# The index ----------------------------------------------------------------------------------------------------------------

_EDITOR = """## In an editor

The language has a JSON Schema (draft 7): [workflow.schema.json](workflow.schema.json) for workflows, and
[step.schema.json](step.schema.json) for the files of composite steps. `waterflowctl schema` prints it, and the daemon
serves it at `/v1/schema`. Editors with the YAML language server (VS Code, Neovim, Helix, Zed, Emacs and others) then
complete keys and nodes, show what a key means, and mark errors while you type. A line at the top of a file is enough:

```yml
# yaml-language-server: $schema=https://waterflow.example.org/v1/schema
```

For all files of a repository, use the settings of VS Code:

```json
{"yaml.schemas": {"./.waterflow/workflow.schema.json": ["workflows/*.yml", ".waterflow/workflows/*.yml"]}}
```

with the file written by `waterflowctl schema > .waterflow/workflow.schema.json`. The schema checks keys, values and the
parameters of nodes; `waterflowctl validate` also checks expressions, names and other files."""


def _index() -> str:
    keys = [f"- [{section.page.name}]({section.page.name}.md): {section.page.where}" for section in SECTIONS.values()]
    nodes = [f"- [`{name}`]({NODES[name].page.name}.md): {node.summary}" for name, node in node_schema.BUILT_IN.items()]
    return _page(
        "Reference of the language",
        "This reference is made from the models that the compiler uses. For an introduction, read"
        " [workflows](../workflows.md).",
        "## Keys\n\n" + "\n".join(keys),
        "## Nodes\n\n" + "\n".join(nodes),
        "## Expressions\n\n- [Contexts](contexts.md)\n- [Functions](functions.md)",
        "## Errors and warnings\n\n- [Every code with an example](diagnostics.md)",
        _EDITOR,
    )
