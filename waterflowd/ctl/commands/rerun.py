"""`rerun`: run again, as a whole or from where it failed.

Rules of this file: what is reused and what will run is printed before anything starts. Then it waits as `run` does.
"""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import run_path
from waterflowd.ctl.commands.watch import watch_to_end
from waterflowd.ctl.display.terminal import style
from waterflowd.ctl.failures import USAGE, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, print_json
from waterflowd.ctl.references import find

#: Names on one line of the announcement.
_NAMES_MAX = 12


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.option("--failed", is_flag=True, help="Only what did not succeed, and what depends on it.")
@click.option("--from", "start", metavar="JOB[/STEP]", help="From this job or step on; results before it are reused.")
@click.option("--servers", metavar="KINDS", help="For jobs on each server, only these servers: failed,not-reached.")
@click.option("--after", type=click.IntRange(min=1), metavar="SEQ", help="Reuse what had succeeded after this event.")
@click.option("--at", metavar="COMMIT", help="Use the workflow file of this commit.")
@click.option("--detach", is_flag=True, help="Do not wait for the result.")
@click.option("--dry-run", is_flag=True, help="Only print what would be reused and what would run.")
@click.option("--json", "as_json", is_flag=True, help="Print the new run as JSON, when it starts and when it ends.")
@click.pass_context
def rerun(
    context: click.Context,
    run: str,
    failed: bool,
    start: str | None,
    servers: str | None,
    after: int | None,
    at: str | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Re-run a run: all of it, only what failed, or from a step on. RUN/JOB/STEP is short for --from JOB/STEP."""
    client = client_of(context)
    original, part = find(client, run)
    if part is not None and start is not None:
        raise Failure(USAGE, f"{run} names a part already; leave out --from", f"waterflowctl rerun {run}")
    start = start or part
    kinds = [kind.strip() for kind in (servers or "").split(",") if kind.strip()]
    body: dict[str, Any] = {"failed": failed, "from": start, "servers": kinds, "after": after, "at": at}
    path = run_path(original["id"], "/rerun")
    try:
        if not as_json or dry_run:
            _announce(original, client.post(path, {**body, "dry_run": True}), as_json=as_json)
        if dry_run:
            return
        started = client.start(path, body)
    except Refused as error:
        # The sentence may have a better command.
        if "waterflowctl rerun" not in error.message:
            error.next_step = f"waterflowctl show {original['id']}"
        raise
    if as_json:
        print_json([started])
    else:
        click.echo(f"started {escape_for_display(started['name'])} #{started['number']}: {started['id']}")
    if not detach:
        context.exit(watch_to_end(client, started["id"], as_json=as_json))
    if not as_json:
        click.echo(f"next: waterflowctl watch {started['id']}")


def _announce(run: dict[str, Any], planned: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([planned])
        return
    other = planned["revision"] if planned["revision"] != run["revision"] else None
    at = f" with the workflow at {escape_for_display(other[:10])}" if other else ""
    click.echo(f"re-running {escape_for_display(run['name'])} #{run['number']}{at}")
    for job, server in planned["continued"].items():
        click.echo(
            f"  {style('note', 'yellow')}: {escape_for_display(job)} continues on {escape_for_display(server)}, in the "
            "directory of the earlier run" + (", with that run's files of the repository" if other else "")
        )
    for title, color, names, total in (
        ("reused", "green", planned["reused"], planned["reused_total"]),
        ("will run", "cyan", planned["will_run"], planned["will_run_total"]),
    ):
        listed = ", ".join(names[:_NAMES_MAX]) + (f" and {total - _NAMES_MAX} more" if total > _NAMES_MAX else "")
        click.echo(f"  {style(title, color)}: {escape_for_display(listed) or 'nothing'}")
