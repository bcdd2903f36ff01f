"""`caches`: what steps have saved in caches, for later runs of the same repository."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display, size_text
from waterflowd.ctl.display.terminal import cell_time, table, zone_name
from waterflowd.ctl.failures import REFUSED, USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json_list

_repository_option = click.option(
    "--repository", metavar="NAME", help="Only of this repository.", shell_complete=completing("repositories")
)
_ref_option = click.option("--ref", metavar="REF", help="Only of this branch, such as main, or full name of a ref.")


@click.group(invoke_without_command=True)
@click.pass_context
def caches(context: click.Context) -> None:
    """List and delete what steps keep in caches."""
    if context.invoked_subcommand is None:
        context.invoke(list_caches)


@caches.command("list")
@click.option("--key", "prefix", metavar="TEXT", help="Only keys that begin with this text.")
@_repository_option
@_ref_option
@json_option
@click.pass_context
def list_caches(
    context: click.Context, prefix: str | None, repository: str | None, ref: str | None, as_json: bool
) -> None:
    """List caches, by repository and key."""
    client = client_of(context)
    found = client.pages("/v1/caches", "caches", None, repository=repository, ref=_full(ref), prefix=prefix)
    if as_json:
        print_json_list(found)
        return
    rows = list(found)
    saved, used = f"SAVED ({zone_name()})", f"USED ({zone_name()})"
    headings = ["KEY", "SIZE", "FILES", "BRANCH", "REPOSITORY", saved, used]
    table(headings, [_cells(row) for row in rows], empty="no caches", optional=["FILES", saved, "REPOSITORY"])
    if rows:
        click.echo(f"{count(len(rows), 'cache')}, {size_text(sum(row['bytes'] for row in rows))}")


def _cells(row: dict[str, Any]) -> list[object]:
    return [
        escape_for_display(row["key"]),
        size_text(row["bytes"]),
        str(row["files"]),
        escape_for_display(row["ref"].removeprefix("refs/heads/")),
        escape_for_display(row["repository"]),
        cell_time(row["created_at"]),
        cell_time(row["used_at"]),
    ]


@caches.command("delete")
@click.argument("key", required=False, shell_complete=completing("caches"))
@click.option("--all", "is_all", is_flag=True, help="Delete all caches of a repository.")
@_repository_option
@_ref_option
@json_option
@click.pass_context
def delete_caches(
    context: click.Context, key: str | None, is_all: bool, repository: str | None, ref: str | None, as_json: bool
) -> None:
    """Delete a cache by its KEY, or all caches of a repository. Later runs make them again."""
    if (key is None) != is_all:
        raise Failure(USAGE, "expected either a KEY or --all", "list the keys: waterflowctl caches list")
    client = client_of(context)
    if repository is None:
        repository = _only_repository(client.pages("/v1/caches", "caches", None, prefix=key), key)
    found = client.delete("/v1/caches", repository=repository, ref=_full(ref), key=key)
    if as_json:
        print_json_list(found["caches"])
        return
    where = escape_for_display(repository)
    click.echo(f"{where}: {count(found['deleted'], 'cache')} deleted")


def _full(ref: str | None) -> str | None:
    return ref if ref is None or ref.startswith("refs/") else f"refs/heads/{ref}"


def _only_repository(rows: Any, key: str | None) -> str:
    names = sorted({row["repository"] for row in rows if key is None or row["key"] == key})
    if len(names) == 1:
        return str(names[0])
    what = "any cache" if key is None else f'the cache "{escape_for_display(key)}"'
    if not names:
        raise Failure(REFUSED, f"no repository has {what}", "list them: waterflowctl caches list")
    listed = escape_for_display(", ".join(names))
    raise Failure(USAGE, f"several repositories have {what}: {listed}", "choose one with --repository NAME")
