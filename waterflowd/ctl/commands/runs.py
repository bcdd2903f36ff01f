"""`runs` and `cancel`: list runs, and cancel one or several."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl import bulk_actions
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.terminal import (
    cell_time,
    glyph,
    now_ms,
    span_text,
    table,
    zone_name,
)
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json, print_json_list
from waterflowd.ctl.references import find_run
from waterflowd.ctl.selection import FAILED, OPEN, selection_options, used

_CANCEL = bulk_actions.Words("cancel", "cancelling", "waterflowctl cancel --all")


@click.command()
@click.option(
    "--status",
    shell_complete=completing("statuses"),
    help="Only runs with this status (queued, ...) or conclusion (failure, ...).",
)
@click.option("--failed", is_flag=True, help="Only runs that failed, timed out or were lost.")
@selection_options
@limit_option(20)
@json_option
@click.pass_context
def runs(context: click.Context, /, failed: bool, limit: int, as_json: bool, **filters: str | None) -> None:
    """List runs, newest first."""
    if failed and filters["status"] is not None:
        raise Failure(USAGE, "--failed and --status are mutually exclusive", "waterflowctl runs --failed")
    if failed:
        filters["status"] = FAILED
    rows = client_of(context).pages("/v1/runs", "runs", limit, **filters)
    if as_json:
        print_json_list(rows)
        return
    is_filtered = any(value is not None for value in filters.values())
    table(
        ["", "RUN", "NAME", "STATUS", "TRIGGER", f"CREATED ({zone_name()})", "DURATION"],
        [_row(run) for run in rows],
        empty="no matching runs" if is_filtered else "no runs yet; start one: waterflowctl run FILE.yml",
        # Names matter more than what has started the runs.
        optional=["TRIGGER"],
    )


def _row(run: dict[str, Any]) -> list[object]:
    by = run["trigger"]["by"]
    return [
        glyph(run["status"], run["conclusion"]),
        run["id"],
        f"{escape_for_display(run['name'])} #{run['number']}",
        run["conclusion"] or run["status"],
        escape_for_display(run["trigger"]["kind"] + (f" ({by})" if by else "")),
        cell_time(run["created_at"]),
        span_text(run["started_at"], run["completed_at"], now_ms()),
    ]


@click.command()
@click.argument("run", required=False, shell_complete=completing("runs"))
@click.option("--force", is_flag=True, help="Do not wait for agents or cleanup steps; kill running steps.")
@click.option(
    "--all", "is_bulk", is_flag=True, help="Cancel all runs that have not ended, or those that options select."
)
@selection_options
@click.option("--yes", is_flag=True, help="With --all, do not ask.")
@click.option("--dry-run", is_flag=True, help="With --all, only show which runs would be cancelled.")
@json_option
@click.pass_context
def cancel(
    context: click.Context,
    /,
    run: str | None,
    force: bool,
    is_bulk: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Cancel a run, or with --all several at once."""
    client = client_of(context)
    if is_bulk:
        if run is not None:
            raise Failure(USAGE, "--all and RUN are mutually exclusive", f"waterflowctl cancel {run}")
        context.exit(_cancel_all(client, filters, force=force, is_agreed=yes, is_preview=dry_run, as_json=as_json))
    if run is None:
        raise Failure(USAGE, "which run? Name it, or use --all", "waterflowctl runs --status running")
    if yes or dry_run or used(filters):
        options = ", ".join([*used(filters), *(["--yes"] if yes else []), *(["--dry-run"] if dry_run else [])])
        raise Failure(USAGE, f"{options} only with --all", f"waterflowctl cancel {run}")
    row = client.post(run_path(find_run(client, run, "cancel")["id"], "/cancel"), {"force": force})
    if as_json:
        print_json([row])
        return
    if row["conclusion"] is not None:
        click.echo(f"{row['id']}: {row['conclusion']}")
        return
    click.echo(f"cancelling {row['id']}")
    click.echo(f"next: waterflowctl watch {row['id']}")


def _cancel_all(
    client: Client, filters: dict[str, str | None], *, force: bool, is_agreed: bool, is_preview: bool, as_json: bool
) -> int:
    selected = bulk_actions.select(client, {**filters, "status": OPEN})
    if not bulk_actions.approve(selected, _CANCEL, is_agreed=is_agreed, is_preview=is_preview, as_json=as_json):
        return 0

    def act(row: dict[str, Any]) -> dict[str, Any]:
        return dict(client.post(run_path(row["id"], "/cancel"), {"force": force}))

    return bulk_actions.apply(selected, _CANCEL, act, as_json=as_json)
