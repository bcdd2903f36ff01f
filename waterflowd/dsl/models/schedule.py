"""`on.schedule`: the models of what starts a workflow by the clock, and what their entries become in the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import cron
from waterflowd.dsl.building.source import Source
from waterflowd.dsl.models.field_types import JsonValue, wrong
from waterflowd.dsl.models.model import Concept, empty_is_all
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import did_you_mean
from waterflowd.dsl.reporting.values import describe, has_expression
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [value]


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


class Schedule(Concept):
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
    BeforeValidator(_one_or_more),
    Field(min_length=1, max_length=_SCHEDULES_MAX),
]


def build_schedules(
    source: Source, variables: Sequence[str], written: Sequence[Schedule]
) -> tuple[ScheduleTrigger, ...]:
    """The schedules of a file that declares these `vars`."""
    known: dict[tuple[str, str], int] = {}
    for number, schedule in enumerate(written):
        path: Path = ("on", "schedule", number)
        _check_variables(source, variables, schedule, path)
        times = (schedule.cron, schedule.timezone)
        node, _ = source.document.find(path)
        if times in known and not source.report.has_within(node.start, node.end + 1):
            text = f"schedule[{number}] says the same times as schedule[{known[times]}]"
            source.report.add(
                node.start, codes.EXCLUSIVE_KEYS, text, "remove one of the two: an instant starts one run"
            )
        known.setdefault(times, number)
    return tuple(_trigger(schedule) for schedule in written)


def _trigger(schedule: Schedule) -> ScheduleTrigger:
    catch_up = CatchUp(schedule.catch_up)
    # Whoever wants a run for each instant would lose all but the first of them by skipping what overlaps.
    usual = Overlap.QUEUE if catch_up is CatchUp.ALL else Overlap.SKIP
    return ScheduleTrigger(
        cron=schedule.cron,
        timezone=schedule.timezone,
        overlap=Overlap(schedule.overlap) if schedule.overlap else usual,
        catch_up=catch_up,
        vars={name: plain(value) for name, value in schedule.vars.items()},
    )


def _check_variables(source: Source, variables: Sequence[str], schedule: Schedule, path: Path) -> None:
    declared = {name.lower() for name in variables}
    for name, value in schedule.vars.items():
        place: Path = (*path, "vars", name)
        if not expr.is_static(value):
            text = f"vars of a schedule: {quote(name)} holds an expression, and nothing is known yet that it could use"
            source.at_key(place, codes.WRONG_VALUE, text, "write a value, or the expression in the vars of the file")
        if declared and name.lower() not in declared:
            text = f"vars of a schedule: the file has no variable {quote(name)}"
            hint = did_you_mean(name, variables) or "declare it in the vars of the file, with what a push shall see"
            source.at_key(place, codes.UNKNOWN_KEY, text, hint)
