"""The base of the language's models: a model is a mapping of a workflow file, and its fields are the mapping's keys.

Rules of this file: unknown keys are refused and values must have the right type, so that no key is read and then ignored.
Each key carries its own documentation: a description, an example, and what no type can express. Pydantic puts it all into
the JSON Schema (what is not standard under names with `x-`), which the reference and the editors' schema are rendered from.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined

from waterflow_agent.display import quote


def _alias(field: str) -> str:
    return field.rstrip("_").replace("_", "-")


#: The jobs of an example that is about something else.
EXAMPLE_JOBS = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - run: make\n"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page of a model in the reference."""

    #: The file's name without its ending.
    name: str
    #: Paths of the mapping, as Markdown.
    where: str
    #: A workflow file around an example, whose lines replace `{}`. Empty: each example is a whole file.
    frame: str


class LanguageModel(BaseModel):
    """Base of the models: keys with hyphens, unknown ones refused, values of the right type only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_alias)

    #: What messages call the mapping.
    TITLE: ClassVar[str] = ""
    #: Keys that only GitHub has, each with what to do instead.
    INSTEAD: ClassVar[dict[str, str]] = {}
    #: None for the parameters of a node, which are on the page of the node.
    PAGE: ClassVar[Page | None] = None

    def has(self, field: str) -> bool:
        """Whether the file has the field's key, even with a null."""
        return field in self.model_fields_set

    def present_keys(self) -> list[str]:
        """The keys that the file has, in the order of the model."""
        return [str(field.alias) for name, field in type(self).model_fields.items() if name in self.model_fields_set]


def key(
    description: str,
    example: str,
    *,
    default: Any = PydanticUndefined,
    alias: str | None = None,
    expressions: str = "",
    without: str = "",
    takes: str = "",
    pitfalls: tuple[str, ...] = (),
    only: str = "",
) -> Any:
    """A field with its documentation; required when it has no `default`.

    `example` are some lines of YAML, this key among them, that compile in the frame of the model's page. `expressions`
    is one of `expression_scopes.SCOPES`, empty where no expression is allowed. `without` says what applies without the
    key, and `takes` which values are allowed, where the type does not say it. `only` names what the key belongs to:
    `steps` or `call` for a job; `process`, `script` or `attempts` for a step.
    """
    extra: dict[str, Any] = {
        "x-expressions": expressions,
        "x-without": without,
        "x-takes": takes,
        "x-pitfalls": list(pitfalls),
        "x-only": only,
    }
    return Field(
        default,
        alias=alias,
        description=description,
        examples=[example],
        json_schema_extra={name: value for name, value in extra.items() if value},
    )


def keys(model: type[LanguageModel]) -> list[str]:
    """The keys of a model, in its order."""
    return [str(field.alias) for field in model.model_fields.values()]


def named(model: type[LanguageModel], key: str) -> str:
    """How a message names a key of a model."""
    return f"{quote(key)} of {model.TITLE}"


def model_at(root: type[LanguageModel], path: tuple[str | int, ...]) -> type[LanguageModel]:
    """The model of the mapping at a path below `root`: the deepest model on the way there."""
    found: type[LanguageModel] = root
    annotation: Any = root
    for part in path:
        annotation = _below(annotation, part)
        if isinstance(annotation, type) and issubclass(annotation, LanguageModel):
            found = annotation
    return found


def _below(annotation: Any, part: str | int) -> Any:
    """The annotation of what is at a key or position of a value with the annotation `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, LanguageModel):
        field = next((field for field in annotation.model_fields.values() if field.alias == part), None)
        return _model_or_container(field.annotation) if field is not None else None
    origin, arguments = get_origin(annotation), get_args(annotation)
    return _model_or_container(arguments[-1]) if origin in (dict, list) else None


def _model_or_container(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _model_or_container(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((part for part in map(_model_or_container, get_args(annotation)) if part is not None), None)
    is_model = isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, LanguageModel)
    return annotation if is_model or get_origin(annotation) in (dict, list) else None
