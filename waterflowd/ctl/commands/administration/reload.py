"""`reload`: reads the daemon's configuration again."""

from __future__ import annotations

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, table
from waterflowd.ctl.options import client_of, json_option, print_json


@click.command()
@json_option
@click.pass_context
def reload(context: click.Context, as_json: bool) -> None:
    """Read the daemon's configuration again, and apply what can be applied without a restart."""
    found = client_of(context).post("/v1/reload")
    if as_json:
        print_json([found])
        return
    changes = found["changes"]
    if not changes:
        click.echo(escape_for_display(f"{found['source']}: nothing has changed"))
        return
    table(
        ["KEY", "CHANGE", "EFFECT"],
        [
            [
                escape_for_display(row["key"]),
                row["change"],
                style("applied", "green") if row["applied"] else style("needs a restart", "yellow"),
            ]
            for row in changes
        ],
        empty="",
    )
    if not all(row["applied"] for row in changes):
        click.echo("restart the daemon for the rest (running steps continue)")
        click.echo("next: systemctl restart waterflowd")
