"""`agents`, `groups`, `nodes`: the servers, and what they can do."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client
from waterflowd.ctl.display.terminal import style, table, time_text
from waterflowd.ctl.failures import REFUSED, Failure
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list

#: Names that fit into a line; `--json` has all.
_OWN_NODES_SHOWN = 8
_GROUPS = click.option("--group", "groups", multiple=True, required=True, metavar="GROUP", help="May be repeated.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def agents(context: click.Context, as_json: bool) -> None:
    """List agents; make join tokens, approve and revoke."""
    if context.invoked_subcommand is not None:
        return
    client = client_of(context)
    pending = client.get("/v1/agents", limit=1)["pending"]
    rows = [*client.pages("/v1/agents", "agents"), *pending]
    if as_json:
        print_json_list(rows)
        return
    table(
        ["NAME", "STATUS", "GROUPS", "SLOTS", "VERSION", "SINCE", "FINGERPRINT"],
        [_row(row) for row in rows],
        empty="no agents yet; let one in: waterflowctl agents token --group GROUP",
    )
    for row in rows:
        _show_own_nodes(row["name"], row.get("own_nodes", []))
    for row in pending:
        click.echo(f"next: waterflowctl agents approve {escape_for_display(row['fingerprint'])} --group GROUP")


def _show_own_nodes(agent: str, nodes: list[dict[str, Any]]) -> None:
    usable = [node["name"] for node in nodes if node["version"]]
    if usable:
        more = f" and {len(usable) - _OWN_NODES_SHOWN} more" if len(usable) > _OWN_NODES_SHOWN else ""
        click.echo(escape_for_display(f"{agent} has its own nodes: {', '.join(usable[:_OWN_NODES_SHOWN])}{more}"))
    for node in nodes:
        if node["fault"]:
            click.echo(escape_for_display(f"{agent}: node {node['name']} cannot be used: {node['fault']}"))


def _row(row: dict[str, Any]) -> list[str]:
    colors = {"connected": "green", "pending": "yellow"}
    slots = f"{row['slots_busy']}/{row['slots']}" if "slots" in row else ""
    status = row["status"] if row["status"] != "disconnected" else escape_for_display(row["text"])
    return [
        escape_for_display(row["name"]),
        style(status, colors.get(row["status"], "red")),
        escape_for_display(", ".join(row["groups"])),
        slots,
        escape_for_display(row.get("version", "")),
        time_text(row.get("seen_at") or row.get("requested_at")),
        escape_for_display(row["fingerprint"]),
    ]


@agents.command("token")
@_GROUPS
@click.option("--ttl", default="1h", show_default=True, help="How long it lets agents in.")
@click.option(
    "--uses", default=1, show_default=True, type=click.IntRange(min=0), help="For how many agents; 0: any number."
)
@json_option
@click.pass_context
def token(context: click.Context, groups: tuple[str, ...], ttl: str, uses: int, as_json: bool) -> None:
    """Make a join token; it is the last line that is printed."""
    wanted = {"groups": list(groups), "ttl": ttl, "uses": uses or None}
    made = client_of(context).post("/v1/agents/tokens", wanted)
    if as_json:
        print_json([made])
        return
    how_many = {None: "any number of agents", 1: "one agent"}.get(made["uses"], f"{made['uses']} agents")
    click.echo(f"lets {how_many} into {', '.join(groups)} until {time_text(made['expires_at'])};", err=True)
    click.echo("on the server: write it to a file, then: waterflow-agent enroll --token-file FILE", err=True)
    click.echo(made["token"])


@agents.command("key")
@json_option
@click.pass_context
def key(context: click.Context, as_json: bool) -> None:
    """Print this server's public key, for an agent's `server-key`; it is the last line."""
    server = client_of(context).get("/v1/agents", limit=1)["server"]
    if as_json:
        print_json([server])
        return
    click.echo(escape_for_display(f"address: {server['work']}, fingerprint: {server['fingerprint']}"), err=True)
    click.echo(escape_for_display(server["key"]))


@agents.command("approve")
@click.argument("fingerprint")
@_GROUPS
@json_option
@click.pass_context
def approve(context: click.Context, fingerprint: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Make a key that waits an agent of these groups."""
    made = client_of(context).post(f"/v1/agents/{quote(fingerprint, safe='')}/approve", {"groups": list(groups)})
    if as_json:
        print_json([made])
        return
    click.echo(f"{escape_for_display(made['name'])} is an agent of {escape_for_display(', '.join(made['groups']))}")


@agents.command("revoke")
@click.argument("agent", metavar="FINGERPRINT-or-NAME")
@json_option
@click.pass_context
def revoke(context: click.Context, agent: str, as_json: bool) -> None:
    """End an agent's session and refuse its key from now on."""
    done = client_of(context).post(f"/v1/agents/{quote(agent, safe='')}/revoke")
    if as_json:
        print_json([done])
        return
    click.echo(f"{escape_for_display(done['fingerprint'])} is revoked")


@click.command()
@json_option
@click.pass_context
def groups(context: click.Context, as_json: bool) -> None:
    """List groups of servers."""
    rows = client_of(context).pages("/v1/groups", "groups")
    if as_json:
        print_json_list(rows)
        return
    table(
        ["GROUP", "CONNECTED", "SLOTS", "AGENTS"],
        [
            [escape_for_display(row["name"]), f"{row['connected']}/{len(row['agents'])}", f"{row['slots_busy']}/{row['slots']}",
             escape_for_display(", ".join(row["agents"]))]
            for row in rows
        ],
        empty="no groups yet; they come with agents: waterflowctl agents token --group GROUP",
    )  # fmt: skip


@click.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def nodes(context: click.Context, name: str | None, as_json: bool) -> None:
    """List what a step can use."""
    rows = _nodes(client_of(context), name)
    if as_json:
        print_json_list(rows)
        return
    shown = [[escape_for_display(row["name"]), _parameters(row), escape_for_display(row["summary"])] for row in rows]
    table(["NODE", "WITH (* required)", "WHAT IT DOES"], shown, empty="no nodes")


def _nodes(client: Client, name: str | None) -> list[dict[str, Any]]:
    rows = list(client.pages("/v1/nodes", "nodes"))
    if name is None:
        return rows
    found = [row for row in rows if name == row["name"] or name in row["aliases"]]
    if not found:
        raise Failure(REFUSED, f'there is no node "{name}"', "waterflowctl nodes")
    return found


def _parameters(row: dict[str, Any]) -> str:
    return escape_for_display(
        ", ".join(found["name"] + ("*" if found["required"] else "") for found in row["parameters"])
    )
