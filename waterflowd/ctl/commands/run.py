"""`run`: start a workflow of a repository, or a local file, and wait for the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client
from waterflowd.ctl.commands.watch import watch_to_end
from waterflowd.ctl.display.terminal import is_terminal
from waterflowd.ctl.failures import REFUSED, USAGE, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, pairs, print_json

_SUFFIXES = (".yml", ".yaml")


@click.command()
@click.argument("workflow", metavar="NAME-or-FILE", shell_complete=completing("workflows"))
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="Set an input; may be repeated.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Override a workflow variable.")
@click.option("--repository", help="Repository, if the name is ambiguous.")
@click.option("--detach", is_flag=True, help="Do not wait for the result.")
@click.option("--dry-run", is_flag=True, help="Check everything, but start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON, when it starts and when it ends.")
@click.pass_context
def run(
    context: click.Context,
    workflow: str,
    inputs: tuple[str, ...],
    variables: tuple[str, ...],
    repository: str | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start a workflow by name or file, and wait for the result."""
    client = client_of(context)
    body: dict[str, Any] = {"inputs": pairs(inputs, "-i"), "vars": pairs(variables, "--var"), "dry_run": dry_run}
    started = _start(client, workflow, body, repository)
    if as_json:
        print_json([started])
    elif dry_run:
        name = escape_for_display(workflow)
        click.echo(f"{name} is valid; start it with: waterflowctl run {name}")
    elif detach or not is_terminal():
        click.echo(f"started {escape_for_display(started['name'])} #{started['number']}: {started['id']}")
    if detach and not (as_json or dry_run):
        click.echo(f"next: waterflowctl watch {started['id']}")
    if not (dry_run or detach):
        context.exit(watch_to_end(client, started["id"], as_json=as_json))


def _start(client: Client, workflow: str, body: dict[str, Any], repository: str | None) -> Any:
    path = Path(workflow)
    if path.is_file():
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(USAGE, f"cannot read {workflow}: {error}", f"waterflowctl validate {workflow}") from None
        return client.start("/v1/runs", {"yaml": text, "path": _sent_path(path), **body})
    try:
        return client.start(f"/v1/definitions/{quote(workflow, safe='')}/run", body, repository=repository)
    except Refused as error:
        if error.status == 404 and workflow.endswith(_SUFFIXES):
            text = f"{workflow} is neither a file here nor a workflow of a repository"
            raise Failure(REFUSED, text, "waterflowctl workflows") from None
        raise


def _sent_path(path: Path) -> str:
    """Return the path to send for a local file: as typed if it stays inside the working directory, else its name."""
    text = path.as_posix()
    return path.name if path.is_absolute() or ".." in path.parts or len(text) > 255 else text
