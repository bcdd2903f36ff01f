"""`validate`: check workflow files without a daemon, or also with what the daemon knows of a repository."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.failures import USAGE, Failure, Refused, diagnostic_text
from waterflowd.ctl.options import client_of, count, json_option, print_json_list
from waterflowd.ctl.validation.annotations import annotation

if TYPE_CHECKING:
    from waterflowd.ctl.client import Client
    from waterflowd.ctl.validation.sources import WorkflowFile


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--range", "commits", metavar="A..B", help="Check the files that these commits change, as they are in B.")
@click.option("--root", metavar="DIR", help="Root of the repository; default: that of each file.")
@click.option("--repository", metavar="NAME", help="Also ask the daemon what this repository may not use.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0, for forges and editors.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github", "sarif", "json"]),
    help="How to print errors and warnings; github: as annotations of GitHub Actions and Gitea.",
)
@json_option
@click.pass_context
def validate(
    context: click.Context,
    paths: tuple[str, ...],
    commits: str | None,
    root: str | None,
    repository: str | None,
    strict: bool,
    as_sarif: bool,
    form: str | None,
    as_json: bool,
) -> None:
    """Check workflow files, or all .yml and .yaml files below a directory; exits with 1 if one has errors."""
    if not paths and commits is None:
        raise Failure(USAGE, "name a file, a directory or a range of commits", "waterflowctl validate workflows/")
    chosen = {name for name, is_chosen in ((form, form), ("sarif", as_sarif), ("json", as_json)) if is_chosen}
    if len(chosen) > 1:
        raise Failure(USAGE, "--format, --sarif and --json contradict each other", "waterflowctl validate --help")
    form = chosen.pop() if chosen else "text"
    is_plain = form == "text"
    diagnostics = _Diagnostics()
    for found, compiled in _compiled(paths, commits, root):
        if repository is not None and compiled.plan is not None:
            compiled = _with_daemon_errors(client_of(context), repository, found, compiled)
        new = diagnostics.add(found, compiled)
        if is_plain:
            for row in new:
                click.echo(diagnostic_text(row), err=True)
            if not compiled.diagnostics:
                click.echo(f"{escape_for_display(found.display_path(found.path))}: valid")
    if form == "sarif":
        _print_sarif(diagnostics.rows)
    elif form == "json":
        print_json_list(diagnostics.rows)
    elif form == "github":
        for row in diagnostics.rows:
            click.echo(annotation(row))
        diagnostics.summarise()
    else:
        diagnostics.summarise()
    context.exit(1 if diagnostics.errors or (strict and diagnostics.rows) else 0)


def _compiled(paths: tuple[str, ...], commits: str | None, root: str | None) -> Iterable[tuple[WorkflowFile, Any]]:
    from waterflowd.ctl.validation.sources import Range, on_disk
    from waterflowd.dsl import compile_workflow

    if commits is None:
        for found in on_disk(paths, root):
            yield found, _as_step(found) if found.is_step else compile_workflow(found.path, found.content, found.read)
        return
    range_ = Range(commits, root)
    changed = range_.changed()
    for found in range_.workflows(paths):
        compiled = compile_workflow(found.path, found.content, found.read)
        if changed is None or changed & {found.path, *compiled.files}:
            yield found, compiled


def _as_step(found: WorkflowFile) -> Any:
    """Check the file of a composite step by compiling a workflow that uses it; errors of that workflow are left out."""
    from waterflowd.dsl import Compiled, compile_workflow

    workflow = json.dumps({"jobs": {"a": {"runs-on": "a", "steps": [{"uses": f"./{found.path}"}]}}}).encode()
    answer = compile_workflow("", workflow, lambda path: found.content if path == found.path else found.read(path))
    errors = [error for error in answer.diagnostics if error.path]
    return Compiled(plan=None, diagnostics=errors, warnings=answer.warnings, files=answer.files)


def _with_daemon_errors(client: Client, repository: str, found: WorkflowFile, compiled: Any) -> Any:
    """Return what the daemon says of a workflow without errors: the configuration and the servers may have some."""
    from waterflowd.dsl import Compiled
    from waterflowd.dsl.reporting.diagnostics import from_row

    used = {path: content.decode() for path in compiled.files if (content := found.read(path)) is not None}
    sent = {"yaml": found.content.decode(), "path": found.path, "repository": repository, "files": used}
    try:
        client.post("/v1/validate", sent)
    except Refused as error:
        if not error.content.get("errors"):
            raise
        errors = [from_row(row) for row in error.content["errors"]]
        return Compiled(plan=None, diagnostics=errors, warnings=compiled.warnings, files=compiled.files)
    return compiled


class _Diagnostics:
    """The diagnostics so far; those of a file that several workflows share are kept once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.files = 0
        self._broken: set[str] = set()

    def add(self, found: WorkflowFile, compiled: Any) -> list[dict[str, Any]]:
        """Add the diagnostics of one file; return the new ones."""
        from waterflowd.dsl.reporting.diagnostics import as_row

        self.files += 1
        if compiled.diagnostics:
            self._broken.add(found.path)
        rows = [as_row(each) for each in (*compiled.diagnostics, *compiled.warnings)]
        displayed = [row | {"path": found.display_path(str(row["path"]))} for row in rows]
        new = [row for row in displayed if row not in self.rows]
        self.rows += new
        return new

    @property
    def errors(self) -> int:
        """The number of diagnostics that are not warnings."""
        return sum(1 for row in self.rows if row.get("severity") != "warning")

    def summarise(self) -> None:
        """Print one line if there are errors or warnings, or no files."""
        warnings = len(self.rows) - self.errors
        if self.errors:
            click.echo(
                f"error: {count(self.errors, 'error')} in {len(self._broken)} of {count(self.files, 'file')}", err=True
            )
        elif warnings:
            click.echo(f"warning: {count(warnings, 'warning')} in {count(self.files, 'file')}", err=True)
        elif not self.files:
            click.echo("no workflow changed")


def _print_sarif(rows: list[dict[str, Any]]) -> None:
    from waterflowd.ctl.validation.sarif import sarif_text
    from waterflowd.dsl.reporting.codes import CODES

    click.echo(sarif_text(rows, CODES))
