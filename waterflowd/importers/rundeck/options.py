"""Options of a Rundeck job as inputs, and Rundeck's variables as expressions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from waterflowd.importers import writing
from waterflowd.importers.generated import as_literal
from waterflowd.importers.origin import slug
from waterflowd.importers.source_yaml import texts_of
from waterflowd.importers.writing import flow_text
from waterflowd.model.plan import Json

_VARIABLES = {
    "job.name": "run.workflow",
    "job.id": "run.id",
    "job.execid": "run.id",
    "job.username": "github.actor",
    "job.project": "github.repository",
    "node.name": "agent.name",
    "node.hostname": "agent.hostname",
    "execution.id": "run.id",
}
#: `${option.name}` in commands, `@option.name@` in scripts.
_USED = re.compile(r"\$\{((?:option|job|node|execution|globals|data|export|unquotedoption)\.[A-Za-z0-9_.-]+)\}")
_USED_IN_SCRIPT = re.compile(r"@((?:option|job|node|execution|globals|data|export|unquotedoption)\.[A-Za-z0-9_.-]+)@")
_IMPORTED_KEYS = frozenset(
    (
        "name",
        "description",
        "label",
        "value",
        "required",
        "values",
        "enforced",
        "regex",
        "secure",
        "valueExposed",
        "storagePath",
    )
)
Decide = Callable[[str], str]


def is_true(value: object) -> bool:
    """Whether a value means yes; XML and YAML write it as text."""
    return value is True or str(value).lower() in ("true", "yes")


@dataclass
class Options:
    """The options of one job."""

    inputs: writing.Block = field(default_factory=writing.Block)
    #: Expression for each option by its name on Rundeck.
    expressions: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def add(self, option: Json, decide: Decide) -> None:
        """Add one option."""
        if not isinstance(option, dict) or not isinstance(option.get("name"), str):
            decide(f"an option without a name is not imported: {flow_text(option)}")
            return
        name = str(option["name"])
        if is_true(option.get("secure")) or option.get("storagePath"):
            secret = re.sub(r"[^A-Za-z0-9_]", "_", name).upper()
            self.expressions[name] = f"secrets.{secret}"
            self.secrets.append(
                decide(f"the secure option {name} is the secret {secret} now: store it: {flow_text(option)}")
            )
            return
        self.expressions[name] = f"inputs.{slug(name)}"
        self.inputs.set(slug(name), self._input(option), *self._notes(option, decide))

    def _input(self, option: dict[str, Json]) -> writing.Block:
        block = writing.Block()
        texts = [str(option[key]) for key in ("label", "description") if option.get(key)]
        if texts:
            block.set("description", as_literal(": ".join(texts)))
        choices = _choices(option)
        if is_true(option.get("enforced")) and choices:
            block.set("type", "choice")
            block.set("options", list(choices))
        if is_true(option.get("required")):
            block.set("required", True)
        if option.get("value") is not None:
            block.set("default", str(option["value"]))
        if option.get("regex"):
            block.set("pattern", str(option["regex"]))
        return block

    def _notes(self, option: dict[str, Json], decide: Decide) -> list[str]:
        notes = []
        if (choices := _choices(option)) and not is_true(option.get("enforced")):
            notes.append(f"Suggestions on Rundeck: {', '.join(choices)}.")
        left = {key: value for key, value in option.items() if key not in _IMPORTED_KEYS}
        if left:
            notes.append(decide(f"option {option['name']}: no counterpart: {flow_text(left)}"))
        return notes

    def environment(self) -> dict[str, str]:
        """Return the variables that Rundeck gives to scripts."""
        return {
            f"RD_OPTION_{re.sub(r'[^A-Za-z0-9_]', '_', name).upper()}": f"${{{{ {expression} }}}}"
            for name, expression in self.expressions.items()
        }

    def expanded(self, text: str, decide: Decide, *, is_script: bool = False) -> str:
        """Return text with Rundeck's variables replaced by expressions; unknown ones stay."""
        position, parts = 0, []
        for found in (_USED_IN_SCRIPT if is_script else _USED).finditer(text):
            parts.append(as_literal(text[position : found.start()]))
            position = found.end()
            kind, _, name = found[1].partition(".")
            expression = (
                self.expressions.get(name) if kind in ("option", "unquotedoption") else _VARIABLES.get(found[1].lower())
            )
            if expression is None:
                decide(f"{found[0]} has no counterpart, and stays as it is")
            parts.append(f"${{{{ {expression} }}}}" if expression else found[0])
        return "".join([*parts, as_literal(text[position:])])


def _choices(option: dict[str, Json]) -> list[str]:
    values = option.get("values")
    return [each.strip() for each in values.split(",")] if isinstance(values, str) else texts_of(values)
