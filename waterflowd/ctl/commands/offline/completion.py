"""`completion`: the script that makes a shell complete commands, options and values."""

from __future__ import annotations

import click
from click import shell_completion

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog='Once: eval "$(waterflowctl completion bash)". For every shell, put this line into ~/.bashrc.')
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, and values such as runs and agents; needs no daemon.

    The deb and rpm packages install it for all three shells.
    """
    click.echo(script(context.find_root().command, "waterflowctl", shell))


def script(command: click.Command, program: str, shell: str) -> str:
    """Return the completion script of a program for one of the `SHELLS`."""
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None, shell
    made = kind(command, {}, program, f"_{program.replace('-', '_').upper()}_COMPLETE")
    # The `source` method for bash would first run this machine's bash to check its version.
    return made.source_template % made.source_vars()
