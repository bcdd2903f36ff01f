"""`validate`: check workflow files in this process; no daemon is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.failures import USAGE, Failure, diagnostic_text
from waterflowd.ctl.options import json_option, print_json_list

if TYPE_CHECKING:
    from waterflowd.ctl.validation.sources import Found


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--range", "commits", metavar="A..B", help="Check what these commits change, as it is in B.")
@click.option("--root", metavar="DIR", help="The repository; default: the one that each file is in.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--sarif", "as_sarif", is_flag=True, help="SARIF 2.1.0, for forges and editors.")
@json_option
@click.pass_context
def validate(
    context: click.Context,
    paths: tuple[str, ...],
    commits: str | None,
    root: str | None,
    strict: bool,
    as_sarif: bool,
    as_json: bool,
) -> None:
    """Check workflow files, or all .yml and .yaml files below a directory; ends 1 when one has errors."""
    if not paths and commits is None:
        raise Failure(USAGE, "name a file, a folder, or a range of commits", "waterflowctl validate workflows/")
    if as_sarif and as_json:
        raise Failure(USAGE, "--sarif and --json exclude each other", "waterflowctl validate --help")
    is_plain = not as_sarif and not as_json
    checked = _Checked()
    for found, compiled in _compiled(paths, commits, root):
        new = checked.add(found, compiled)
        if is_plain:
            for row in new:
                click.echo(diagnostic_text(row), err=True)
            if not compiled.diagnostics:
                click.echo(f"{escape_for_display(found.shown(found.path))}: valid")
    if as_sarif:
        _print_sarif(checked.rows)
    elif as_json:
        print_json_list(checked.rows)
    else:
        checked.summarise()
    context.exit(1 if checked.errors or (strict and checked.rows) else 0)


def _compiled(paths: tuple[str, ...], commits: str | None, root: str | None) -> Iterable[tuple[Found, Any]]:
    from waterflowd.ctl.validation.sources import Range, on_disk
    from waterflowd.dsl import compile_workflow

    if commits is None:
        for found in on_disk(paths, root):
            yield found, _as_step(found) if found.is_step else compile_workflow(found.path, found.content, found.read)
        return
    wanted = Range(commits, root)
    changed = wanted.changed()
    for found in wanted.workflows(paths):
        compiled = compile_workflow(found.path, found.content, found.read)
        if changed is None or changed & {found.path, *compiled.files}:
            yield found, compiled


def _as_step(found: Found) -> Any:
    """A composite step's file, checked by a workflow that uses it; what that workflow does wrong is left out."""
    from waterflowd.dsl import Compiled, compile_workflow

    workflow = json.dumps({"jobs": {"a": {"runs-on": "a", "steps": [{"uses": f"./{found.path}"}]}}}).encode()
    answer = compile_workflow("", workflow, lambda path: found.content if path == found.path else found.read(path))
    errors = [error for error in answer.diagnostics if error.path]
    return Compiled(plan=None, diagnostics=errors, warnings=answer.warnings, files=answer.files)


class _Checked:
    """What was found so far; what several workflows share is said once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.files = 0
        self._broken: set[str] = set()

    def add(self, found: Found, compiled: Any) -> list[dict[str, Any]]:
        """Takes one answer over; gives what is new in it."""
        from waterflowd.dsl.reporting.diagnostics import as_row

        self.files += 1
        if compiled.diagnostics:
            self._broken.add(found.path)
        rows = [as_row(each) for each in (*compiled.diagnostics, *compiled.warnings)]
        shown = [row | {"path": found.shown(str(row["path"]))} for row in rows]
        new = [row for row in shown if row not in self.rows]
        self.rows += new
        return new

    @property
    def errors(self) -> int:
        """How many are no warnings."""
        return sum(1 for row in self.rows if row.get("severity") != "warning")

    def summarise(self) -> None:
        """One line when something is wrong, or nothing was there."""
        warnings = len(self.rows) - self.errors
        if self.errors:
            click.echo(f"error: {self.errors} errors in {len(self._broken)} of {self.files} files", err=True)
        elif warnings:
            click.echo(f"warning: {warnings} warnings in {self.files} files", err=True)
        elif not self.files:
            click.echo("no workflow is touched")


def _print_sarif(rows: list[dict[str, Any]]) -> None:
    from waterflowd.ctl.validation.sarif import sarif_text
    from waterflowd.dsl.reporting.codes import CODES

    click.echo(sarif_text(rows, CODES))
