"""`run` and `watch`: start a run and see it through.

Rules of this file: on a terminal the tree is redrawn in place, in a pipe each change is a line. The events of the run say when
to look again; a thread reads them, so that durations go on between them. Ctrl-C leaves the run going. The exit code is the
run's: 0 success, 3 cancelled, 1 anything else.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import RECONNECT_S, Client, run_path
from waterflowd.ctl.commands.logs import report_lost
from waterflowd.ctl.commands.runs import now_ms
from waterflowd.ctl.display import pending_approvals, tree
from waterflowd.ctl.display.event_lines import ChangeLines
from waterflowd.ctl.display.run_parts import failed_step
from waterflowd.ctl.display.terminal import clean_line, has_colors, is_terminal
from waterflowd.ctl.failures import CANCELLED, REFUSED, RUN_FAILED, USAGE, Failure, Refused, Unreachable
from waterflowd.ctl.options import client_of, find_run, pairs, print_json

_REDRAW_S = 0.25
#: Between two looks at a run that changes all the time.
_LOOK_S = 0.1
_TAIL_LINES = 10
_SUFFIXES = (".yml", ".yaml")


@click.command()
@click.argument("workflow", metavar="NAME-or-FILE")
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input; may be repeated.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Over the file's own `vars`.")
@click.option("--repository", help="Where two repositories hold the same name.")
@click.option("--detach", is_flag=True, help="Do not wait.")
@click.option("--dry-run", is_flag=True, help="Check everything and start nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the start's answer, and the run when it has ended, as JSON."
)
@click.pass_context
def run(
    context: click.Context,
    /,
    workflow: str,
    inputs: tuple[str, ...],
    variables: tuple[str, ...],
    repository: str | None,
    **flags: bool,
) -> None:
    """Start a workflow by name, or a file, and wait for its result."""
    client = client_of(context)
    is_dry, is_json, is_detached = flags["dry_run"], flags["as_json"], flags["detach"]
    given: dict[str, Any] = {"inputs": pairs(inputs, "-i"), "vars": pairs(variables, "--var"), "dry_run": is_dry}
    started = _start(client, workflow, given, repository)
    if is_json:
        print_json([started])
    elif is_dry:
        click.echo(
            f"{escape_for_display(workflow)} is valid; start it: waterflowctl run {escape_for_display(workflow)}"
        )
    elif is_detached or not is_terminal():
        click.echo(f"started {escape_for_display(started['name'])} #{started['number']}: {started['id']}")
    if is_detached and not (is_json or is_dry):
        click.echo(f"next: waterflowctl watch {started['id']}")
    if not (is_dry or is_detached):
        context.exit(see_through(client, started["id"], as_json=is_json))


def _start(client: Client, workflow: str, given: dict[str, Any], repository: str | None) -> Any:
    path = Path(workflow)
    if path.is_file():
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(USAGE, f"{workflow} cannot be read: {error}", f"waterflowctl validate {workflow}") from None
        return client.start("/v1/runs", {"yaml": text, "path": _sent_path(path), **given})
    try:
        return client.start(f"/v1/definitions/{quote(workflow, safe='')}/run", given, repository=repository)
    except Refused as error:
        if error.status == 404 and workflow.endswith(_SUFFIXES):
            text = f"there is no file {workflow} here, and no repository holds a workflow of that name"
            raise Failure(REFUSED, text, "waterflowctl workflows") from None
        raise


def _sent_path(path: Path) -> str:
    """The name under which a local file is known: as typed when that stays inside the directory, else its last part."""
    text = path.as_posix()
    return path.name if path.is_absolute() or ".." in path.parts or len(text) > 255 else text


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON when it has ended.")
@click.pass_context
def watch(context: click.Context, run: str, as_json: bool) -> None:
    """Watch a run until it ends; Ctrl-C leaves it going."""
    client = client_of(context)
    context.exit(see_through(client, find_run(client, run)["id"], as_json=as_json))


def see_through(client: Client, run: str, *, as_json: bool = False) -> int:
    """Shows a run until it ends and gives the exit code; Ctrl-C says how to come back."""
    changes = _follow(client, run)
    try:
        if as_json:
            while changes.get() is not None:
                pass
        elif is_terminal():
            _redraw(client, run, changes)
        else:
            _print_changes(client, run, changes)
    except KeyboardInterrupt:
        click.echo(f"\nthe run goes on; come back with: waterflowctl watch {run}", err=True)
        return 130
    ended = _look(client, run)
    if as_json:
        print_json([ended])
    elif ended["conclusion"] not in ("success", "skipped"):
        _say_failure(client, ended)
    return exit_code(ended)


def _look(client: Client, run: str) -> dict[str, Any]:
    """The run as it is; waits for a daemon that is being started again."""
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


def exit_code(run: dict[str, Any]) -> int:
    """The exit code of a run that has ended."""
    if run["conclusion"] in ("success", "skipped"):
        return 0
    return CANCELLED if run["conclusion"] == "cancelled" else RUN_FAILED


class _Changes(queue.Queue[Any]):
    """Events of the run; None at the end, an exception when the stream cannot go on."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next event; raises what ended the stream."""
        item = super().get(block, timeout)
        if isinstance(item, BaseException):
            raise item
        return item


