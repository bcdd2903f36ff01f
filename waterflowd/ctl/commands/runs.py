"""`runs` and `cancel`: list runs, and cancel one."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display.terminal import glyph, now_ms, span_text, table, time_text
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json, print_json_list


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
    table(
        ["", "RUN", "NAME", "STATUS", "TRIGGER", "CREATED", "DURATION"],
        [_row(run) for run in rows],
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
