"""`validate`: check workflow files in this process; no daemon is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from waterflowd.ctl.failures import USAGE, Failure, diagnostic_text
from waterflowd.ctl.options import json_option, print_json_list
from waterflowd.ctl.terminal import clean

_SUFFIXES = (".yml", ".yaml")
#: The language refuses files beyond 1 MiB; nothing more needs to be read to say so.
_READ_BYTES = (1 << 20) + 1


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
@click.pass_context
def validate(context: click.Context, paths: tuple[str, ...], as_json: bool) -> None:
    """Check workflow files, or all .yml and .yaml files below a directory; ends 1 when one has errors."""
    count = 0
    errors: list[dict[str, Any]] = []
    for path in _files(paths):
        found = _check(path)
        count += 1
        errors += found
        if not as_json:
            for error in found:
                click.echo(diagnostic_text(error), err=True)
            if not found:
                click.echo(f"{clean(path)}: valid")
    if as_json:
        print_json_list(errors)
    elif errors:
        broken = len({error["path"] for error in errors})
        click.echo(f"error: {len(errors)} errors in {broken} of {count} files", err=True)
    context.exit(1 if errors else 0)


def _files(paths: tuple[str, ...]) -> Iterator[str]:
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(_SUFFIXES)
        )
        if not found:
            raise Failure(USAGE, f"there are no .yml or .yaml files below {path}", "waterflowctl validate FILE")
        yield from found


def _check(path: str) -> list[dict[str, Any]]:
    from waterflowd.dsl import compile_workflow
    from waterflowd.dsl.diagnostics import as_row

    try:
        # Only a regular file or a pipe that is named ends; what a symlink leads to is the user's own choice here.
        with Path(path).open("rb") as file:
            content = file.read(_READ_BYTES)
    except OSError as error:
        raise Failure(
            USAGE, f"{path} cannot be read: {error.strerror}", "ls " + (os.path.dirname(path) or ".")
        ) from None
    return [as_row(error) for error in compile_workflow(path, content).diagnostics]