def _follow(client: Client, run: str) -> _Changes:
    changes = _Changes()

    def read() -> None:
        try:
            for event in client.follow(run_path(run, "/events"), report_lost):
                changes.put(event)
            changes.put(None)
        except click.ClickException as failure:
            changes.put(failure)
        except RuntimeError:
            # The command ends and has closed its client under this thread; nobody waits for it any more.
            changes.put(None)

    threading.Thread(target=read, name="events", daemon=True).start()
    return changes


def _redraw(client: Client, run: str, changes: _Changes) -> None:
    """Redraws the tree in place until the run ends."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not has_colors(), highlight=False)
    found = _look(client, run)

    def picture(*, is_short: bool) -> Text:
        drawn = [*tree.lines(found, now_ms(), is_short=is_short), *pending_approvals.lines(found)]
        return Text.from_ansi("\n".join(drawn), no_wrap=True, overflow="ellipsis")

    with Live(picture(is_short=False), console=console, auto_refresh=False, transient=False) as live:
        is_over = False
        while not is_over:
            try:
                is_over = changes.get(timeout=_REDRAW_S) is None
                while not is_over and not changes.empty():
                    is_over = changes.get() is None
                found = _look(client, run)
            except queue.Empty:
                pass
            is_tall = not is_over and sum(1 for _ in tree.lines(found)) > console.height - 3
            live.update(picture(is_short=is_tall), refresh=True)
            if not is_over:
                # A run with thousands of parts has as many events a second, and is a large answer.
                time.sleep(_LOOK_S)


def _print_changes(client: Client, run: str, changes: _Changes) -> None:
    """Prints each change as a line until the run ends."""
    lines = ChangeLines(_look(client, run))
    while (event := changes.get()) is not None:
        text = lines.text(event)
        if text is not None:
            click.echo(text)


def _say_failure(client: Client, run: dict[str, Any]) -> None:
    """The last lines of the first step that failed, and what to type next."""
    failed = failed_step(run)
    click.echo(
        f"{escape_for_display(run['name'])}: {run['conclusion']}: {escape_for_display(run['reason']['text'])}", err=True
    )
    if failed is not None:
        job, step = failed
        tail = deque(client.lines(run_path(run["id"], "/logs"), job=job, step=step), maxlen=_TAIL_LINES)
        for row in tail:
            click.echo(
                f"  {escape_for_display(job)}/{escape_for_display(step)} | {clean_line(row['text'], has_colors=False)}",
                err=True,
            )
        place = shlex.quote(escape_for_display(f"{job}/{step}"))
        click.echo(f"  next: waterflowctl logs {run['id']} {place}", err=True)
    else:
        click.echo(f"  next: waterflowctl why {run['id']}", err=True)
