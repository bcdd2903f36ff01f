"""`runs` and `cancel`: list runs, and cancel one."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display.terminal import (
    cell_time_text,
    fits,
    glyph,
    now_ms,
    short_time_text,
    span_text,
    table,
    zone_name,
)
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json, print_json_list
from waterflowd.ctl.references import find_run
from waterflowd.ctl.times import EXAMPLES, Time


@click.command()
@click.option(
    "--status",
    shell_complete=completing("statuses"),
    help="Only runs with this status (queued, ...) or conclusion (failure, ...).",
)
@click.option("--failed", is_flag=True, help="Only runs that failed, timed out or were lost.")
@click.option("--name", shell_complete=completing("workflows"), help="Only runs of this workflow (name or path).")
@click.option("--trigger", help="push, schedule, webhook, workflow_run, parent_run, api, cli, manual or rerun.")
@click.option("--revision", help="Only runs of this commit.")
@click.option("--group", help="Only runs that used this group of servers.")
@click.option("--agent", "server", shell_complete=completing("agents"), help="Only runs with a step on this server.")
@click.option("--since", type=Time(), metavar="TIME", help=f"Only runs since this time: {EXAMPLES}.")
@click.option("--until", type=Time(), metavar="TIME", help="Only runs before this time.")
@limit_option(20)
@json_option
@click.pass_context
def runs(context: click.Context, /, failed: bool, limit: int, as_json: bool, **filters: str | None) -> None:
    """List runs, newest first."""
    if failed and filters["status"] is not None:
        raise Failure(USAGE, "--failed and --status are mutually exclusive", "waterflowctl runs --failed")
    if failed:
        filters["status"] = "failure,timed-out,lost"
    rows = client_of(context).pages("/v1/runs", "runs", limit, **filters)
    if as_json:
        print_json_list(rows)
        return
    headings = ["", "RUN", "NAME", "STATUS", "TRIGGER", f"CREATED ({zone_name()})", "DURATION"]
    found = list(rows)
    lines = [_row(run) for run in found]
    if found and not fits([headings, *lines]):
        headings = ["", "RUN", "NAME", "STATUS", "TRIGGER", zone_name(), "DURATION"]
        lines = [_short_row(run) for run in found]
    empty = "no runs yet; start one: waterflowctl run FILE.yml"
    table(headings, lines, empty="no matching runs" if any(value is not None for value in filters.values()) else empty)


def _row(run: dict[str, Any]) -> list[str]:
    by = run["trigger"]["by"]
    return [
        glyph(run["status"], run["conclusion"]),
        run["id"],
        f"{escape_for_display(run['name'])} #{run['number']}",
        run["conclusion"] or run["status"],
        escape_for_display(run["trigger"]["kind"] + (f" ({by})" if by else "")),
        cell_time_text(run["created_at"]),
        span_text(run["started_at"], run["completed_at"], now_ms()),
    ]


def _short_row(run: dict[str, Any]) -> list[str]:
    """Return a row for a narrow terminal: without the person behind the trigger, and with a short time."""
    sign, full_id, name, status, _, _, duration = _row(run)
    trigger = escape_for_display(run["trigger"]["kind"])
    return [sign, full_id, name, status, trigger, short_time_text(run["created_at"]), duration]


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.option("--force", is_flag=True, help="Do not wait for agents or cleanup steps; kill running steps.")
@json_option
@click.pass_context
def cancel(context: click.Context, run: str, force: bool, as_json: bool) -> None:
    """Cancel a run."""
    client = client_of(context)
    row = client.post(run_path(find_run(client, run, "cancel")["id"], "/cancel"), {"force": force})
    if as_json:
        print_json([row])
        return
    if row["conclusion"] is not None:
        click.echo(f"{row['id']}: {row['conclusion']}")
        return
    click.echo(f"cancelling {row['id']}")
    click.echo(f"next: waterflowctl watch {row['id']}")
