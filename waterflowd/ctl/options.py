"""Options and arguments that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from waterflowd.ctl.failures import USAGE, Failure, Refused

if TYPE_CHECKING:
    from waterflowd.ctl.client import Client
    from waterflowd.ctl.main import Lazy

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def json_option(command: _Decorated) -> _Decorated:
    """Adds `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="JSON: an array for a list, one object per line for a stream."
    )(command)


def client_of(context: click.Context) -> Client:
    """The client of the chosen daemon."""
    lazy: Lazy = context.find_root().obj
    return lazy.client


def print_json(rows: Iterable[Any]) -> None:
    """Prints one object per line, as they come."""
    for row in rows:
        click.echo(_json_text(row))


def print_json_list(rows: Iterable[Any]) -> None:
    """Prints a whole list as one JSON array with an object on each line."""
    texts = [_json_text(row) for row in rows]
    click.echo("[\n" + ",\n".join(texts) + "\n]" if texts else "[]")


def _json_text(row: Any) -> str:
    """JSON that a terminal may be shown: nothing outside ASCII but letters and the like, no control characters."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(row, separators=(",", ":")).replace("\x7f", "\\u007f")


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """`k=v` options as a dictionary."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise Failure(
                USAGE, f"{option} takes NAME=VALUE, not {value!r}", f"waterflowctl run NAME {option} name=value"
            )
        found[name] = text
    return found


def find_run(client: Client, text: str) -> dict[str, Any]:
    """The run that `text` means: a whole or partial id, else the newest run of the workflow with that name."""
    from waterflowd.ctl.client import run_path

    try:
        found: dict[str, Any] = client.get(run_path(text))
    except Refused as error:
        if error.status != 404:
            raise
        rows = client.get("/v1/runs", name=text[:300], limit=1)["runs"]
        if not rows:
            error.following = "waterflowctl runs"
            raise
        found = client.get(run_path(rows[0]["id"]))
    return found
