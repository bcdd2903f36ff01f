"""`runs` and `cancel`: list runs, and cancel one."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display.terminal import fits, glyph, now_ms, short_time_text, span_text, table, time_text
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json, print_json_list

#: The time and a part of the random bits: rarely ambiguous among all runs.
_ID_LENGTH_MIN = 12


@click.command()
@click.option("--status", help="Only runs with this status (queued, ...) or conclusion (failure, ...).")
@click.option("--name", help="Only runs of this workflow (name or path).")
@click.option("--trigger", help="push, schedule, webhook, workflow_run, parent_run, api, cli, manual or rerun.")
@click.option("--revision", help="Only runs of this commit.")
@click.option("--since", help="Only runs since this time, such as 2026-01-02T03:04:05Z.")
@limit_option(20)
@json_option
@click.pass_context
def runs(context: click.Context, /, limit: int, as_json: bool, **filters: str | None) -> None:
    """List runs, newest first."""
    rows = client_of(context).pages("/v1/runs", "runs", limit, **filters)
    if as_json:
        print_json_list(rows)
        return
    headings = ["", "RUN", "NAME", "STATUS", "TRIGGER", "CREATED", "DURATION"]
    found = list(rows)
    lines = [_row(run) for run in found]
    if found and not fits([headings, *lines]):
        length = _distinct_length(found)
        lines = [_short_row(run, length) for run in found]
    table(
        headings,
        lines,
        empty="no matching runs" if any(filters.values()) else "no runs yet; start one: waterflowctl run FILE.yml",
    )


def _row(run: dict[str, Any]) -> list[str]:
    by = run["trigger"]["by"]
    return [
        glyph(run["status"], run["conclusion"]),
        run["id"],
        f"{escape_for_display(run['name'])} #{run['number']}",
        run["conclusion"] or run["status"],
        escape_for_display(run["trigger"]["kind"] + (f" ({by})" if by else "")),
        time_text(run["created_at"]),
        span_text(run["started_at"], run["completed_at"], now_ms()),
    ]


def _short_row(run: dict[str, Any], length: int) -> list[str]:
    """Return a row for a narrow terminal: with the beginning of the id, which commands accept, and a short time."""
    sign, full_id, name, status, trigger, _, duration = _row(run)
    return [sign, full_id[:length], name, status, trigger, short_time_text(run["created_at"]), duration]


def _distinct_length(rows: list[dict[str, Any]]) -> int:
    """Return how much of the ids tells these runs apart."""
    longest = max(len(row["id"]) for row in rows)
    lengths = range(_ID_LENGTH_MIN, longest)
    return next((length for length in lengths if len({row["id"][:length] for row in rows}) == len(rows)), longest)


@click.command()
@click.argument("run")
@click.option("--force", is_flag=True, help="Do not wait for agents or cleanup steps; kill running steps.")
@json_option
@click.pass_context
def cancel(context: click.Context, run: str, force: bool, as_json: bool) -> None:
    """Cancel a run."""
    row = client_of(context).post(run_path(run, "/cancel"), {"force": force})
    if as_json:
        print_json([row])
        return
    if row["conclusion"] is not None:
        click.echo(f"{row['id']}: {row['conclusion']}")
        return
    click.echo(f"cancelling {row['id']}")
    click.echo(f"next: waterflowctl watch {row['id']}")
