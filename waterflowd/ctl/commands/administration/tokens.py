"""`tokens`: who may use the API."""

from __future__ import annotations

from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import cell_time, style, table, time_text, zone_name
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def tokens(context: click.Context, as_json: bool) -> None:
    """List, create and revoke API tokens."""
    if context.invoked_subcommand is not None:
        return
    rows = client_of(context).pages("/v1/tokens", "tokens")
    if as_json:
        print_json_list(rows)
        return
    # The ids are random.
    found = sorted(rows, key=lambda row: (row["status"] != "valid", row["name"], row["expires_at"] or ""))
    table(
        [
            "ID",
            "NAME",
            "ROLE",
            "GROUPS",
            "STATUS",
            f"EXPIRES ({zone_name()})",
            f"LAST USED ({zone_name()})",
            "CREATED BY",
        ],
        [
            [
                row["id"],
                escape_for_display(row["name"]),
                row["role"],
                escape_for_display(", ".join(row["groups"]) or "all"),
                style(row["status"], "green" if row["status"] == "valid" else "bright_black"),
                cell_time(row["expires_at"]),
                cell_time(row["used_at"]),
                escape_for_display(row["created_by"]),
            ]
            for row in found
        ],
        empty="no tokens yet; create one: waterflowctl tokens create --role viewer",
        optional=["CREATED BY", f"LAST USED ({zone_name()})"],
    )


@tokens.command("create")
@click.option(
    "--role",
    required=True,
    type=click.Choice(["viewer", "runner", "approver", "operator", "admin"]),
    help="What the token may do: read, also start runs, also approve them; administer servers; everything.",
)
@click.option("--name", help="Name of its owner, shown in the audit trail.")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="Only work of this group; may be repeated.")
@click.option("--ttl", default="90d", show_default=True, help="How long the token is valid.")
@json_option
@click.pass_context
def create(
    context: click.Context, role: str, name: str | None, groups: tuple[str, ...], ttl: str, as_json: bool
) -> None:
    """Create a token; its secret is the last line of the output, and is only shown once."""
    body = {"role": role, "groups": list(groups), "ttl": ttl} | ({"name": name} if name else {})
    created = client_of(context).post("/v1/tokens", body)
    if as_json:
        print_json([created])
        return
    name_text, expiry = escape_for_display(created["name"]), time_text(created["expires_at"])
    click.echo(f"Token {name_text} ({created['id']}) with role {created['role']}, expires {expiry}.", err=True)
    click.echo("Use it with: export WATERFLOW_TOKEN=...", err=True)
    click.echo(created["secret"])


@tokens.command("revoke")
@click.argument("token", metavar="ID-or-NAME", shell_complete=completing("tokens"))
@json_option
@click.pass_context
def revoke(context: click.Context, token: str, as_json: bool) -> None:
    """Revoke a token."""
    revoked = client_of(context).post(f"/v1/tokens/{quote(token, safe='')}/revoke")
    if as_json:
        print_json([revoked])
        return
    click.echo(f"revoked {escape_for_display(revoked['name'])} ({revoked['id']})")
