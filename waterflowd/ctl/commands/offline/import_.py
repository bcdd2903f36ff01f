"""`import`: turn files of other systems into workflow files that validate."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import style, terminal_columns, wrapped
from waterflowd.ctl.failures import USAGE, Failure
from waterflowd.ctl.options import count, json_option, print_json_list

if TYPE_CHECKING:
    from waterflowd.importers.findings import Imported

#: System: the module that imports its files. In the order of the documentation.
IMPORTERS = {
    "github": "waterflowd.importers.github.workflows",
    "gitlab": "waterflowd.importers.gitlab.workflow",
    "ansible": "waterflowd.importers.ansible.playbooks",
    "jenkins": "waterflowd.importers.jenkins.pipelines",
    "rundeck": "waterflowd.importers.rundeck.workflows",
    "cron": "waterflowd.importers.crontab",
}
_COLORS = {"decision": "yellow", "change": None, "warning": "magenta", "refused": "red"}


@click.command("import")
@click.argument("path", metavar="FILE|DIR")
@click.option(
    "--from", "system", type=click.Choice(list(IMPORTERS)), help="The system; guessed where the file makes it obvious."
)
@click.option("--group", metavar="G", required=True, help="Group of servers for jobs whose file does not name one.")
@click.option(
    "--output", metavar="DIR", help="Where to write workflows/NAME.yml; default: .waterflow of the repository."
)
@click.option(
    "--timezone", metavar="ZONE", help="Time zone of schedules that use that of their server, such as Europe/Berlin."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print the findings and the names of the files.")
@json_option
@click.pass_context
def import_(
    context: click.Context,
    path: str,
    system: str | None,
    group: str,
    output: str | None,
    timezone: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn the files of another system into workflow files that validate; needs no daemon.

    Each place that needs a decision has a comment with DECIDE in the written file. Exits with 1 if a file cannot be imported.
    """
    from waterflowd.ctl.import_files import find_sources, origin_of, output_of, write_files

    sources = find_sources(path, system)
    if sources.system not in IMPORTERS:
        raise Failure(
            USAGE, f"{path} looks like a file of {sources.system}, which cannot be imported", "waterflowctl new"
        )
    folder = output_of(sources, output)
    origin = origin_of(sources, folder, group=group, timezone=timezone)
    imported: Imported = importlib.import_module(IMPORTERS[sources.system]).import_files(sources.paths, origin)
    if not dry_run:
        write_files(folder, imported.files, is_forced=force)
    if as_json:
        print_json_list(_rows(imported, folder))
    else:
        _print(imported, folder, is_dry=dry_run)
    context.exit(1 if imported.refused else 0)


def _rows(imported: Imported, folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"kind": "written", "path": file.source, "line": 0, "text": _shown(folder / file.path)}
        for file in imported.files
    ]
    rows += [
        {"kind": each.kind.value, "path": each.path, "line": each.line, "text": each.text} for each in imported.findings
    ]
    return [
        *rows,
        *({"kind": "refused", "path": each.path, "line": 0, "text": each.reason} for each in imported.refused),
    ]


def _print(imported: Imported, folder: Path, *, is_dry: bool) -> None:
    """Print the findings by source file, the written files, and the counts."""
    rows = [(each.path, each.line, each.kind.value, each.text) for each in imported.findings]
    rows += [(each.path, 0, "refused", each.reason) for each in imported.refused]
    for source in dict.fromkeys(row[0] for row in sorted(rows)):
        click.echo(style(escape_for_display(source), is_bold=True))
        for _, line, kind, text in sorted(row for row in rows if row[0] == source):
            _print_finding(line, kind, text)
    if rows and imported.files:
        click.echo()
    for file in imported.files:
        verb = "would write" if is_dry else "wrote"
        click.echo(f"{verb} {escape_for_display(_shown(folder / file.path))}  (from {escape_for_display(file.source)})")
    kinds = Counter(kind for _, _, kind, _ in rows)
    parts = [count(kinds[kind], kind) for kind in ("decision", "change", "warning")]
    click.echo(
        f"{count(len(imported.files), 'file')}, {count(len(imported.refused), 'refused file')}: {', '.join(parts)}"
    )
    if kinds["decision"] and imported.files and not is_dry:
        click.echo(f"  next: grep -rn DECIDE {escape_for_display(_shown(folder))}")


def _print_finding(line: int, kind: str, text: str) -> None:
    head = f"  {line or '-':>5}  {kind:<8}  "
    shown = escape_for_display(text)
    whole = wrapped(head + shown, len(head)) if terminal_columns() else head + shown
    click.echo(whole.replace(kind, style(kind, _COLORS[kind]), 1))


def _shown(path: Path) -> str:
    """Return a path as a user in this directory types it."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
