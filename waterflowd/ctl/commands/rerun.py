"""`rerun`: run again, as a whole or from where it failed, one run or several.

Rules of this file: what is reused and what will run is printed before anything starts. Then it waits as `run` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl import bulk_actions
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.commands.watch import watch_to_end
from waterflowd.ctl.display.terminal import style
from waterflowd.ctl.failures import USAGE, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, print_json
from waterflowd.ctl.references import find
from waterflowd.ctl.selection import FAILED, selection_options, used

#: Names on one line of the announcement.
_NAMES_MAX = 12
#: Re-runs that are looked at for runs that have been re-run already, newest first.
_RERUNS_MAX = 2_000
_RERUN = bulk_actions.Words("re-run", "re-running", "waterflowctl rerun --all")


@click.command()
@click.argument("run", required=False, shell_complete=completing("runs"))
@click.option(
    "--failed", is_flag=True, help="Only what did not succeed, and what depends on it; with --all, only failed runs."
)
@click.option("--from", "start", metavar="JOB[/STEP]", help="From this job or step on; results before it are reused.")
@click.option("--servers", metavar="KINDS", help="For jobs on each server, only these servers: failed,not-reached.")
@click.option("--after", type=click.IntRange(min=1), metavar="SEQ", help="Reuse what had succeeded after this event.")
@click.option("--at", metavar="COMMIT", help="Use the workflow file of this commit.")
@click.option("--detach", is_flag=True, help="Do not wait for the result.")
@click.option("--dry-run", is_flag=True, help="Only print what would be reused and what would run.")
@click.option(
    "--all", "is_bulk", is_flag=True, help="Re-run the runs that the following options select, without waiting."
)
@selection_options
@click.option("--yes", is_flag=True, help="With --all, do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the new run as JSON, when it starts and when it ends.")
@click.pass_context
def rerun(
    context: click.Context,
    /,
    run: str | None,
    failed: bool,
    start: str | None,
    servers: str | None,
    after: int | None,
    at: str | None,
    detach: bool,
    dry_run: bool,
    is_bulk: bool,
    yes: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Re-run a run: all of it, only what failed, or from a step on. RUN/JOB/STEP is short for --from JOB/STEP.

    With --all, re-run several runs that have ended; without those that have been re-run already.
    """
    client = client_of(context)
    if is_bulk:
        if run is not None or start or servers or after or at:
            problem = "--all takes no RUN, --from, --servers, --after or --at"
            raise Failure(USAGE, problem, "waterflowctl rerun --all --failed --since 2h")
        choice = _Choice(filters, is_failed=failed)
        context.exit(_rerun_all(client, choice, is_agreed=yes, is_preview=dry_run, as_json=as_json))
    if run is None:
        raise Failure(USAGE, "which run? Name it, or use --all", "waterflowctl runs --failed")
    if yes or used(filters):
        options = ", ".join([*used(filters), *(["--yes"] if yes else [])])
        raise Failure(USAGE, f"{options} only with --all", f"waterflowctl rerun {run}")
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


class _Choice(NamedTuple):
    """Which runs are re-run, and whether only what failed in each."""

    filters: dict[str, str | None]
    is_failed: bool


def _rerun_all(client: Client, choice: _Choice, *, is_agreed: bool, is_preview: bool, as_json: bool) -> int:
    if not choice.is_failed and not used(choice.filters):
        problem = "this would re-run every run; select some, for example with --failed, --name or --since"
        raise Failure(USAGE, problem, "waterflowctl rerun --all --failed --since 2h")
    status = FAILED if choice.is_failed else "completed"
    already = _already(client, choice.filters["since"])
    selected = bulk_actions.select(client, {**choice.filters, "status": status}, already)
    if selected.skipped and not as_json:
        click.echo(f"left out, because re-run already: {count(selected.skipped, 'run')}")
    if not bulk_actions.approve(selected, _RERUN, is_agreed=is_agreed, is_preview=is_preview, as_json=as_json):
        return 0

    def act(row: dict[str, Any]) -> dict[str, Any]:
        return dict(client.start(run_path(row["id"], "/rerun"), {"failed": choice.is_failed}))

    code = bulk_actions.apply(selected, _RERUN, act, as_json=as_json)
    if not as_json:
        click.echo("next: waterflowctl runs --trigger rerun")
    return code


def _already(client: Client, since: str | None) -> set[str]:
    """Return the runs that have been re-run, among the newest re-runs."""
    rows = client.pages("/v1/runs", "runs", _RERUNS_MAX, trigger="rerun", since=since)
    return {row["rerun_of"] for row in rows if row["rerun_of"] is not None}


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
