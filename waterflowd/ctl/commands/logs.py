"""`logs` and `events`: what a run's steps printed, and what happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.folding import Folding
from waterflowd.ctl.display.terminal import clean_line, has_colors, is_terminal, style, time_text
from waterflowd.ctl.options import client_of, find_run, json_option, print_json

#: Colours of prefixes, in turn.
_COLORS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")


def report_lost(text: str) -> None:
    """Say that a stream was interrupted and is being resumed."""
    click.echo(f"{escape_for_display(text)}; reconnecting ...", err=True)


@click.command()
@click.argument("run")
@click.argument("place", required=False, metavar="[JOB[/STEP]]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was printed.")
@click.option(
    "--fold/--no-fold", default=None, help="Show what many servers have printed once. [default: on a terminal]"
)
@json_option
@click.pass_context
def logs(
    context: click.Context,
    run: str,
    place: str | None,
    follow: bool,
    timestamps: bool,
    fold: bool | None,
    as_json: bool,
) -> None:
    """Print what a run's steps printed.

    Control characters are shown escaped; colours stay on a terminal.
    """
    client = client_of(context)
    # Times differ, and who follows wants each line as it comes.
    is_folded = not (follow or timestamps or as_json) and (is_terminal() if fold is None else fold)
    folding = Folding() if is_folded else None
    identity = find_run(client, run)["id"]
    found = _lines(client, identity, place or None, follow=follow)
    try:
        if as_json:
            print_json(found)
        else:
            _print_lines(folding.rows(found) if folding is not None else found, place, has_times=timestamps)
            for note in folding.notes() if folding is not None else ():
                click.echo(style(escape_for_display(note), "bright_black"))
    except KeyboardInterrupt:
        click.echo(f"\nthe run goes on; come back with: waterflowctl logs -f {identity}", err=True)
        context.exit(130)


def _lines(client: Client, run: str, place: str | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    path = run_path(run, "/logs")
    if follow:
        return client.follow(path, report_lost, part=place)
    return client.lines(path, part=place)


def _print_lines(rows: Iterator[dict[str, Any]], wanted: str | None, *, has_times: bool) -> None:
    """Lines with the place that printed them; without it where that is the very step that was asked for."""
    colors: dict[str, str] = {}
    is_colored = has_colors()
    for row in rows:
        text = clean_line(row["text"], has_colors=is_colored)
        prefix = time_text(row["at"]) + " " if has_times else ""
        place = f"{row['job']}/{row['step']}"
        if place != wanted:
            place = escape_for_display(place)
            color = colors.setdefault(place, _COLORS[len(colors) % len(_COLORS)])
            prefix += style(f"{place} | ", color)
        click.echo(prefix + text)


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@json_option
@click.pass_context
def events(context: click.Context, run: str, follow: bool, as_json: bool) -> None:
    """Print a run's event history: everything that was decided, and why."""
    client = client_of(context)
    identity = find_run(client, run)["id"]
    path = run_path(identity, "/events")
    found: Iterator[dict[str, Any]]
    if follow:
        found = client.follow(path, report_lost)
    else:
        found = client.lines(path)
    try:
        if as_json:
            print_json(found)
            return
        for row in found:
            click.echo(event_text(row))
    except KeyboardInterrupt:
        click.echo(f"\nthe run goes on; come back with: waterflowctl events -f {identity}", err=True)
        context.exit(130)


def event_text(row: dict[str, Any]) -> str:
    """One event on one line."""
    place = "/".join(str(row[name]) for name in ("job", "step") if row.get(name) is not None)
    attempt = f" #{row['attempt']}" if row.get("attempt") else ""
    ended = row.get("conclusion") or row.get("outcome") or ""
    why = row.get("reason") or {}
    parts = [
        f"{row['seq']:>5}",
        time_text(row["at"]),
        f"{row['type']:<18}",
        place + attempt,
        ended,
        why.get("text") or "",
    ]
    return "  ".join(escape_for_display(part) for part in parts if part).rstrip()
