"""`watch`: follow a run until it ends.

Rules of this file: on a terminal the tree is redrawn in place, in a pipe each change is a line. A thread reads the run's
events, which say when to fetch the run again; durations advance between them. While the daemon cannot be reached, the tree
shows the state of the last moment when it could, and says so. Ctrl-C does not cancel the run. The exit code is that of the
run: 0 success, 3 cancelled, 1 anything else.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections import deque
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import RECONNECT_S, Client, run_path
from waterflowd.ctl.commands.logs import report_lost
from waterflowd.ctl.commands.report import print_reports
from waterflowd.ctl.display import pending_approvals, run_tree
from waterflowd.ctl.display.connection import Connection
from waterflowd.ctl.display.event_lines import EventLines
from waterflowd.ctl.display.log_lines import shown
from waterflowd.ctl.display.run_parts import failed_step, is_explained_below
from waterflowd.ctl.display.terminal import has_colors, is_terminal, localized
from waterflowd.ctl.failures import CANCELLED, RUN_FAILED, Unreachable
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, print_json
from waterflowd.ctl.references import checked_part, find

_REDRAW_S = 0.25
#: Between two fetches of a run that changes all the time.
_FETCH_S = 0.1
_TAIL_LINES = 10


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON when it ends.")
@click.pass_context
def watch(context: click.Context, run: str, as_json: bool) -> None:
    """Watch a run until it ends; Ctrl-C does not cancel it. With RUN/JOB it still shows the whole run."""
    client = client_of(context)
    found, part = find(client, run)
    if part is not None:
        checked_part(found, part, "watch")
    context.exit(watch_to_end(client, found["id"], as_json=as_json))


def watch_to_end(client: Client, run: str, *, as_json: bool = False) -> int:
    """Show a run until it ends and return the exit code; on Ctrl-C, print how to resume watching."""
    connection = Connection()
    is_drawn = is_terminal() and not as_json
    events = _follow(client, run, connection if is_drawn else None)
    try:
        if as_json:
            while events.get() is not None:
                pass
        elif is_drawn:
            _redraw(client, run, events, connection)
        else:
            _print_events(client, run, events)
    except KeyboardInterrupt:
        click.echo(f"\nthe run continues; come back with: waterflowctl watch {run}", err=True)
        return 130
    completed = _fetch(client, run)
    if as_json:
        print_json([completed])
        return _exit_code(completed)
    print_reports(client, completed)
    if completed["conclusion"] not in ("success", "skipped"):
        if not is_drawn:
            click.echo(_outcome(completed), err=True)
        _print_failure(client, completed)
    return _exit_code(completed)


def _fetch(client: Client, run: str) -> dict[str, Any]:
    """Return the run; waits for a daemon that is being restarted."""
    give_up_at = time.monotonic() + RECONNECT_S
    while True:
        try:
            found: dict[str, Any] = client.get(run_path(run))
        except Unreachable:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_REDRAW_S)
        else:
            return found


def _exit_code(run: dict[str, Any]) -> int:
    if run["conclusion"] in ("success", "skipped"):
        return 0
    return CANCELLED if run["conclusion"] == "cancelled" else RUN_FAILED


class _EventQueue(queue.Queue[Any]):
    """Events of the run; None at the end, an exception if the stream failed."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next event; raises the exception that ended the stream."""
        item = super().get(block, timeout)
        if isinstance(item, BaseException):
            raise item
        return item


def _follow(client: Client, run: str, connection: Connection | None = None) -> _EventQueue:
    """Read the events in a thread. Interruptions are reported to `connection`, or in a line if there is none."""
    events = _EventQueue()
    path = run_path(run, "/events")

    def read() -> None:
        try:
            for event in (
                client.follow(path, report_lost)
                if connection is None
                else client.follow(path, connection.lost, connection.resumed)
            ):
                events.put(event)
            events.put(None)
        except click.ClickException as failure:
            events.put(failure)
        except RuntimeError:
            # The command is ending and has closed the client that this thread uses.
            events.put(None)

    threading.Thread(target=read, name="events", daemon=True).start()
    return events


def _redraw(client: Client, run: str, events: _EventQueue, connection: Connection) -> None:
    """Redraw the tree in place until the run ends."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not has_colors(), highlight=False)
    found = _fetch(client, run)

    def tree(*, is_short: bool) -> list[str]:
        return list(run_tree.lines(found, connection.now_ms(), is_short=is_short, columns=console.width))

    def picture(*, may_be_short: bool) -> Group:
        lines = tree(is_short=False)
        if may_be_short and len(lines) > console.height - 3:
            lines = tree(is_short=True)
        # Only the tree is cut at the edge, where a word is too long: commands that are there to be copied are not.
        below = [*pending_approvals.lines(found), connection.line("the run itself continues")]
        return Group(
            Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"),
            *(Text.from_ansi(line, overflow="fold") for line in below if line is not None),
        )

    with Live(picture(may_be_short=True), console=console, auto_refresh=False, transient=False) as live:
        has_ended = False
        while not has_ended:
            try:
                has_ended = events.get(timeout=_REDRAW_S) is None
                while not has_ended and not events.empty():
                    has_ended = events.get() is None
                found = client.get(run_path(run))
            except queue.Empty:
                pass
            except Unreachable as error:
                connection.lost(error.message)
                if has_ended:
                    live.update(picture(may_be_short=True), refresh=True)
                    found = _fetch(client, run)
                    connection.resumed()
            live.update(picture(may_be_short=not has_ended), refresh=True)
            if not has_ended:
                # A run with thousands of parts has as many events a second, and is a large response.
                time.sleep(_FETCH_S)


def _print_events(client: Client, run: str, events: _EventQueue) -> None:
    """Print each change as a line until the run ends."""
    lines = EventLines(_fetch(client, run))
    while (event := events.get()) is not None:
        text = lines.text(event)
        if text is not None:
            click.echo(text)


def _outcome(run: dict[str, Any]) -> str:
    """Say how the run ended; why, only if no line for one of its parts has said it."""
    text = f"{run['name']}: {run['conclusion']}"
    if not is_explained_below(run, run["jobs"]):
        text += f": {localized(run['reason']['text'])}"
    return escape_for_display(text)


def _print_failure(client: Client, run: dict[str, Any]) -> None:
    """Print the last output of the first step that failed, and the next command to type."""
    failed = failed_step(run)
    if failed is None:
        click.echo(f"  next: waterflowctl why {run['id']}", err=True)
        return
    job, step = failed
    part = escape_for_display(f"{job}/{step}")
    for row in deque(client.lines(run_path(run["id"], "/logs"), job=job, step=step), maxlen=_TAIL_LINES):
        if (line := shown(row["text"], is_colored=False)) is not None:
            click.echo(f"  {part} | {line}", err=True)
    click.echo(f"  next: waterflowctl logs {run['id']} {shlex.quote(part)}", err=True)
