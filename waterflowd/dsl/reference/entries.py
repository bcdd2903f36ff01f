"""The entries of the reference: a section for each model and node, and a key for each field, read from the annotated schema."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl import models
from waterflowd.dsl.models.field_types import JsonSchema
from waterflowd.dsl.reference.annotated_schema import FILES, definition_of, definitions, references, words


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, as the reference describes it."""

    description: str
    #: Some lines of YAML, this key among them.
    example: str
    takes: str
    is_required: bool
    #: The default as a file has it; None where there is none.
    default: Any
    #: What applies without the key, where no default says it.
    without: str
    #: One of `SCOPES`; empty where no expression is allowed.
    expressions: str
    pitfalls: tuple[str, ...]
    #: What the key belongs to: see `key` in `dsl.models.model`.
    only: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The entry of a model or of the parameters of a node."""

    page: models.Page
    description: str
    keys: dict[str, Key]

    def framed(self, example: str) -> str:
        """The whole file of an example."""
        if not self.page.frame or example.startswith("jobs:") or "\njobs:" in example:
            return example.rstrip("\n") + "\n"
        before, _, after = self.page.frame.partition("{}")
        margin = " " * len(before.rpartition("\n")[2])
        return before + example.strip("\n").replace("\n", f"\n{margin}") + after


def _in_order(name: str, found: dict[str, type[models.LanguageModel]]) -> None:
    """Collects a model and those that its keys hold, in the order in which a reader meets them."""
    model = _MODELS.get(name)
    if model is not None and name not in found:
        found[name] = model
        for inner in references(definitions()[name]):
            _in_order(inner, found)


def _sections() -> dict[str, Section]:
    found: dict[str, type[models.LanguageModel]] = {}
    for root in FILES.values():
        _in_order(root.__name__, found)
    return {name: _section(model.PAGE, definitions()[name]) for name, model in found.items() if model.PAGE is not None}


def _section(page: models.Page, definition: JsonSchema) -> Section:
    required = definition.get("required", ())
    keys = {
        name: Key(
            description=found["description"],
            example=found["examples"][0],
            takes=words(found),
            is_required=name in required,
            default=found.get("default"),
            without=found.get("x-without", ""),
            expressions=found.get("x-expressions", ""),
            pitfalls=tuple(found.get("x-pitfalls", ())),
            only=found.get("x-only", ""),
        )
        for name, found in definition["properties"].items()
    }
    return Section(page=page, description=definition["description"], keys=keys)


def _node_section(name: str) -> Section:
    frame = (
        f"jobs:\n  deploy:\n    runs-on: web-servers\n    steps:\n      - uses: {name}\n        with:\n          {{}}\n"
    )
    page = models.Page(name=f"node-{name.replace('/', '-')}", where=f"`with` of `uses: {name}`", frame=frame)
    section = _section(page, definitions()[definition_of(name)])
    if name in models.CONTROL_FLOW:
        return section
    required = [key.example for key in section.keys.values() if key.is_required]
    keys = {name: replace(key, example=_completed(key.example, required)) for name, key in section.keys.items()}
    return replace(section, keys=keys)


def _completed(example: str, required: list[str]) -> str:
    """An example with the required parameters that it leaves out, as their own examples have them."""
    lines = example.splitlines()
    for other in reversed(required):
        present = {line.partition(":")[0] for line in lines}
        lines = [line for line in other.splitlines() if line.partition(":")[0] not in present] + lines
    return "\n".join(lines)


_MODELS = {model.__name__: model for model in models.LanguageModel.__subclasses__()}

#: The models by name, in the order in which a reader meets them.
SECTIONS: dict[str, Section] = _sections()
#: The built-in nodes, by name.
NODES: dict[str, Section] = {name: _node_section(name) for name in node_schema.BUILT_IN}
