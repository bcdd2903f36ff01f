"""`logs` and `events`: the output of a run's steps, and the run's history."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import click

from waterflow_agent.display import escape_for_display, quote
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.folding import OutputFolding
from waterflowd.ctl.display.log_lines import shown
from waterflowd.ctl.display.run_parts import PartReason, failed_steps, reasons
from waterflowd.ctl.display.terminal import (
    is_terminal,
    localized,
    millis,
    style,
    time_text,
    without_colors,
    wrapped,
)
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json
from waterflowd.ctl.references import find, find_run
from waterflowd.ctl.times import EXAMPLES, Time

#: Failed steps whose output is printed by `--failed`.
_FAILED_MAX = 100
#: Colours of prefixes, in turn.
_COLORS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")


def report_lost(text: str) -> None:
    """Say that a stream was interrupted and is being resumed."""
    click.echo(f"{escape_for_display(text)}; reconnecting ...", err=True)


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("part", required=False, metavar="[JOB[/STEP]]")
@click.option("-f", "--follow", is_flag=True, help="Follow the output until the run ends.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was printed.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--failed", is_flag=True, help="Only the output of steps that failed.")
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Only the output of the Nth attempt of each step."
)
@click.option("--since", type=Time(), metavar="TIME", help=f"Only lines since this time: {EXAMPLES}.")
@click.option(
    "--grep", metavar="PATTERN", help="Only lines in which this regular expression matches; (?i) ignores case."
)
@click.option(
    "--fold/--no-fold", default=None, help="Show output that many servers have in common once. [default: on a terminal]"
)
@json_option
@click.pass_context
def logs(
    context: click.Context,
    run: str,
    part: str | None,
    follow: bool,
    timestamps: bool,
    tail: int | None,
    failed: bool,
    attempt: int | None,
    since: str | None,
    grep: str | None,
    fold: bool | None,
    as_json: bool,
) -> None:
    """Print the output of a run's steps.

    Control characters are escaped; colours are kept on a terminal. Groups, errors, warnings and notices that a script has
    marked with workflow commands are shown as such; --json has the lines as they are stored.
    """
    client = client_of(context)
    lines = LineFilter(attempt, since, grep)
    # With times all lines differ, and a reader of a live log needs each line at once.
    is_folded = not (follow or timestamps or as_json) and (is_terminal() if fold is None else fold)
    folding = OutputFolding() if is_folded else None
    found, part = find(client, run, part or None)
    run_id = found["id"]
    for option, is_used in (("--tail", tail is not None), ("--failed", failed)):
        if follow and is_used:
            raise Failure(
                USAGE, f"{option} and --follow are mutually exclusive", f"waterflowctl logs {run_id} {option}"
            )
    rows = lines.rows(_failed_lines(client, found, part) if failed else _lines(client, run_id, part, follow=follow))
    if tail is not None:
        rows = iter(deque(rows, maxlen=tail))
    if not as_json:
        rows = _or_reason(rows, found, part, "no line matches" if lines.is_used or failed else None)
    try:
        if as_json:
            print_json(rows)
        else:
            _print_lines(folding.rows(rows) if folding is not None else rows, part, has_times=timestamps)
            for note in folding.notes() if folding is not None else ():
                click.echo(style(escape_for_display(note), "bright_black"))
    except KeyboardInterrupt:
        click.echo(f"\nthe run continues; come back with: waterflowctl logs -f {run_id}", err=True)
        context.exit(130)


class LineFilter:
    """Selects lines of output. Ends the command for an invalid pattern."""

    def __init__(self, attempt: int | None, since: str | None, pattern: str | None) -> None:
        self._attempt = attempt
        self._since_ms = millis(since)
        self.is_used = any(value is not None for value in (attempt, since, pattern))
        try:
            self._pattern = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            problem = f"--grep: {error} in {quote(pattern or '', 60)}"
            raise Failure(USAGE, problem, "waterflowctl logs RUN --grep '(?i)error'") from None

    def rows(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of the lines that are selected."""
        return filter(self._selects, rows) if self.is_used else rows

    def _selects(self, row: dict[str, Any]) -> bool:
        return (
            (self._attempt is None or row["attempt"] == self._attempt)
            and (self._since_ms is None or (millis(row["at"]) or 0) >= self._since_ms)
            and (self._pattern is None or self._pattern.search(without_colors(row["text"])) is not None)
        )


