"""The models of `on.schedule`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from waterflowd.dsl import cron
from waterflowd.dsl.models.field_types import JsonValue, OneOrMore, OrEmpty, matching, short_for, wrong
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key
from waterflowd.dsl.reporting.values import describe, has_expression


def _cron(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise wrong(f"expected a cron expression in quotes such as '0 3 * * *', not {describe(value)}")
    try:
        return cron.check(value)
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _timezone(value: object) -> str:
    if not isinstance(value, str) or has_expression(value):
        raise wrong(f"expected a time zone such as Europe/Berlin, not {describe(value)}")
    try:
        return cron.zone_of(value).key
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _cron_spelling(value: object) -> object:
    return value if isinstance(value, dict) else {"cron": value}


_Cron = Annotated[str, PlainValidator(_cron), WithJsonSchema(matching(r"\S", "a cron expression", "string"))]
_Timezone = Annotated[str, PlainValidator(_timezone), WithJsonSchema(matching(r"\S", "a time zone", "string"))]


class Schedule(LanguageModel):
    """Starts a run at the times of a cron expression. [Schedules](../schedules.md) describes clock changes and the time
    when the daemon was not running.
    """

    TITLE = "a schedule"
    PAGE = Page(name="on-schedule", where="`on.schedule`", frame="on:\n  schedule:\n    - {}\n" + EXAMPLE_JOBS)

    cron: _Cron = key(
        "Five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.",
        "cron: '0 3 * * 1-5'",
        pitfalls=("Put it in quotes.",),
    )
    timezone: _Timezone = key("An IANA time zone.", "cron: '30 2 * * *'\ntimezone: Europe/Berlin", default="UTC")
    overlap: Literal["skip", "queue", "cancel"] | None = key(
        "What to do if a run of the same schedule is still open: `skip` this time, `queue` a run behind it, or `cancel` it.",
        "cron: '@hourly'\noverlap: queue",
        default=None,
        without="`skip`; `queue` with `catch-up: all`",
    )
    catch_up: Literal["none", "last", "all"] = key(
        "What to do about missed times: start no run (`none`), one run for the `last`, or one run for each (`all`).",
        "cron: '@daily'\ncatch-up: all",
        default="last",
    )
    vars: OrEmpty[dict[str, JsonValue]] = key(
        "Values that override the `vars` of the file.",
        "cron: '@weekly'\nvars: {level: full}",
        default={},
        pitfalls=("Plain values only; if the file has `vars`, only names that it declares.",),
    )


#: Each schedule needs a timer; no file needs more of them.
_SCHEDULES_MAX = 50
Schedules = Annotated[
    OneOrMore[Annotated[Schedule, BeforeValidator(_cron_spelling), short_for("cron")]],
    Field(min_length=1, max_length=_SCHEDULES_MAX),
]
