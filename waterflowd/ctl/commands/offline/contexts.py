"""`context`: the daemons that a user works with, by name, and which of them commands talk to."""

from __future__ import annotations

import sys

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl import settings
from waterflowd.ctl.contexts import Contexts, default_path
from waterflowd.ctl.display.terminal import table
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import json_option, print_json_list


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def context(context: click.Context, as_json: bool) -> None:
    """List the daemons that you work with; the current one has an asterisk. Needs no daemon.

    They are kept in ~/.config/waterflow/config.toml. `--context NAME` or WATERFLOW_CONTEXT chooses one for a single command.
    """
    if context.invoked_subcommand is None:
        _print(as_json)


@context.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the contexts."""
    _print(as_json)


@context.command()
@click.argument("name")
@click.argument("server", metavar="URL")
@click.option("--token-file", metavar="PATH", help="A file with the API token; it stays where it is.")
@click.option(
    "--token", is_flag=True, help="Ask for the API token, or read it from standard input, and keep it in the file."
)
def add(name: str, server: str, token_file: str | None, token: bool) -> None:
    """Add a daemon: https://HOST, http://HOST:PORT or unix:/PATH. The first one becomes the current context."""
    if token and token_file:
        raise click.UsageError("--token and --token-file both give a token; use one of them")
    values = {"server": settings.checked(server)}
    if token_file:
        values["token-file"] = token_file
    if token:
        is_terminal = sys.stdin.isatty()
        values["token"] = click.prompt("API token", hide_input=True) if is_terminal else sys.stdin.readline().strip()
        if not values["token"]:
            raise click.UsageError("standard input has no token")
    contexts = Contexts(default_path())
    contexts.add(name, values)
    if contexts.current == name:
        click.echo("added, and made the current one")
    else:
        click.echo(f"added; to make it the current one: waterflowctl context use {name}")


@context.command()
@click.argument("name", shell_complete=completing("contexts"))
def use(name: str) -> None:
    """Make a context the current one."""
    contexts = Contexts(default_path())
    contexts.use(name)
    click.echo(
        f"commands now talk to {escape_for_display(str(contexts.get(name).get('server') or settings.DEFAULT_SERVER))}"
    )


@context.command()
@click.argument("name", shell_complete=completing("contexts"))
def remove(name: str) -> None:
    """Remove a context; its token file stays."""
    contexts = Contexts(default_path())
    contexts.remove(name)
    click.echo("removed" if contexts.current is not None else "removed; there is no current context now")


def _print(as_json: bool) -> None:
    contexts = Contexts(default_path())
    rows = [
        {
            "name": name,
            "current": name == contexts.current,
            "server": str(each.get("server") or settings.DEFAULT_SERVER),
            "token": "stored" if "token" in each else str(each.get("token-file") or "none"),
        }
        for name, each in contexts.by_name.items()
    ]
    if as_json:
        print_json_list(rows)
        return
    table(
        ["", "NAME", "SERVER", "TOKEN"],
        [
            ["*" if row["current"] else "", *(escape_for_display(str(row[key])) for key in ("name", "server", "token"))]
            for row in rows
        ],
        empty="no contexts yet; waterflowctl context add NAME https://HOST",
    )
