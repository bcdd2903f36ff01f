"""`audit`: who did what, and who was turned away."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, table, time_text
from waterflowd.ctl.options import client_of, json_option, print_json_list


@click.command()
@click.option("--by", help="Only of this principal: a token's name, or uid:N.")
@click.option("--what", help="Only this: cancel-run, create-token, refused, ...")
@click.option("--since", help="Only since this time, such as 2026-01-02T03:04:05Z.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@json_option
@click.pass_context
def audit(context: click.Context, /, limit: int, as_json: bool, **filters: str | None) -> None:
    """Show who did what to what and when, and who was refused; newest first."""
    rows = client_of(context).pages("/v1/audit", "audit", limit, **filters)
    if as_json:
        print_json_list(rows)
        return
    table(
        ["WHEN", "WHO", "WHAT", "TO WHAT", "FACTS"],
        [
            [
                time_text(row["at"]),
                escape_for_display(row["by"]),
                style(escape_for_display(row["what"]), "red" if row["what"] == "refused" else None),
                escape_for_display(row["target"]),
                style(escape_for_display(_facts(row["facts"])), "bright_black"),
            ]
            for row in rows
        ],
        empty="nothing was done yet",
    )


def _facts(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={_text(value)}" for name, value in facts.items() if value not in (None, [], 0, ""))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
