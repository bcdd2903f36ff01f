"""`agents drain`, `undrain` and `remove`: take servers out of service, and put them back."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client
from waterflowd.ctl.failures import REFUSED, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json

_POLL_S = 1.0
_INTERRUPTED = 130
_AGENT = click.argument("agent", metavar="FINGERPRINT-or-NAME", shell_complete=completing("agents"))


@click.command()
@_AGENT
@click.option("--wait", is_flag=True, help="Wait until its jobs have ended.")
@json_option
@click.pass_context
def drain(context: click.Context, agent: str, wait: bool, as_json: bool) -> None:
    """Start no new jobs on a server.

    Jobs that have started there continue to their end, whatever they wait for.
    """
    client = client_of(context)
    row = client.post(agent_path(agent, "/drain"))
    try:
        if wait:
            row = _drained(client, row, is_quiet=as_json)
    except KeyboardInterrupt:
        name = escape_for_display(row["name"])
        click.echo(f"\n{name} stays draining; come back with: waterflowctl agents drain {name} --wait", err=True)
        context.exit(_INTERRUPTED)
    if as_json:
        print_json([row])
    elif row["drained"]:
        click.echo(escape_for_display(f"{row['name']} is drained: nothing runs there, and no new jobs start"))
    else:
        click.echo(_progress(row))


def _drained(client: Client, row: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Return the agent once it has no work left; print what it still has whenever that changes."""
    printed = ""
    while not row["drained"]:
        if row["drained_at"] is None:
            raise Failure(REFUSED, f"{row['name']} is no longer draining", f"waterflowctl agents drain {row['name']}")
        if row["is_elsewhere"]:
            text = f"{row['name']} is not connected to this daemon, so its work is not known here; it stays draining"
            raise Failure(REFUSED, text, "ask the daemon that it is connected to: waterflowctl --server ...")
        progress = _progress(row)
        if progress != printed and not is_quiet:
            click.echo(progress)
        printed = progress
        time.sleep(_POLL_S)
        row = client.get(agent_path(row["fingerprint"]))
    return row


def _progress(row: dict[str, Any]) -> str:
    """Return one line about what a draining agent still has."""
    if row["is_elsewhere"]:
        return escape_for_display(f"{row['name']} is draining; it is not connected to this daemon")
    work = count(max(row["open_jobs"], row["slots_busy"]), "job")
    jobs = ", ".join(f"{job['run']} {job['job']}" for job in row["jobs"])
    more = f" and {row['open_jobs'] - len(row['jobs'])} more" if row["open_jobs"] > len(row["jobs"]) else ""
    away = "" if row["status"] == "connected" else "; it is not connected"
    return escape_for_display(f"{row['name']} is draining, {work} left{f': {jobs}{more}' if jobs else ''}{away}")


@click.command()
@_AGENT
@json_option
@click.pass_context
def undrain(context: click.Context, agent: str, as_json: bool) -> None:
    """Start new jobs on a server again."""
    row = client_of(context).post(agent_path(agent, "/undrain"))
    if as_json:
        print_json([row])
        return
    click.echo(escape_for_display(f"{row['name']} starts new jobs again"))


@click.command()
@_AGENT
@json_option
@click.pass_context
def remove(context: click.Context, agent: str, as_json: bool) -> None:
    """Forget a server that has no work left, or a revoked key.

    A connected server must be drained first. Afterwards its key is unknown: a join token may enroll it again.
    """
    removed = client_of(context).post(agent_path(agent, "/remove"))
    if as_json:
        print_json([removed])
        return
    click.echo(f"removed {escape_for_display(agent)} ({escape_for_display(removed['fingerprint'])})")


def agent_path(agent: str, action: str = "") -> str:
    """Return the path of an agent, or of an action on it."""
    return f"/v1/agents/{quote(agent, safe='')}{action}"
