"""From the models of `on.schedule` to the schedules of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.source import Source
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger
from waterflowd.model.wording import did_you_mean


def build_schedules(
    source: Source, variables: Sequence[str], schedules: Sequence[models.Schedule]
) -> tuple[ScheduleTrigger, ...]:
    """The schedules of a file that declares these `vars`."""
    known: dict[tuple[str, str], int] = {}
    for number, schedule in enumerate(schedules):
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
    return tuple(_trigger(schedule) for schedule in schedules)


def _trigger(schedule: models.Schedule) -> ScheduleTrigger:
    catch_up = CatchUp(schedule.catch_up)
    # Skipping overlaps would drop all missed runs but the first, which `catch-up: all` asks for.
    usual = Overlap.QUEUE if catch_up is CatchUp.ALL else Overlap.SKIP
    return ScheduleTrigger(
        cron=schedule.cron,
        timezone=schedule.timezone,
        overlap=Overlap(schedule.overlap) if schedule.overlap else usual,
        catch_up=catch_up,
        vars={name: plain(value) for name, value in schedule.vars.items()},
    )


def _check_variables(source: Source, variables: Sequence[str], schedule: models.Schedule, path: Path) -> None:
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
