"""`workflows` and `sync`: what the repositories hold."""

from __future__ import annotations

from urllib.parse import quote

import click

from waterflowd.ctl.failures import REFUSED, Failure, diagnostic_text
from waterflowd.ctl.options import client_of, json_option, print_json, print_json_list
from waterflowd.ctl.terminal import clean, style, table


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
        [
            [clean(row["name"]), style(row["status"], "green" if row["status"] == "ready" else "red"), clean(row["path"]),
             clean(row["repository"]), clean(row["revision"][:10]), clean(", ".join(row["triggers"])),
             clean(", ".join(spec["name"] for spec in row["inputs"]))]
            for row in found
        ],
        empty="no workflows yet; push one to a watched repository, or: waterflowctl run FILE.yml",
    )  # fmt: skip
    for row in found:
        for error in row["errors"]:
            click.echo(diagnostic_text(error))


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
        done = client.post(f"/v1/repositories/{quote(name, safe='')}/sync", wait="true" if wait else None)
        if as_json:
            print_json([done])
            continue
        applied = f"applied {done['revision_applied'][:10]}" if done["revision_applied"] else "nothing applied yet"
        click.echo(
            clean(f"{done['name']}: {done['status']}, {applied}" + (f": {done['text']}" if done["text"] else ""))
        )
