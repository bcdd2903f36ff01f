"""`audit`: who did what, and which requests were refused."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import cell_time, fits, localized, short_fingerprint, style, table, zone_name
from waterflowd.ctl.options import client_of, json_option, limit_option, print_json_list
from waterflowd.ctl.times import EXAMPLES, Time


@click.command()
@click.option("--by", help="Only entries of this principal: the name of a token, or uid:N.")
@click.option("--what", help="Only entries of this action: cancel-run, create-token, refused, ...")
@click.option("--since", type=Time(), metavar="TIME", help=f"Only entries since this time: {EXAMPLES}.")
@limit_option(50)
@json_option
@click.pass_context
def audit(context: click.Context, /, limit: int, as_json: bool, **filters: str | None) -> None:
    """Show the audit trail, newest first: who did what, and which requests were refused."""
    rows = list(client_of(context).pages("/v1/audit", "audit", limit, **filters))
    if as_json:
        print_json_list(rows)
        return
    headings = [f"TIME ({zone_name()})", "WHO", "ACTION", "TARGET"]
    lines = [
        [
            cell_time(row["at"]),
            short_fingerprint(row["by"]),
            style(escape_for_display(row["what"]), "red" if row["what"] == "refused" else None),
            escape_for_display(row["target"]),
        ]
        for row in rows
    ]
    details = [_details(row["facts"]) for row in rows]
    empty = "no matching entries" if any(value is not None for value in filters.values()) else "no entries yet"
    wide = [[*line, detail] for line, detail in zip(lines, details, strict=True)]
    if fits([[*headings, "DETAILS"], *wide]):
        table([*headings, "DETAILS"], wide, empty=empty)
    else:
        # On a narrow terminal, the details have a line of their own.
        table(headings, lines, empty=empty, notes=details)


def _details(facts: dict[str, Any]) -> str:
    text = " ".join(f"{name}={_text(value)}" for name, value in facts.items() if value not in (None, [], 0, ""))
    return style(escape_for_display(localized(text)), "bright_black") if text else ""


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
