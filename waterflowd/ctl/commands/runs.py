"""`runs`, `show`, `why`, `cancel`: look at runs and end them."""

from __future__ import annotations

import time
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display import pending_approvals, run_parts, tree
from waterflowd.ctl.display.terminal import glyph, span_text, style, table, time_text
from waterflowd.ctl.options import client_of, find_run, json_option, print_json, print_json_list


def now_ms() -> int:
    """This machine's clock: only for durations of what still runs."""
    return time.time_ns() // 1_000_000


@click.command()
@click.option("--status", help="queued, waiting, running, completed, or a conclusion such as failure.")
@click.option("--name", help="Only runs of this workflow (name or path).")
@click.option("--trigger", help="push, schedule, webhook, workflow_run, parent_run, api, cli, manual or rerun.")
@click.option("--revision", help="Only runs of this commit.")
@click.option("--since", help="Only runs since this time, such as 2026-01-02T03:04:05Z.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@json_option
@click.pass_context
def runs(context: click.Context, /, limit: int, as_json: bool, **filters: str | None) -> None:
    """List runs, newest first."""
    found = client_of(context).pages("/v1/runs", "runs", limit, **filters)
    if as_json:
        print_json_list(found)
        return
    rows = [_row(run) for run in found]
    table(
        ["", "RUN", "NAME", "STATUS", "TRIGGER", "STARTED", "TOOK"],
        rows,
        empty="no runs yet; start one: waterflowctl run FILE.yml",
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
@click.option("--at", type=click.IntRange(min=1), metavar="SEQ", help="As it was after that event.")
@json_option
@click.pass_context
def show(context: click.Context, run: str, at: int | None, as_json: bool) -> None:
    """Show a run with its jobs and steps."""
    client = client_of(context)
    found = find_run(client, run)
    if at is not None:
        found = client.get(run_path(found["id"]), at=at)
    if as_json:
        print_json([found])
        return
    for line in tree.lines(found, now_ms() if at is None else None):
        click.echo(line)
    if at is not None:
        # Nobody can decide in the past.
        found["approvals"] = []
    _print_facts(found)


def _print_facts(run: dict[str, Any]) -> None:
    trigger = run["trigger"]
    by = f" by {trigger['by']}" if trigger["by"] else ""
    ref = f" on {trigger['ref']}" if trigger["ref"] else ""
    click.echo(
        style(
            escape_for_display(f"{trigger['kind']}{by}{ref}, created {time_text(run['created_at'])}, seq {run['seq']}"),
            "bright_black",
        )
    )
    if run.get("rerun_of"):
        kept = run.get("reused")
        text = f"re-run of {run['rerun_of']}"
        text += f", {kept['jobs']} jobs and {kept['steps']} steps kept" if kept else ""
        click.echo(style(escape_for_display(text), "bright_black"))
    of = run.get("parent_run")
    if of:
        click.echo(
            style(escape_for_display(f"started by step {of['job']}/{of['step']} of run {of['run']}"), "bright_black")
        )
    for line in pending_approvals.lines(run):
        click.echo(line)
    if run["conclusion"] not in (None, "success", "skipped"):
        following = (f"{verb} {run['id']}" for verb in ("why", "logs", "rerun --failed"))
        click.echo("next: " + ", ".join(f"waterflowctl {words}" for words in following))


@click.command()
@click.argument("run")
@json_option
@click.pass_context
def why(context: click.Context, run: str, as_json: bool) -> None:
    """Say why a run is not going on, or why it failed."""
    found = find_run(client_of(context), run)
    reasons = list(run_parts.reasons(found))
    if as_json:
        print_json_list({"place": place, "state": state, "text": text} for place, state, text in reasons)
        return
    if not reasons:
        click.echo(f"every job of {found['id']} ended well")
        return
    for place, state, text in reasons:
        click.echo(f"{escape_for_display(place)}: {state}: {escape_for_display(text)}")
    for line in pending_approvals.lines(found):
        click.echo(line)
    if found["conclusion"] not in (None, "success", "skipped"):
        click.echo(f"next: waterflowctl logs {found['id']}")


@click.command()
@click.argument("run")
@click.option("--force", is_flag=True, help="Do not wait for agents; what runs is ended as soon as they are there.")
@json_option
@click.pass_context
def cancel(context: click.Context, run: str, force: bool, as_json: bool) -> None:
    """Ask for a run's end."""
    found = client_of(context).post(run_path(run, "/cancel"), {"force": force})
    if as_json:
        print_json([found])
        return
    click.echo(f"{found['id']}: {found['conclusion'] or 'is being cancelled'}")
    if found["conclusion"] is None:
        click.echo(f"next: waterflowctl watch {found['id']}")
