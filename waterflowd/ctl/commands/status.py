"""`status`: the state of the daemon on one screen. Exits with 0 if it is healthy, else with 1.

Rules of this file: `--watch` fills the terminal, without what was there before, and shows it again at the end. While the daemon
cannot be reached, it shows the state of the last moment when it could, says so, and tries for as long as nobody presses Ctrl-C.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from waterflowd.ctl.client import Client
from waterflowd.ctl.display import status_screen
from waterflowd.ctl.display.connection import Connection
from waterflowd.ctl.display.terminal import has_colors, is_terminal, now_ms
from waterflowd.ctl.failures import USAGE, Failure, Refused, Unreachable
from waterflowd.ctl.options import client_of, json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: Between two requests of `--watch`, and between two drawings: durations advance meanwhile.
_FETCH_S = 2.0
_REDRAW_S = 0.5


@click.command()
@click.option("-w", "--watch", "is_watched", is_flag=True, help="Keep the screen up to date until Ctrl-C.")
@json_option
@click.pass_context
def status(context: click.Context, is_watched: bool, as_json: bool) -> None:
    """Show problems, running and waiting runs, and recent failures on one screen."""
    client = client_of(context)
    if is_watched and not (as_json or is_terminal()):
        raise Failure(USAGE, "--watch needs a terminal, or --json", "waterflowctl status")
    if is_watched:
        try:
            (_print_changes if as_json else _redraw)(client)
        except KeyboardInterrupt:
            # That is how to end it, and no failure.
            return
    found = _fetch(client)
    if as_json:
        print_json([found])
    else:
        for line in status_screen.lines(found, now_ms()):
            click.echo(line)
    context.exit(0 if found["status"] == "healthy" else 1)


def _fetch(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/status")
    return found


def _fetch_again(client: Client, connection: Connection, known: dict[str, Any]) -> dict[str, Any]:
    """Return the state now, or what is known while the daemon cannot be reached or is starting."""
    try:
        found = _fetch(client)
    except Unreachable:
        connection.lost()
        return known
    except Refused as error:
        if error.status != 503:
            raise
        connection.lost()
        return known
    connection.resumed()
    return found


def _print_changes(client: Client) -> None:
    """Print the state as JSON now, and each time that it is another one."""
    found, connection, printed = _fetch(client), Connection(), None
    while True:
        daemon = {name: value for name, value in found["daemon"].items() if name != "now"}
        if printed != (printed := {**found, "daemon": daemon}):
            print_json([found])
        time.sleep(_FETCH_S)
        found = _fetch_again(client, connection, found)


def _redraw(client: Client) -> None:
    """Draw the screen until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console(no_color=not has_colors(), highlight=False)
    # The first request ends the command if there is no daemon.
    found, connection = _fetch(client), Connection()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            fetch_at = time.monotonic() + _FETCH_S
            while time.monotonic() < fetch_at:
                live.update(_picture(found, connection, console), refresh=True)
                time.sleep(_REDRAW_S)
            found = _fetch_again(client, connection, found)


def _picture(found: dict[str, Any], connection: Connection, console: Console) -> Text:
    """Return as much of the screen as the terminal has space for; what must be seen is at its end."""
    from rich.text import Text

    # Commands are longer than a line where they must be: the terminal's copy of them is whole.
    pieces = [
        piece
        for line in status_screen.lines(found, connection.now_ms())
        for piece in Text.from_ansi(line).wrap(console, console.width, overflow="fold")
    ]
    notes = [Text.from_ansi(line) for line in [connection.line("Ctrl-C ends this screen")] if line is not None]
    space = max(1, console.height - len(notes))
    if len(pieces) > space:
        notes.insert(0, Text(f"... {len(pieces) - space + 1} more lines; enlarge the terminal, or waterflowctl status"))
        del pieces[space - 1 :]
    return Text("\n").join([*pieces, *notes])
