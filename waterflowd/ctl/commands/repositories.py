"""`workflows`, `sync`, `suspend` and `resume`: what the repositories hold, and whether it is looked at."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, table
from waterflowd.ctl.failures import REFUSED, Failure, diagnostic_text
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list


@click.command()
@json_option
@click.pass_context
def workflows(context: click.Context, as_json: bool) -> None:
    """List the workflows that the repositories hold."""
    rows = client_of(context).pages("/v1/definitions", "definitions")
    if as_json:
        print_json_list(rows)
        return
    found = list(rows)
    table(
        ["NAME", "STATUS", "PATH", "REPOSITORY", "REVISION", "STARTS ON", "INPUTS"],
        [_cells(row) for row in found],
        empty="no workflows yet; push one to a watched repository, or: waterflowctl run FILE.yml",
    )
    for row in found:
        for error in row["errors"]:
            click.echo(diagnostic_text(error))


def _cells(row: dict[str, Any]) -> list[str]:
    inputs = ", ".join(spec["name"] for spec in row["inputs"])
    texts = [row["path"], row["repository"], row["revision"][:10], ", ".join(row["triggers"]), inputs]
    status = style(row["status"], "green" if row["status"] == "ready" else "red")
    return [escape_for_display(row["name"]), status, *map(escape_for_display, texts)]


@click.command()
@click.argument("repository", required=False)
@click.option("--wait", is_flag=True, help="Until the newest revision is applied.")
@json_option
@click.pass_context
def sync(context: click.Context, repository: str | None, wait: bool, as_json: bool) -> None:
    """Look at the repositories' remotes now: one, or all of them."""
    client = client_of(context)
    names = (
        [repository]
        if repository is not None
        else [row["name"] for row in client.pages("/v1/repositories", "repositories")]
    )
    if not names:
        raise Failure(REFUSED, "the daemon watches no repository", "add [[repositories]] to waterflowd.toml")
    for name in names:
        address = _address(name, "sync")
        done = client.wait(address, wait="true") if wait else client.post(address)
        _show(done, as_json=as_json)


@click.command()
@click.argument("repository")
@json_option
@click.pass_context
def suspend(context: click.Context, repository: str, as_json: bool) -> None:
    """Stop looking at a repository until `resume`; nothing is started from it, and what runs goes on."""
    _show(client_of(context).post(_address(repository, "suspend")), as_json=as_json)


@click.command()
@click.argument("repository")
@json_option
@click.pass_context
def resume(context: click.Context, repository: str, as_json: bool) -> None:
    """Look at a suspended repository again: what was pushed meanwhile counts as one push."""
    _show(client_of(context).post(_address(repository, "resume")), as_json=as_json)


def _address(repository: str, action: str) -> str:
    return f"/v1/repositories/{quote(repository, safe='')}/{action}"


def _show(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([row])
        return
    applied = f"applied {row['revision_applied'][:10]}" if row["revision_applied"] else "nothing applied yet"
    click.echo(
        escape_for_display(f"{row['name']}: {row['status']}, {applied}" + (f": {row['text']}" if row["text"] else ""))
    )
