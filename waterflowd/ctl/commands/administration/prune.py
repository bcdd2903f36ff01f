"""`prune`: which runs and output retention removes, and removing them now."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import table
from waterflowd.ctl.options import client_of, json_option, print_json


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@json_option
@click.pass_context
def prune(context: click.Context, dry_run: bool, as_json: bool) -> None:
    """Remove now what the rules in [retention] remove; the daemon does so by itself every ten minutes."""
    client = client_of(context)
    state = client.get("/v1/retention") if dry_run else client.post("/v1/retention/prune")
    if as_json:
        print_json([state])
        return
    rows = state["would_remove"]
    if not state["rules"]:
        click.echo("no rule is set, so nothing is removed; set one in [retention] of waterflowd.toml")
        return
    table(
        ["RULE", "WORKFLOW", "RUNS", "EVENTS", "SIZE"],
        [
            [
                row["rule"],
                escape_for_display(f"{row['repository']}:{row['path']}" if row["repository"] else row["path"]),
                f"{row['runs']:,}",
                f"{row['events']:,}",
                _size(row["bytes"]),
            ]
            for row in rows
        ],
        empty="nothing to remove",
    )
    if rows:
        click.echo(_total(rows, is_preview=dry_run))


def _total(rows: list[dict[str, Any]], *, is_preview: bool) -> str:
    count, size = sum(row["runs"] for row in rows), sum(row["bytes"] for row in rows)
    runs = "1 run, or its output" if count == 1 else f"{count:,} runs, or their output"
    if is_preview:
        return f"{runs}: about {_size(size)} would be removed"
    return f"{runs}: about {_size(size)} are being removed; waterflowctl audit --what remove-runs shows it"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
