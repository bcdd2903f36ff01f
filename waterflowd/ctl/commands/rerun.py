"""`rerun`: run again, as a whole or from where it failed.

Rules of this file: what is kept and what is done again is printed before anything starts. Then it waits as `run` does.
"""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.commands.run import see_through
from waterflowd.ctl.display.terminal import style
from waterflowd.ctl.failures import Refused
from waterflowd.ctl.options import client_of, find_run, print_json

#: Names on one line of the announcement.
_NAMES_MAX = 12


@click.command()
@click.argument("run")
@click.option("--failed", is_flag=True, help="Only what did not succeed, and what comes after it.")
@click.option("--from", "start", metavar="JOB[/STEP]", help="From that job or step on; what comes before it is kept.")
@click.option(
    "--servers", metavar="KINDS", help="Of jobs on each server, those of these kinds only: failed,not-reached."
)
@click.option("--at", metavar="COMMIT", help="With the workflow file of that commit.")
@click.option("--detach", is_flag=True, help="Do not wait.")
@click.option("--dry-run", is_flag=True, help="Say what would be kept and start nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the start's answer, and the run when it has ended, as JSON."
)
@click.pass_context
def rerun(
    context: click.Context,
    /,
    run: str,
    failed: bool,
    start: str | None,
    servers: str | None,
    at: str | None,
    **flags: bool,
) -> None:
    """Run again: all of it, only what failed, or from a step on; says first what is kept."""
    client = client_of(context)
    found = find_run(client, run)
    kinds = [kind.strip() for kind in (servers or "").split(",") if kind.strip()]
    body: dict[str, Any] = {"failed": failed, "from": start, "servers": kinds, "at": at}
    path = run_path(found["id"], "/rerun")
    is_json = flags["as_json"]
    try:
        if not is_json or flags["dry_run"]:
            planned = client.post(path, {**body, "dry_run": True})
            _announce(found, planned, is_json=is_json)
        if flags["dry_run"]:
            return
        started = client.start(path, body)
    except Refused as error:
        error.following = f"waterflowctl show {found['id']}"
        raise
    if is_json:
        print_json([started])
    else:
        click.echo(f"started {escape_for_display(started['name'])} #{started['number']}: {started['id']}")
    if not flags["detach"]:
        context.exit(see_through(client, started["id"], as_json=is_json))
    if not is_json:
        click.echo(f"next: waterflowctl watch {started['id']}")


def _announce(run: dict[str, Any], planned: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        print_json([planned])
        return
    other = planned["revision"] if planned["revision"] != run["revision"] else None
    at = f" with the workflow at {escape_for_display(other[:10])}" if other else ""
    click.echo(f"again: {escape_for_display(run['name'])} #{run['number']}{at}")
    for title, color, names, total in (
        ("kept", "green", planned["reused"], planned["reused_total"]),
        ("done again", "cyan", planned["will_run"], planned["will_run_total"]),
    ):
        shown = ", ".join(names[:_NAMES_MAX]) + (f" and {total - _NAMES_MAX} more" if total > _NAMES_MAX else "")
        click.echo(f"  {style(title, color)}: {escape_for_display(shown) or 'nothing'}")
