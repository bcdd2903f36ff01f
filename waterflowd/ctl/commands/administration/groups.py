"""`groups`: the named sets of servers."""

from __future__ import annotations

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.commands.administration.agent_maintenance import agent_path
from waterflowd.ctl.display.terminal import table
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list

#: Agents of a group; `waterflowctl agents` and `--json` have all.
_AGENTS_SHOWN = 20


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def groups(context: click.Context, as_json: bool) -> None:
    """List the groups of servers, or set those of a server."""
    if context.invoked_subcommand is not None:
        return
    rows = client_of(context).pages("/v1/groups", "groups")
    if as_json:
        print_json_list(rows)
        return
    table(
        ["GROUP", "CONNECTED", "SLOTS", "AGENTS"],
        [
            [
                escape_for_display(row["name"]),
                f"{row['connected']}/{len(row['agents'])}",
                f"{row['slots_busy']}/{row['slots']}",
                escape_for_display(_names(row["agents"])),
            ]
            for row in rows
        ],
        empty="no groups yet; add an agent to one: waterflowctl agents tokens create --group GROUP",
    )


def _names(agents: list[str]) -> str:
    more = f" and {len(agents) - _AGENTS_SHOWN} more" if len(agents) > _AGENTS_SHOWN else ""
    return ", ".join(agents[:_AGENTS_SHOWN]) + more


@groups.command("set")
@click.argument("agent", metavar="FINGERPRINT-or-NAME", shell_complete=completing("agents"))
@click.argument("names", metavar="GROUP...", nargs=-1, required=True, shell_complete=completing("groups"))
@json_option
@click.pass_context
def set_groups(context: click.Context, agent: str, names: tuple[str, ...], as_json: bool) -> None:
    """Set the groups of a server: it is in these, and in no others.

    Jobs that have started there continue; new jobs see the new groups at once.
    """
    row = client_of(context).post(agent_path(agent, "/groups"), {"groups": list(names)})
    if as_json:
        print_json([row])
        return
    click.echo(escape_for_display(f"{row['name']} is in {', '.join(row['groups'])}"))
