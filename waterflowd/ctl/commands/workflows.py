"""`workflows`: the workflows of the repositories, and their errors."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, table
from waterflowd.ctl.failures import diagnostic_text
from waterflowd.ctl.options import client_of, json_option, print_json_list


@click.command()
@json_option
@click.pass_context
def workflows(context: click.Context, as_json: bool) -> None:
    """List the workflows of the repositories, and their errors."""
    rows = list(client_of(context).pages("/v1/definitions", "definitions"))
    if as_json:
        print_json_list(rows)
        return
    table(
        ["NAME", "STATUS", "PATH", "REPOSITORY", "REVISION", "TRIGGERS", "INPUTS"],
        [_cells(row) for row in rows],
        empty="no workflows yet; push one to a watched repository, or: waterflowctl run FILE.yml",
        optional=["REVISION", "INPUTS"],
    )
    for row in rows:
        for error in row["errors"]:
            click.echo(diagnostic_text(error))


def _cells(row: dict[str, Any]) -> list[str]:
    inputs = ", ".join(spec["name"] for spec in row["inputs"])
    texts = [row["path"], row["repository"], row["revision"][:10], ", ".join(row["triggers"]), inputs]
    status = style(row["status"], "green" if row["status"] == "ready" else "red")
    return [escape_for_display(row["name"]), status, *map(escape_for_display, texts)]
