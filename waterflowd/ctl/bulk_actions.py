"""Actions on several runs: what they would affect is shown first, and somebody agrees.

Rules of this file: at most `RUNS_MAX` runs at a time, the newest ones; how many are left is said. On a terminal the command
asks, elsewhere it needs `--yes`. A run that cannot be acted on, for example because it has ended meanwhile, is reported, and
the others follow; without a daemon the command ends and says how far it came.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client
from waterflowd.ctl.display.terminal import cell_time, glyph, table, wrapped, zone_name
from waterflowd.ctl.failures import REFUSED, USAGE, Failure, Refused
from waterflowd.ctl.options import count, print_json_list

RUNS_MAX = 100
#: Runs and workflows of a preview.
_ROWS_MAX = 10

_Row = dict[str, Any]


class Words(NamedTuple):
    """How an action is named: `cancel`, `cancelling`, and the command for it."""

    verb: str
    doing: str
    command: str


class Selected(NamedTuple):
    """Runs to act on, how many were skipped among them, and how many older ones are left."""

    rows: list[_Row]
    skipped: int
    left: int


def select(client: Client, filters: dict[str, str | None], skipped: Container[str] = ()) -> Selected:
    """Return the newest runs that the filters select, without those to skip."""
    total = client.get("/v1/runs/counts", **filters)["total"]
    rows: list[_Row] = []
    seen = 0
    for row in client.pages("/v1/runs", "runs", **filters):
        seen += 1
        if row["id"] not in skipped:
            rows.append(row)
        if len(rows) == RUNS_MAX:
            break
    return Selected(rows, seen - len(rows), max(0, total - seen))


def approve(selected: Selected, words: Words, *, is_agreed: bool, is_preview: bool, as_json: bool) -> bool:
    """Show what the action would affect and return whether to act. Ends the command where nobody can be asked."""
    if not selected.rows or (is_preview and as_json):
        if as_json:
            print_json_list(selected.rows)
        else:
            click.echo(f"no matching runs: nothing to {words.verb}")
        return False
    if not as_json:
        _preview(selected)
    if is_preview:
        return False
    if is_agreed:
        return True
    number = count(len(selected.rows), "run")
    if not sys.stdin.isatty():
        problem = f"this would {words.verb} {number}, and there is no terminal to ask for confirmation"
        raise Failure(USAGE, problem, f"{words.command} ... --yes")
    if click.confirm(f"{words.verb} {number}?", err=as_json):
        return True
    click.echo("nothing was changed", err=as_json)
    return False


def _preview(selected: Selected) -> None:
    """Print which runs would be affected: the newest ones, and how many of each workflow."""
    rows = selected.rows
    shown = rows[:_ROWS_MAX]
    lines = [
        [
            glyph(row["status"], row["conclusion"]),
            row["id"],
            f"{escape_for_display(row['name'])} #{row['number']}",
            row["conclusion"] or row["status"],
            cell_time(row["created_at"]),
        ]
        for row in shown
    ]
    table(["", "RUN", "NAME", "STATUS", f"CREATED ({zone_name()})"], lines, empty="")
    if len(rows) > len(shown):
        names = Counter(row["name"] for row in rows).most_common()
        parts = [f"{number} of {escape_for_display(name)}" for name, number in names[:_ROWS_MAX]]
        parts += [f"those of {count(len(names) - _ROWS_MAX, 'other workflow')}"] if len(names) > _ROWS_MAX else []
        click.echo(wrapped(f"... and {len(rows) - len(shown)} more; in all {len(rows)}: {', '.join(parts)}", 2))
    if selected.left:
        click.echo(f"{count(selected.left, 'older run')} would be left: at most {RUNS_MAX} at a time")


def apply(selected: Selected, words: Words, act: Callable[[_Row], _Row], *, as_json: bool) -> int:
    """Act on each run, and say what became of it; returns the exit code: 5 if a run was refused, otherwise 0."""
    answers: list[_Row] = []
    refused = 0
    try:
        for row in selected.rows:
            name = f"{escape_for_display(row['name'])} #{row['number']}"
            try:
                answers.append(act(row))
            except Refused as error:
                refused += 1
                click.echo(f"{row['id']} {name}: cannot {words.verb}: {error.message}", err=True)
                continue
            if not as_json:
                made = answers[-1]["id"]
                click.echo(f"{words.doing} {row['id']} {name}" + (f" as {made}" if made != row["id"] else ""))
    finally:
        if as_json:
            print_json_list(answers)
        else:
            number = len(selected.rows)
            rest = number - len(answers) - refused + selected.left
            parts = [f"{words.doing} {len(answers)} of {count(number + selected.left, 'run')}"]
            parts += [f"{refused} refused"] if refused else []
            parts += [f"{rest} left: run the command again"] if rest else []
            click.echo("; ".join(parts))
    return REFUSED if refused else 0
