"""Schedules of Rundeck as cron expressions. Quartz has seconds and years, and counts the days of the week from Sunday = 1."""

from __future__ import annotations

import re

from waterflowd.dsl import cron
from waterflowd.model.plan import Json

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Untranslatable(Exception):
    """A schedule has no counterpart; the text says why."""


def expression_of(schedule: Json) -> tuple[str, list[str]]:
    """Return the cron expression, and what of the schedule it leaves out; raises Untranslatable."""
    if isinstance(schedule, str):
        schedule = {"crontab": schedule}
    if not isinstance(schedule, dict):
        raise Untranslatable("it is not a mapping")
    fields = str(schedule["crontab"]).split() if "crontab" in schedule else _fields(schedule)
    if len(fields) not in (6, 7):
        raise Untranslatable(f"{' '.join(fields)} is not an expression with six or seven fields")
    notes = []
    seconds, minute, hour, day, month, weekday = fields[:6]
    if seconds not in ("0", "00"):
        notes.append(f"seconds ({seconds}) are left out: a schedule begins at a minute")
    if len(fields) == 7 and fields[6] != "*":
        notes.append(f"the year ({fields[6]}) is left out")
    found = " ".join([minute, hour, _any(day), month.lower(), _weekday(_any(weekday))])
    try:
        return cron.check(re.sub(r"\b0(?=[0-9])", "", found)), notes
    except cron.CronError as error:
        raise Untranslatable(str(error)) from None


def _fields(schedule: dict[str, Json]) -> list[str]:
    time = schedule.get("time")
    time = time if isinstance(time, dict) else {}
    day = _part(schedule.get("dayofmonth"), "day")
    weekday = _part(schedule.get("weekday"), "day")
    year = _part(schedule.get("year"), "year")
    hour, minute = str(time.get("hour", "0")), str(time.get("minute", "0"))
    seconds = str(time.get("seconds", "0"))
    return [seconds, minute, hour, day, _part(schedule.get("month"), "month"), weekday, year]


def _part(value: Json, key: str) -> str:
    if isinstance(value, dict):
        value = value.get(key)
    return "*" if value in (None, "") else str(value)


def _any(field: str) -> str:
    return "*" if field == "?" else field


def _weekday(field: str) -> str:
    """Return days of the week by name, where Quartz has numbers."""

    def named(found: re.Match[str]) -> str:
        return _DAYS[(int(found.group()) - 1) % 7]

    head, slash, step = field.partition("/")
    return re.sub(r"\b[1-7]\b(?!#)", named, head.lower()) + slash + step