def _lines(client: Client, run: str, part: str | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    path = run_path(run, "/logs")
    return client.follow(path, report_lost, part=part) if follow else client.lines(path, part=part)


def _failed_lines(client: Client, run: dict[str, Any], part: str | None) -> Iterator[dict[str, Any]]:
    """Yield the output of the steps that failed, of those that the answer about the run has: they come first in it."""
    steps = [f"{job}/{step}" for job, step in failed_steps(run)]
    wanted = [step for step in steps if part is None or step == part or step.startswith((f"{part}/", f"{part}["))]
    for step in wanted[:_FAILED_MAX]:
        yield from client.lines(run_path(run["id"], "/logs"), part=step)
    if len(wanted) > _FAILED_MAX:
        click.echo(f"{len(wanted) - _FAILED_MAX} more steps failed; name a job to see their output", err=True)


def _or_reason(
    rows: Iterator[dict[str, Any]], run: dict[str, Any], part: str | None, if_filtered: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the rows; if there are none, say why: what the run waits for, or that its steps printed nothing."""
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty and if_filtered is not None:
        click.echo(if_filtered, err=True)
    elif is_empty and run["conclusion"] is not None:
        click.echo("no step printed anything", err=True)
    elif is_empty:
        known = [row for row in reasons(run) if part is None or row.part.startswith(part)]
        last = known[-1] if known else PartReason("run", run["status"], run["reason"]["text"])
        why = f"{last.part}: {last.state}: {localized(last.text)}"
        click.echo(f"no output yet; {escape_for_display(why)}", err=True)
        click.echo(f"  next: waterflowctl why {run['id']}", err=True)


def _print_lines(rows: Iterator[dict[str, Any]], requested: str | None, *, has_times: bool) -> None:
    """Print lines, prefixed by their part unless it is the very step that was requested."""
    colors: dict[str, str] = {}
    attempts: dict[tuple[str, str], int] = {}
    for row in rows:
        step = (row["job"], row["step"])
        if attempts.setdefault(step, row["attempt"]) != row["attempt"]:
            attempts[step] = row["attempt"]
            where = escape_for_display("/".join(step))
            click.echo(style(f"{where}: attempt {row['attempt']}", "bright_black"))
        text = shown(row["text"])
        if text is None:
            continue
        prefix = time_text(row["at"]) + " " if has_times else ""
        part = f"{row['job']}/{row['step']}"
        if part != requested:
            part = escape_for_display(part)
            color = colors.setdefault(part, _COLORS[len(colors) % len(_COLORS)])
            prefix += style(f"{part} | ", color)
        click.echo(prefix + text)


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.option("-f", "--follow", is_flag=True, help="Follow the events until the run ends.")
@json_option
@click.pass_context
def events(context: click.Context, run: str, follow: bool, as_json: bool) -> None:
    """Print the event history of a run: every decision, and its reason."""
    client = client_of(context)
    run_id = find_run(client, run, "events")["id"]
    path = run_path(run_id, "/events")
    rows = client.follow(path, report_lost) if follow else client.lines(path)
    try:
        if as_json:
            print_json(rows)
            return
        for row in rows:
            click.echo(wrapped(_event_text(row), 7))
    except KeyboardInterrupt:
        click.echo(f"\nthe run continues; come back with: waterflowctl events -f {run_id}", err=True)
        context.exit(130)


def _event_text(row: dict[str, Any]) -> str:
    part = "/".join(str(row[name]) for name in ("job", "step") if row.get(name) is not None)
    attempt = f" #{row['attempt']}" if row.get("attempt") else ""
    reason = row.get("reason") or {}
    columns = [
        f"{row['seq']:>5}",
        time_text(row["at"]),
        f"{row['type']:<18}",
        part + attempt,
        row.get("conclusion") or row.get("outcome") or "",
        reason.get("text") or "",
    ]
    return "  ".join(escape_for_display(column) for column in columns if column).rstrip()
