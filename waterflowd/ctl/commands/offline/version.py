"""`version`: print the version."""

from __future__ import annotations

import click

from waterflowd import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"waterflowctl {__version__}")
