"""`sync`, `suspend` and `resume`: fetch repositories, and whether they are watched."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.failures import REFUSED, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json


@click.command()
@click.argument("repository", required=False, shell_complete=completing("repositories"))
@click.option("--wait", is_flag=True, help="Wait until the newest revision is applied.")
@json_option
@click.pass_context
def sync(context: click.Context, repository: str | None, wait: bool, as_json: bool) -> None:
    """Fetch repositories now: one, or all of them."""
    client = client_of(context)
    if repository is not None:
        names = [repository]
    else:
        names = [row["name"] for row in client.pages("/v1/repositories", "repositories")]
    if not names:
        raise Failure(REFUSED, "no repositories are configured", "add [[repositories]] to waterflowd.toml")
    for name in names:
        path = _path(name, "sync")
        row = client.wait(path, wait="true") if wait else client.post(path)
        _print(row, as_json=as_json)


@click.command()
@click.argument("repository", shell_complete=completing("repositories"))
@json_option
@click.pass_context
def suspend(context: click.Context, repository: str, as_json: bool) -> None:
    """Suspend a repository: pushes are ignored until `resume`, and running work continues."""
    _print(client_of(context).post(_path(repository, "suspend")), as_json=as_json)


@click.command()
@click.argument("repository", shell_complete=completing("repositories"))
@json_option
@click.pass_context
def resume(context: click.Context, repository: str, as_json: bool) -> None:
    """Resume a suspended repository; everything pushed in the meantime counts as one push."""
    _print(client_of(context).post(_path(repository, "resume")), as_json=as_json)


def _path(repository: str, action: str) -> str:
    return f"/v1/repositories/{quote(repository, safe='')}/{action}"


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([row])
        return
    applied = f"applied {row['revision_applied'][:10]}" if row["revision_applied"] else "nothing applied yet"
    reason = f": {row['text']}" if row["text"] else ""
    click.echo(escape_for_display(f"{row['name']}: {row['status']}, {applied}{reason}"))
