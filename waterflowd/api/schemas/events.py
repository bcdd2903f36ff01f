"""Events in JSON: the Structs of the log, with the position of the record, and with times and reasons as everywhere else.

Rules of this file: the fields of an event are declared once, where the event is. The Struct that is encoded and described here
is derived from them. Fields that end in `_at` become RFC 3339 times, reasons get their facts beside the code, and fields of
secrets and keys are left out.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

import msgspec

from waterflowd.api.schemas.reasons import ReasonSchema, reason_schema
from waterflowd.api.timestamps import Timestamp, format_timestamp, timestamp
from waterflowd.engine import events
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Record

#: Never part of an answer.
HIDDEN = frozenset({"secret_sha256", "public_key"})


class EventSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """An event. `seq` is its position in its stream, `log_seq` its position in the whole log."""

    seq: int
    log_seq: int
    stream: str
    at: Timestamp


def _same(value: Any) -> Any:
    return value


class _Form:
    """How events of one type become JSON."""

    def __init__(self, event: type[msgspec.Struct]) -> None:
        hints = typing.get_type_hints(event, include_extras=True)
        self._converters: list[tuple[str, Callable[[Any], Any]]] = []
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for field in msgspec.structs.fields(event):
            if field.name in HIDDEN or field.name == "at":
                continue
            kind, convert = _api_form(field.name, hints[field.name])
            self._converters.append((field.name, convert))
            if field.required:
                fields.append((field.name, kind))
            elif field.default_factory is not msgspec.NODEFAULT:
                fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
            else:
                fields.append((field.name, kind, field.default))
        self.schema: type[EventSchema] = msgspec.defstruct(  # type: ignore[assignment]
            event.__name__,
            fields,
            bases=(EventSchema,),
            namespace={"__doc__": event.__doc__},
            tag=event.__struct_config__.tag,
            frozen=True,
            kw_only=True,
            omit_defaults=True,
        )

    def convert(self, record: Record) -> EventSchema:
        """The event of a record."""
        event = record.event
        return self.schema(
            seq=record.position,
            log_seq=record.seq,
            stream=record.stream,
            at=format_timestamp(record.at),
            **{name: convert(getattr(event, name)) for name, convert in self._converters},
        )


def _api_form(name: str, kind: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The type of a field in JSON, and what makes its value."""
    if kind is Reason:
        return ReasonSchema, reason_schema
    if name.endswith("_at"):
        return (Timestamp if kind is int else Timestamp | None), timestamp
    return kind, _same


_forms: dict[type[msgspec.Struct], _Form] = {}


def _form(event: type[msgspec.Struct]) -> _Form:
    form = _forms.get(event)
    if form is None:
        form = _forms[event] = _Form(event)
    return form


def event_schema(record: Record) -> EventSchema:
    """The event of a record of any stream."""
    return _form(type(record.event)).convert(record)


if TYPE_CHECKING:
    RunEventSchema = EventSchema
else:
    #: One of the events of a run, by `type`.
    RunEventSchema = Union[tuple(_form(kind).schema for kind in typing.get_args(events.RunEvent))]  # noqa: UP007


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of events."""

    events: list[RunEventSchema]
    next: str | None
