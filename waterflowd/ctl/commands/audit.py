"""`audit`: who did what, and which requests were refused."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import short_fingerprint, style, table, time_text
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json_list


@click.command()
@click.option("--by", help="Only entries of this principal: the name of a token, or uid:N.")
@click.option("--what", help="Only entries of this action: cancel-run, create-token, refused, ...")
@click.option("--since", help="Only entries since this time, such as 2026-01-02T03:04:05Z.")
@limit_option(50)
@json_option
@click.pass_context
def audit(context: click.Context, /, limit: int, as_json: bool, **filters: str | None) -> None:
    """Show the audit trail, newest first: who did what, and which requests were refused."""
    rows = client_of(context).pages("/v1/audit", "audit", limit, **filters)
    if as_json:
        print_json_list(rows)
        return
    table(
        ["TIME", "WHO", "ACTION", "TARGET", "DETAILS"],
        [
            [
                time_text(row["at"]),
                short_fingerprint(row["by"]),
                style(escape_for_display(row["what"]), "red" if row["what"] == "refused" else None),
                escape_for_display(row["target"]),
                style(escape_for_display(_details(row["facts"])), "bright_black"),
            ]
            for row in rows
        ],
        empty="no matching entries" if any(filters.values()) else "no entries yet",
    )


def _details(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={_text(value)}" for name, value in facts.items() if value not in (None, [], 0, ""))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
