"""`repositories`: the watched repositories, what of them is applied, and their problems; adding, changing and removing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import cell_time, localized, style, table, wrapped, zone_name
from waterflowd.ctl.failures import REFUSED, USAGE, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json, print_json_list

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def repositories(context: click.Context, as_json: bool) -> None:
    """List the watched repositories; add, change and remove repositories."""
    if context.invoked_subcommand is not None:
        return
    rows = list(client_of(context).pages("/v1/repositories", "repositories"))
    if as_json:
        print_json_list(rows)
        return
    table(
        ["NAME", "STATUS", "REFS", "APPLIED", f"FETCHED ({zone_name()})", "FROM", "URL"],
        [_cells(row) for row in rows],
        empty="no repositories yet; add one: waterflowctl repositories add NAME URL, or [[repositories]] in waterflowd.toml",
        optional=["FROM", f"FETCHED ({zone_name()})", "REFS"],
    )
    for row in rows:
        if row["status"] != "ready":
            click.echo(wrapped(escape_for_display(f"{row['name']}: {localized(row['text'])}"), 2))


def _cells(row: dict[str, Any]) -> list[object]:
    return [
        escape_for_display(row["name"]),
        style(row["status"], "green" if row["status"] == "ready" else "red"),
        escape_for_display(", ".join(row["refs"])),
        (row["revision_applied"] or "")[:10],
        cell_time(row["fetched_at"]),
        "API" if row["source"] == "api" else "file",
        escape_for_display(row["url"]),
    ]


def _settings_options(command: _Decorated) -> _Decorated:
    """Add the options for the settings of a repository; an option that is not given is None, or an empty tuple."""
    for option in reversed(
        [
            click.option(
                "--ref", "refs", multiple=True, help="Pattern of branches, or of tags with tags/; repeatable."
            ),
            click.option("--path", "paths", multiple=True, help="Folder that contains workflows; repeatable."),
            click.option("--interval", help="How often the repository is fetched at least, such as 1m."),
            click.option("--group", "groups", multiple=True, help="Group that its workflows may use; repeatable."),
            click.option(
                "--webhook-key",
                "webhook_keys",
                multiple=True,
                help="Name of a secret that its webhooks may be signed with; repeatable.",
            ),
            click.option(
                "--readable-by",
                multiple=True,
                help="Repository whose jobs may read its files, or a pattern with *; repeatable.",
            ),
            click.option(
                "--credentials-file", help="For https: file with a token or user:token, on the daemon's host."
            ),
            click.option("--ssh-key-file", help="For ssh: private key, on the daemon's host."),
            click.option("--known-hosts-file", help="For ssh: keys of trusted hosts, on the daemon's host."),
            click.option("--ca-file", help="For https: CA certificates, on the daemon's host."),
            click.option("--fetch-timeout", help="Timeout of one fetch, such as 2m."),
            click.option("--fetch-max-bytes", type=int, help="Maximum size of one fetch in bytes."),
            click.option("--runs-per-hour", type=int, help="Runs that it may start per hour; 0 for no limit."),
            click.option("--output-bytes-per-hour", type=int, help="Output stored per hour; 0 for no limit."),
        ]
    ):
        command = option(command)
    return command


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what was given; one empty text means an empty list."""
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    return {name: [] if value == ("",) else value for name, value in given.items()}


@repositories.command("add")
@click.argument("name")
@click.argument("url")
@_settings_options
@click.option("--wait", is_flag=True, help="Wait until it was read.")
@json_option
@click.pass_context
def add(context: click.Context, /, name: str, url: str, wait: bool, as_json: bool, **settings: Any) -> None:
    """Watch one more repository. Pushes start runs from then on.

    Files are in the directory credentials-dir of the daemon's configuration; their names there are enough.
    """
    client = client_of(context)
    row = client.post("/v1/repositories", {"name": name, "url": url, **_given(settings)})
    if not wait:
        _print(row, "added", as_json=as_json)
        if not as_json:
            click.echo(f"waterflowctl sync {escape_for_display(name)} --wait says whether it can be read")
        return
    try:
        row = client.wait(f"{_path(name)}/sync", wait="true")
    except Refused as error:
        next_step = f"waterflowctl repositories set {name} ..., or remove {name}"
        raise Failure(REFUSED, f"{name} was added, but it cannot be read: {error.message}", next_step) from None
    _print(row, "added", as_json=as_json)


@repositories.command("set")
@click.argument("name", shell_complete=completing("repositories"))
@click.option("--url", help="Another URL: the repository begins anew.")
@_settings_options
@json_option
@click.pass_context
def set_(context: click.Context, /, name: str, url: str | None, as_json: bool, **settings: Any) -> None:
    """Change settings of a repository that was added with `add`.

    An option that can be repeated replaces the whole list; with an empty text ('') the default applies.
    """
    given = _given({"url": url, **settings})
    if not given:
        raise Failure(USAGE, "nothing to change", "waterflowctl repositories set NAME --group web; see --help for all")
    _print(client_of(context).patch(_path(name), given), "changed", as_json=as_json)


@repositories.command("remove")
@click.argument("name", shell_complete=completing("repositories"))
@click.option("--force", is_flag=True, help="Cancel its open runs.")
@json_option
@click.pass_context
def remove(context: click.Context, name: str, force: bool, as_json: bool) -> None:
    """Remove a repository that was added with `add`. Its runs stay, and so do their numbers."""
    answer = client_of(context).delete(_path(name), force="true" if force else None)
    if as_json:
        print_json([answer])
        return
    cancelled = answer["cancelled_runs"]
    suffix = f", {count(cancelled, 'open run')} cancelled" if cancelled else ""
    click.echo(escape_for_display(f"{name}: removed{suffix}; its runs are still in the history"))


def _path(name: str) -> str:
    return f"/v1/repositories/{quote(name, safe='')}"


def _print(row: dict[str, Any], verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json([row])
        return
    reason = f" ({localized(row['text'])})" if row["status"] != "ready" and row["text"] else ""
    groups = ", ".join(row["groups"])
    readers = f", readable by {', '.join(row['readable_by'])}" if row["readable_by"] else ""
    text = f"{row['name']}: {verb}; {row['url']}, groups {groups}{readers}; {row['status']}{reason}"
    click.echo(escape_for_display(text))
