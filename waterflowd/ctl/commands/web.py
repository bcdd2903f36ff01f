"""`web`: an address that signs a browser in."""

from __future__ import annotations

import click

from waterflowd.ctl.options import client_of, json_option, print_json


@click.command()
@json_option
@click.pass_context
def web(context: click.Context, as_json: bool) -> None:
    """Print an address that signs a browser in as you. It is valid for one use, for one minute."""
    link = client_of(context).post("/v1/session-links")
    if as_json:
        print_json([link])
        return
    if link["expires_at"] is not None:
        click.echo("Open this address within a minute; it can be used once:", err=True)
    click.echo(link["url"])
