"""`approve` and `reject`: decide about what waits for people."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.pending_approvals import argument, place_of
from waterflowd.ctl.failures import REFUSED, Failure, Refused
from waterflowd.ctl.options import client_of, find_run, json_option, print_json


@click.command()
@click.argument("run")
@click.argument("place", required=False, metavar="[JOB[/STEP]]")
@click.option("--comment", default="", help="Stands in the run's history.")
@json_option
@click.pass_context
def approve(context: click.Context, run: str, place: str | None, comment: str, as_json: bool) -> None:
    """Approve what waits for people; JOB[/STEP] where more than one thing waits."""
    _decide(client_of(context), run, place, comment, verb="approve", as_json=as_json)


@click.command()
@click.argument("run")
@click.argument("place", required=False, metavar="[JOB[/STEP]]")
@click.option("--comment", default="", help="Stands in the run's history.")
@json_option
@click.pass_context
def reject(context: click.Context, run: str, place: str | None, comment: str, as_json: bool) -> None:
    """Reject what waits for people: the job or step fails."""
    _decide(client_of(context), run, place, comment, verb="reject", as_json=as_json)


def _decide(client: Client, run: str, place: str | None, comment: str, *, verb: str, as_json: bool) -> None:
    found = find_run(client, run)
    chosen = _chosen(found, place, verb)
    body = {"job": chosen["job"], "step": chosen["step"], "comment": comment}
    try:
        row = client.post(run_path(found["id"], f"/{verb}"), body)
    except Refused as error:
        error.following = f"waterflowctl show {found['id']}"
        raise
    if as_json:
        print_json([row])
        return
    done = "approved" if verb == "approve" else "rejected"
    click.echo(
        f"{done} {escape_for_display(place_of(chosen))} of {escape_for_display(found['name'])} #{found['number']}"
    )
    if row["conclusion"] is None:
        click.echo(f"next: waterflowctl watch {row['id']}")


def _chosen(run: dict[str, Any], place: str | None, verb: str) -> dict[str, Any]:
    """What is meant of what waits; a job alone is enough where only one thing of it waits."""
    waiting: list[dict[str, Any]] = run.get("approvals") or []
    if not waiting:
        text = f"nothing of {run['name']} #{run['number']} waits for an approval [WF606]"
        raise Failure(REFUSED, text, f"waterflowctl show {run['id']}")
    found = [one for one in waiting if place is None or place_of(one) == place]
    found = found or [one for one in waiting if one["job"] == place]
    if len(found) == 1:
        return found[0]
    names = [place_of(one) for one in waiting]
    said = f"nothing at {place} waits" if not found else f"{len(found)} things wait"
    text = f"{said}; for an approval wait: {', '.join(names[:10])} [WF606]"
    raise Failure(REFUSED, text, f"waterflowctl {verb} {run['id']} {argument((found or waiting)[0])}")
