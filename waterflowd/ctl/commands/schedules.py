"""`schedules` and `cron`: when something comes next, in UTC and in its own zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, table
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.options import client_of, json_option, print_json_list
from waterflowd.dsl import cron as expressions

#: More than a screen, less than a minute of work for any expression.
_NEXT_MAX = 1_000
_OUTCOME_COLORS = {"started": "green", "queued": "yellow", "skipped": "yellow", "missed": "red"}


@click.command()
@click.argument("name", required=False)
@click.option("--next", "count", type=click.IntRange(1, 20), default=1, show_default=True, help="Instants to show.")
@json_option
@click.pass_context
def schedules(context: click.Context, name: str | None, count: int, as_json: bool) -> None:
    """List the schedules of the workflows, or of one of them, with their next instants."""
    rows = [_with_zone(row) for row in client_of(context).pages("/v1/schedules", "schedules", name=name, next=count)]
    if as_json:
        print_json_list(rows)
        return
    table(
        ["WORKFLOW", "CRON", "NEXT (UTC)", "NEXT (IN ITS ZONE)", "OVERLAP", "CATCH-UP", "LAST"],
        [line for row in rows for line in _lines(row)],
        empty="no schedules yet; a workflow gets one with: on: {schedule: [{cron: '0 3 * * *', timezone: Europe/Berlin}]}",
    )


@click.command()
@click.argument("expression")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Such as Europe/Berlin.")
@click.option("--from", "start", metavar="TIME", help="After this time, such as 2026-03-28T12:00; default: now.")
@click.option("--next", "count", type=click.IntRange(1, _NEXT_MAX), default=5, show_default=True, help="How many.")
@json_option
def cron(expression: str, timezone: str, start: str | None, count: int, as_json: bool) -> None:
    """Show when a cron EXPRESSION comes next; needs no daemon. TIME without an offset is in the zone."""
    try:
        instants = expressions.upcoming(expression, timezone, _start(start, timezone), count)
    except expressions.CronError as error:
        raise Failure(USAGE, str(error), "waterflowctl cron '0 3 * * *' --timezone Europe/Berlin") from error
    times = [datetime.fromtimestamp(instant / 1_000, UTC) for instant in instants]
    if as_json:
        print_json_list({"utc": _rfc(time), "local": _rfc_in(time, timezone)} for time in times)
        return
    table(
        ["UTC", timezone],
        [[_utc(time), _local(time, timezone)] for time in times],
        empty="never again: the calendar ends before",
    )


def _start(text: str | None, zone: str) -> int:
    """Milliseconds of a time that a person wrote; raises `CronError` for another text, or another zone."""
    where = expressions.zone_of(zone)
    if text is None:
        return int(datetime.now(UTC).timestamp() * 1_000)
    try:
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo is not None else time.replace(tzinfo=where)).timestamp() * 1_000)
    except (ValueError, OverflowError) as error:
        raise expressions.CronError(f'"{text[:60]}" is not a time such as 2026-03-28T12:00 or 2026-03-28') from error


def _lines(row: dict[str, Any]) -> list[Sequence[object]]:
    """A schedule with its first instant, and a line for each further one."""
    times = [datetime.fromisoformat(text) for text in row["next"]]
    outcome = row["last_outcome"]
    last = style(outcome, _OUTCOME_COLORS.get(outcome)) if outcome else "-"
    if row["last_instant"]:
        last += f" {_local(datetime.fromisoformat(row['last_instant']), row['timezone'])}"
    if row["waiting"]:
        last += f", {len(row['waiting'])} waiting"
    shown = [(_utc(time), _local(time, row["timezone"])) for time in times] or [("never", "never")]
    what = escape_for_display(row["path"] if row["repository"] is None else f"{row['repository']}:{row['path']}")
    first = [what, escape_for_display(row["cron"]), *shown[0], row["overlap"], row["catch_up"], last]
    return [first, *(["", "", *pair, "", "", ""] for pair in shown[1:])]


def _with_zone(row: dict[str, Any]) -> dict[str, Any]:
    times = [datetime.fromisoformat(text) for text in row["next"]]
    return {**row, "next_local": [_rfc_in(time, row["timezone"]) for time in times]}


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%a %Y-%m-%d %H:%M")


def _local(time: datetime, zone: str) -> str:
    try:
        return time.astimezone(expressions.zone_of(zone)).strftime("%a %Y-%m-%d %H:%M %Z")
    except expressions.CronError:
        # The daemon knows a zone that this machine does not.
        return f"{_utc(time)} UTC"


def _rfc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rfc_in(time: datetime, zone: str) -> str:
    try:
        return time.astimezone(expressions.zone_of(zone)).isoformat(timespec="seconds")
    except expressions.CronError:
        return _rfc(time)
