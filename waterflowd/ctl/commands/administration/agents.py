"""`agents`: the servers, and their enrollment."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client
from waterflowd.ctl.commands.administration import agent_maintenance
from waterflowd.ctl.commands.administration.agent_maintenance import agent_path
from waterflowd.ctl.display.terminal import cell_time, short_fingerprint, style, table, time_text, wrapped, zone_name
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list

#: Names that fit on one line; `--json` has all.
_OWN_NODES_SHOWN = 8
#: Commands that approve pending agents.
_COMMANDS_SHOWN = 5
_GROUPS = click.option(
    "--group", "groups", multiple=True, required=True, metavar="GROUP", help="Group of the agent; may be repeated."
)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def agents(context: click.Context, as_json: bool) -> None:
    """List agents; create join tokens; approve, drain, revoke and remove agents."""
    if context.invoked_subcommand is None:
        _list(client_of(context), is_all=False, as_json=as_json)


@agents.command("list")
@click.option("--all", "is_all", is_flag=True, help="Also revoked keys.")
@json_option
@click.pass_context
def list_agents(context: click.Context, is_all: bool, as_json: bool) -> None:
    """List agents and pending ones."""
    _list(client_of(context), is_all=is_all, as_json=as_json)


def _list(client: Client, *, is_all: bool, as_json: bool) -> None:
    pending = client.get("/v1/agents", limit=1)["pending"]
    rows = [*client.pages("/v1/agents", "agents"), *pending]
    if is_all:
        rows += client.pages("/v1/agents/revoked", "agents")
    if as_json:
        print_json_list(rows)
        return
    # Most groups of servers have no engine at all.
    has_docker = any(_docker(row) for row in rows)
    table(
        [
            *("NAME", "STATUS", "GROUPS", "SLOTS", "VERSION"),
            *(["DOCKER"] if has_docker else []),
            *(f"SINCE ({zone_name()})", "FINGERPRINT"),
        ],
        [_row(row, has_docker=has_docker) for row in rows],
        empty="no agents yet; create a join token: waterflowctl agents tokens create --group GROUP",
        optional=["FINGERPRINT", "VERSION", "DOCKER"],
    )
    for row in rows:
        _print_own_nodes(row["name"], row.get("own_nodes", []))
        if row.get("alarm"):
            click.echo(style(wrapped(escape_for_display(f"! {row['name']}: {row['alarm']}"), 2), "red"))
    for row in pending[:_COMMANDS_SHOWN]:
        click.echo(f"next: waterflowctl agents approve {escape_for_display(row['fingerprint'])} --group GROUP")
    if len(pending) > _COMMANDS_SHOWN:
        click.echo(f"... and {len(pending) - _COMMANDS_SHOWN} more pending agents; --json has their fingerprints")


def _print_own_nodes(agent: str, nodes: list[dict[str, Any]]) -> None:
    usable = [node["name"] for node in nodes if node["version"]]
    if usable:
        more = f" and {len(usable) - _OWN_NODES_SHOWN} more" if len(usable) > _OWN_NODES_SHOWN else ""
        click.echo(
            wrapped(escape_for_display(f"own nodes of {agent}: {', '.join(usable[:_OWN_NODES_SHOWN])}{more}"), 2)
        )
    for node in nodes:
        if node["fault"]:
            text = f"{agent}: node {node['name']} cannot be used: {node['fault']}"
            click.echo(wrapped(escape_for_display(text), 2))


def _docker(row: dict[str, Any]) -> str:
    """The version of the agent's Docker engine, or empty."""
    return str((row.get("docker") or {}).get("version", ""))


def _row(row: dict[str, Any], *, has_docker: bool) -> list[object]:
    colors = {"connected": "green", "pending": "yellow"}
    slots = f"{row['slots_busy']}/{row['slots']}" if "slots" in row else ""
    is_as_usual = row["status"] in ("pending", "revoked") or row["text"] == "connected"
    status = row["status"] if is_as_usual else escape_for_display(row["text"])
    return [
        escape_for_display(row["name"]),
        style(status, "yellow" if row.get("drained_at") else colors.get(row["status"], "red")),
        escape_for_display(", ".join(row.get("groups", []))),
        slots,
        escape_for_display(row.get("version", "")),
        *([escape_for_display(_docker(row)) or "-"] if has_docker else []),
        cell_time(row.get("seen_at") or row.get("requested_at") or row.get("revoked_at")),
        # The whole fingerprint of a pending agent is in the command that approves it.
        short_fingerprint(row["fingerprint"]),
    ]


