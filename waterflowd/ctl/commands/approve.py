"""`approve` and `reject`: decide about jobs and steps that wait for approval."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.pending_approvals import argument, part_of
from waterflowd.ctl.failures import REFUSED, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json
from waterflowd.ctl.references import did_you_mean, find

_PARTS_SHOWN = 10


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("part", required=False, metavar="[JOB[/STEP]]")
@click.option("--comment", default="", help="Recorded in the run's history.")
@json_option
@click.pass_context
def approve(context: click.Context, run: str, part: str | None, comment: str, as_json: bool) -> None:
    """Approve a job or step that is waiting for approval; JOB[/STEP] is needed if several are."""
    _decide(client_of(context), run, part, comment, verb="approve", as_json=as_json)


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("part", required=False, metavar="[JOB[/STEP]]")
@click.option("--comment", default="", help="Recorded in the run's history.")
@json_option
@click.pass_context
def reject(context: click.Context, run: str, part: str | None, comment: str, as_json: bool) -> None:
    """Reject a job or step that is waiting for approval: it fails."""
    _decide(client_of(context), run, part, comment, verb="reject", as_json=as_json)


def _decide(client: Client, run: str, part: str | None, comment: str, *, verb: str, as_json: bool) -> None:
    found, part = find(client, run, part)
    approval = _chosen(found, part, verb)
    body = {"job": approval["job"], "step": approval["step"], "comment": comment}
    try:
        row = client.post(run_path(found["id"], f"/{verb}"), body)
    except Refused as error:
        error.next_step = f"waterflowctl show {found['id']}"
        raise
    if as_json:
        print_json([row])
        return
    past = "approved" if verb == "approve" else "rejected"
    name = escape_for_display(found["name"])
    click.echo(f"{past} {escape_for_display(part_of(approval))} of {name} #{found['number']}")
    if row["conclusion"] is None:
        click.echo(f"next: waterflowctl watch {row['id']}")


def _chosen(run: dict[str, Any], part: str | None, verb: str) -> dict[str, Any]:
    """Return the approval that `part` names; a job is enough if only one approval of it is pending."""
    approvals: list[dict[str, Any]] = run.get("approvals") or []
    if not approvals:
        text = f"{run['name']} #{run['number']} has no pending approvals [WF606]"
        raise Failure(REFUSED, text, f"waterflowctl show {run['id']}")
    matching = [approval for approval in approvals if part is None or part_of(approval) == part]
    matching = matching or [approval for approval in approvals if approval["job"] == part]
    if len(matching) == 1:
        return matching[0]
    known = [part_of(approval) for approval in approvals]
    missing = f"{part} has no pending approval{did_you_mean(part or '', known)}"
    problem = f"{len(matching)} approvals are pending" if matching else missing
    names = ", ".join(part_of(approval) for approval in approvals[:_PARTS_SHOWN])
    text = f"{problem}; name one of: {names} [WF606]"
    raise Failure(REFUSED, text, f"waterflowctl {verb} {run['id']} {argument((matching or approvals)[0])}")
