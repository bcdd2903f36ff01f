"""Options, arguments and output that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from waterflowd.ctl.failures import USAGE, Failure

if TYPE_CHECKING:
    from waterflowd.ctl.client import Client
    from waterflowd.ctl.main import LazyClient

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def json_option(command: _Decorated) -> _Decorated:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON: an array for a list, one object per line for a stream."
    )(command)


def limit_option(default: int) -> Callable[[_Decorated], _Decorated]:
    """Return a decorator that adds `--limit`."""
    return click.option(
        "--limit", default=default, show_default=True, type=click.IntRange(1, 100_000), help="Maximum number to show."
    )


def client_of(context: click.Context) -> Client:
    """Return the client for the chosen daemon."""
    lazy: LazyClient = context.find_root().obj
    return lazy.client


def print_json(rows: Iterable[Any]) -> None:
    """Print one object per line, as they arrive."""
    for row in rows:
        click.echo(_json_text(row))


def print_json_list(rows: Iterable[Any]) -> None:
    """Print a whole list as one JSON array with an object on each line."""
    texts = [_json_text(row) for row in rows]
    click.echo("[\n" + ",\n".join(texts) + "\n]" if texts else "[]")


def _json_text(row: Any) -> str:
    """Return JSON that is safe for a terminal: control characters and other unprintable characters are escaped."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(row, separators=(",", ":")).replace("\x7f", "\\u007f")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 error` or `2 errors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """Return `NAME=VALUE` options as a dictionary."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise Failure(
                USAGE, f"{option} takes NAME=VALUE, not {value!r}", f"waterflowctl run NAME {option} name=value"
            )
        found[name] = text
    return found
