"""`on.schedule`: the models of what starts a workflow by the clock."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from waterflowd.dsl import cron
from waterflowd.dsl.models.field_types import JsonValue, one_or_more, wrong
from waterflowd.dsl.models.model import LanguageModel, empty_is_all
from waterflowd.dsl.reporting.values import describe, has_expression


def _cron(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise wrong(f"expected a cron expression in quotes such as '0 3 * * *', not {describe(value)}")
    try:
        return cron.check(value)
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _zone(value: object) -> str:
    if not isinstance(value, str) or has_expression(value):
        raise wrong(f"expected a time zone such as Europe/Berlin, not {describe(value)}")
    try:
        return cron.zone_of(value).key
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _schedule(value: object) -> object:
    return value if isinstance(value, dict) else {"cron": value}


class Schedule(LanguageModel):
    """One entry of `on.schedule`: runs at the instants of a cron expression."""

    TITLE = "a schedule"

    cron: Annotated[str, PlainValidator(_cron, json_schema_input_type=str)]
    timezone: Annotated[str, PlainValidator(_zone, json_schema_input_type=str)] = "UTC"
    overlap: Literal["skip", "queue", "cancel"] | None = None
    catch_up: Literal["none", "last", "all"] = "last"
    vars: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}


#: More than any file needs; each of them is a timer.
_SCHEDULES_MAX = 50
Schedules = Annotated[
    list[Annotated[Schedule, BeforeValidator(_schedule)]],
    BeforeValidator(one_or_more),
    Field(min_length=1, max_length=_SCHEDULES_MAX),
]
