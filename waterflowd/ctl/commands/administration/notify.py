"""`notify`: where notices about failures go, and whether that works."""

from __future__ import annotations

import sys
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import cell_time, style, table, wrapped, zone_name
from waterflowd.ctl.options import client_of, json_option, print_json


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def notify(context: click.Context, as_json: bool) -> None:
    """List the channels for notices, what waits for them, and their problems."""
    if context.invoked_subcommand is not None:
        return
    found = client_of(context).get("/v1/notify")
    if as_json:
        print_json([found])
        return
    table(
        ["CHANNEL", "SENDS", "ON", "WAITING", f"LAST SENT ({zone_name()})"],
        [_cells(row) for row in found["channels"]],
        empty="no channels yet; add [[notify]] to waterflowd.toml",
    )
    for row in found["channels"]:
        if row["failure"]:
            click.echo(style(wrapped(escape_for_display(f"{row['name']}: {row['failure']}"), 2), "red"))
    for problem in found["problems"]:
        click.echo(style(wrapped(escape_for_display(f"{problem['repository']}: {problem['text']}"), 2), "red"))


def _cells(row: dict[str, Any]) -> list[object]:
    return [
        escape_for_display(row["name"]),
        escape_for_display(row["way"]),
        ", ".join(row["kinds"]),
        str(row["waiting"]),
        cell_time(row["sent_at"]),
    ]


@notify.command("test")
@click.argument("channel", required=False)
@json_option
@click.pass_context
def test(context: click.Context, channel: str | None, as_json: bool) -> None:
    """Send a test notice to one channel, or to all. The exit code is 1 if one of them fails."""
    found = client_of(context).post("/v1/notify/test", {"channel": channel} if channel is not None else {})
    if as_json:
        print_json([found])
    else:
        for row in found["tests"]:
            result = style("sent", "green") if not row["failure"] else style(row["failure"], "red")
            click.echo(f"{escape_for_display(row['channel'])}: {result}")
    if any(row["failure"] for row in found["tests"]):
        sys.exit(1)
