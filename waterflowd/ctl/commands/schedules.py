"""`schedules` and `cron`: when runs are due, in UTC and in the time zone of the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl import times
from waterflowd.ctl.display.terminal import style, table
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json_list
from waterflowd.dsl import cron as expressions

#: More than a screen; takes less than a minute for any expression.
_NEXT_MAX = 1_000
_OUTCOME_COLORS = {"started": "green", "queued": "yellow", "skipped": "yellow", "missed": "red"}


@click.command()
@click.argument("name", required=False, shell_complete=completing("schedules"))
@click.option(
    "--next", "count", type=click.IntRange(1, 20), default=1, show_default=True, help="Number of times to show."
)
@json_option
@click.pass_context
def schedules(context: click.Context, name: str | None, count: int, as_json: bool) -> None:
    """List schedules of all workflows or of one, with their next times."""
    rows = [_with_zone(row) for row in client_of(context).pages("/v1/schedules", "schedules", name=name, next=count)]
    if as_json:
        print_json_list(rows)
        return
    table(
        ["WORKFLOW", "CRON", "NEXT (UTC)", "NEXT (LOCAL)", "OVERLAP", "CATCH-UP", "LAST"],
        [line for row in rows for line in _lines(row)],
        empty="no schedules yet; add one to a workflow: on: {schedule: [{cron: '0 3 * * *', timezone: Europe/Berlin}]}",
        optional=["CATCH-UP", "OVERLAP", "NEXT (UTC)"],
    )


@click.command()
@click.argument("expression")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Time zone, such as Europe/Berlin.")
@click.option("--from", "start", metavar="TIME", help=f"Start after this time: {times.EXAMPLES}; default: now.")
@click.option(
    "--next", "count", type=click.IntRange(1, _NEXT_MAX), default=5, show_default=True, help="Number of times to show."
)
@json_option
def cron(expression: str, timezone: str, start: str | None, count: int, as_json: bool) -> None:
    """Show the next times of a cron EXPRESSION; needs no daemon. A TIME without an offset is in the time zone."""
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
        empty="no further times before the calendar ends",
    )


def _start(text: str | None, zone: str) -> int:
    """Return the milliseconds of a time that a user typed; raises `CronError` for an invalid time or time zone."""
    where = expressions.zone_of(zone)
    if text is None:
        return int(datetime.now(UTC).timestamp() * 1_000)
    try:
        return int(times.parse(text, times.now_here(where)).timestamp() * 1_000)
    except (ValueError, OverflowError) as error:
        raise expressions.CronError(str(error)) from error


def _lines(row: dict[str, Any]) -> list[Sequence[object]]:
    """Return the rows of a schedule: one for each of its next times."""
    times = [datetime.fromisoformat(text) for text in row["next"]]
    outcome = row["last_outcome"]
    last = style(outcome, _OUTCOME_COLORS.get(outcome)) if outcome else "-"
    if row["last_due_at"]:
        last += f" {_local(datetime.fromisoformat(row['last_due_at']), row['timezone'])}"
    if row["waiting"]:
        last += f", {len(row['waiting'])} waiting"
    cells = [(_utc(time), _local(time, row["timezone"])) for time in times] or [("never", "never")]
    what = escape_for_display(row["path"] if row["repository"] is None else f"{row['repository']}:{row['path']}")
    first = [what, escape_for_display(row["cron"]), *cells[0], row["overlap"], row["catch_up"], last]
    return [first, *(["", "", *pair, "", "", ""] for pair in cells[1:])]


def _with_zone(row: dict[str, Any]) -> dict[str, Any]:
    times = [datetime.fromisoformat(text) for text in row["next"]]
    return {**row, "next_local": [_rfc_in(time, row["timezone"]) for time in times]}


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%a %Y-%m-%d %H:%M")


def _local(time: datetime, zone: str) -> str:
    try:
        return time.astimezone(expressions.zone_of(zone)).strftime("%a %Y-%m-%d %H:%M %Z")
    except expressions.CronError:
        # The daemon knows a time zone that this machine does not.
        return f"{_utc(time)} UTC"


def _rfc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rfc_in(time: datetime, zone: str) -> str:
    try:
        return time.astimezone(expressions.zone_of(zone)).isoformat(timespec="seconds")
    except expressions.CronError:
        return _rfc(time)
