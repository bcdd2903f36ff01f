"""`repositories`: the watched repositories, what of them is applied, and their problems."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import cell_time_text, localized, style, table, zone_name
from waterflowd.ctl.options import client_of, json_option, print_json_list


@click.command()
@json_option
@click.pass_context
def repositories(context: click.Context, as_json: bool) -> None:
    """List the watched repositories."""
    rows = list(client_of(context).pages("/v1/repositories", "repositories"))
    if as_json:
        print_json_list(rows)
        return
    table(
        ["NAME", "STATUS", "REFS", "APPLIED", f"FETCHED ({zone_name()})", "URL"],
        [_cells(row) for row in rows],
        empty="no repositories yet; add [[repositories]] to waterflowd.toml",
    )
    for row in rows:
        if row["status"] != "ready":
            click.echo(escape_for_display(f"{row['name']}: {localized(row['text'])}"))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        escape_for_display(row["name"]),
        style(row["status"], "green" if row["status"] == "ready" else "red"),
        escape_for_display(", ".join(row["refs"])),
        (row["revision_applied"] or "")[:10],
        cell_time_text(row["fetched_at"]),
        escape_for_display(row["url"]),
    ]
