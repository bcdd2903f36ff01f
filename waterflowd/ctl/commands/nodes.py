"""`nodes`: what a step can use."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

import click

from waterflow_agent.display import escape_for_display, quote
from waterflowd.ctl.client import Client
from waterflowd.ctl.display.terminal import style
from waterflowd.ctl.failures import REFUSED, Failure
from waterflowd.ctl.options import client_of, json_option, print_json_list


@click.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def nodes(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the nodes that steps can use, or show one of them.

    Parameters with a * are required.
    """
    rows = _nodes(client_of(context), name)
    if as_json:
        print_json_list(rows)
        return
    width = shutil.get_terminal_size().columns
    for row in rows:
        click.echo(style(escape_for_display(row["name"]), is_bold=True))
        for text in (row["summary"], _parameters(row)):
            for line in textwrap.wrap(escape_for_display(text), width - 2, break_on_hyphens=False):
                click.echo(f"  {line}")


def _nodes(client: Client, name: str | None) -> list[dict[str, Any]]:
    rows = list(client.pages("/v1/nodes", "nodes"))
    if name is None:
        return rows
    matching = [row for row in rows if name == row["name"] or name in row["aliases"]]
    if not matching:
        raise Failure(REFUSED, f"unknown node {quote(name)}", "waterflowctl nodes")
    return matching


def _parameters(row: dict[str, Any]) -> str:
    names = [parameter["name"] + ("*" if parameter["required"] else "") for parameter in row["parameters"]]
    return ", ".join(names)