@agents.group("tokens", invoke_without_command=True)
@json_option
@click.pass_context
def tokens(context: click.Context, as_json: bool) -> None:
    """List, create and revoke join tokens."""
    if context.invoked_subcommand is not None:
        return
    rows = client_of(context).pages("/v1/agents/tokens", "tokens")
    if as_json:
        print_json_list(rows)
        return
    table(
        ["ID", "GROUPS", "STATUS", "USED", f"EXPIRES ({zone_name()})", "CREATED BY"],
        [
            [
                row["id"],
                escape_for_display(", ".join(row["groups"])),
                style(row["status"], "green" if row["status"] == "valid" else "bright_black"),
                f"{row['used']}/{row['uses'] or 'any'}",
                cell_time(row["expires_at"]),
                escape_for_display(row["created_by"]),
            ]
            for row in rows
        ],
        empty="no join tokens yet; create one: waterflowctl agents tokens create --group GROUP",
    )


@tokens.command("create")
@_GROUPS
@click.option("--ttl", default="1h", show_default=True, help="How long the token is valid.")
@click.option(
    "--uses",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many agents may use it; 0 for any number.",
)
@click.option(
    "--address",
    metavar="HOST",
    help="Where these agents reach the daemon: a host name or address, or several separated by commas."
    " [default: agents.address of the daemon's configuration]",
)
@json_option
@click.pass_context
def create_token(
    context: click.Context, groups: tuple[str, ...], ttl: str, uses: int, address: str | None, as_json: bool
) -> None:
    """Create a join token; it is the last line of the output. It contains the address at which agents reach the daemon."""
    body = {"groups": list(groups), "ttl": ttl, "uses": uses or None, "address": address}
    created = client_of(context).post("/v1/agents/tokens", body)
    if as_json:
        print_json([created])
        return
    noun = "group" if len(groups) == 1 else "groups"
    agent_count = {None: "any number of agents", 1: "one agent"}.get(created["uses"], f"{created['uses']} agents")
    expiry = time_text(created["expires_at"])
    click.echo(f"Join token for {noun} {', '.join(groups)}: {agent_count}, expires {expiry}.", err=True)
    click.echo(
        escape_for_display(f"Agents with it connect to {created['address']}; another address: --address HOST."),
        err=True,
    )
    click.echo("On the server, write it to a file and run: waterflow-agent enroll --token-file FILE", err=True)
    click.echo(created["token"])


agents.add_command(create_token, "token")


@tokens.command("revoke")
@click.argument("token", metavar="ID")
@json_option
@click.pass_context
def revoke_token(context: click.Context, token: str, as_json: bool) -> None:
    """Revoke a join token. The agents that it has enrolled stay."""
    revoked = client_of(context).post(f"/v1/agents/tokens/{quote(token, safe='')}/revoke")
    if as_json:
        print_json([revoked])
        return
    click.echo(f"revoked join token {revoked['id']} for {escape_for_display(', '.join(revoked['groups']))}")


@agents.command("key")
@json_option
@click.pass_context
def key(context: click.Context, as_json: bool) -> None:
    """Print the server's public key, for agents' configuration.

    The key is the last line of the output; `server-key` in the configuration of an agent takes it.
    """
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
    """Approve a pending agent, or change its groups."""
    agent = client_of(context).post(agent_path(fingerprint, "/approve"), {"groups": list(groups)})
    if as_json:
        print_json([agent])
        return
    click.echo(f"approved {escape_for_display(agent['name'])} for {escape_for_display(', '.join(agent['groups']))}")


@agents.command("accept")
@click.argument("agent", metavar="FINGERPRINT-or-NAME", shell_complete=completing("agents"))
@json_option
@click.pass_context
def accept(context: click.Context, agent: str, as_json: bool) -> None:
    """Accept another server for an agent's key.

    Use it after a machine was replaced, or after the agent's data directory was moved.
    """
    accepted = client_of(context).post(agent_path(agent, "/accept"))
    if as_json:
        print_json([accepted])
        return
    click.echo(f"accepted the new server of {escape_for_display(accepted['name'])}; it connects within about a minute")


@agents.command("revoke")
@click.argument("agent", metavar="FINGERPRINT-or-NAME", shell_complete=completing("agents"))
@json_option
@click.pass_context
def revoke(context: click.Context, agent: str, as_json: bool) -> None:
    """Disconnect an agent and reject its key from now on."""
    revoked = client_of(context).post(agent_path(agent, "/revoke"))
    if as_json:
        print_json([revoked])
        return
    click.echo(f"revoked {escape_for_display(revoked['fingerprint'])}")


agents.add_command(agent_maintenance.drain)
agents.add_command(agent_maintenance.undrain)
agents.add_command(agent_maintenance.remove)
