"""What a model of the language is: a concept, whose fields are the keys that people write.

Rules of this file: unknown keys are refused, values must be of the right kind. `INSTEAD` says what to do in place of a key
that only GitHub has. So no key is ever read and then ignored.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from waterflow_agent.display import quote


def _key(field: str) -> str:
    return field.rstrip("_").replace("_", "-")


class LanguageModel(BaseModel):
    """Base of the models: keys with hyphens, unknown ones refused, values of the right kind only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_key)

    #: What the thing is called in messages.
    TITLE: ClassVar[str] = ""
    INSTEAD: ClassVar[dict[str, str]] = {}

    def has(self, field: str) -> bool:
        """Whether the file gives the field, be it with a null."""
        return field in self.model_fields_set

    def given(self) -> list[str]:
        """The keys that the file gives, in the order of the model."""
        return [str(field.alias) for name, field in type(self).model_fields.items() if name in self.model_fields_set]


def keys(concept: type[LanguageModel]) -> list[str]:
    """The keys of a concept, in the order of the model."""
    return [str(field.alias) for field in concept.model_fields.values()]


def named(concept: type[LanguageModel], key: str) -> str:
    """How a message names a key of a concept."""
    return f"{quote(key)} of {concept.TITLE}"


def model_at(root: type[LanguageModel], path: tuple[str | int, ...]) -> type[LanguageModel]:
    """The concept whose keys stand at a path below `root`: the deepest model on the way there."""
    found: type[LanguageModel] = root
    place: Any = root
    for part in path:
        place = _below(place, part)
        if isinstance(place, type) and issubclass(place, LanguageModel):
            found = place
    return found


def empty_is_all(value: object) -> object:
    """A key without a value, such as `push:`, takes every default below it."""
    return {} if value is None else value


def _below(place: Any, part: str | int) -> Any:
    """The annotation of what hangs at a key or position of a value with the annotation `place`."""
    if isinstance(place, type) and issubclass(place, LanguageModel):
        field = next((field for field in place.model_fields.values() if field.alias == part), None)
        return _model_or_container(field.annotation) if field is not None else None
    origin, arguments = get_origin(place), get_args(place)
    return _model_or_container(arguments[-1]) if origin in (dict, list) else None


def _model_or_container(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _model_or_container(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((part for part in map(_model_or_container, get_args(annotation)) if part is not None), None)
    is_model = isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, LanguageModel)
    return annotation if is_model or get_origin(annotation) in (dict, list) else None
