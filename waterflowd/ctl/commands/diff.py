"""`diff`: what differs between a run and the last good one, or another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from waterflow_agent.display import escape_for_display, quote, size_text
from waterflowd.ctl.client import run_path
from waterflowd.ctl.display.terminal import clean_line, duration_text, glyph, style, time_text, wrapped
from waterflowd.ctl.failures import REFUSED, Failure, Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json
from waterflowd.ctl.references import find_run

#: Rows of a section; `--json` has all that the daemon returns.
_ROWS = 20
#: Characters of a value.
_VALUE_MAX = 200
#: Digits of the digest of an artifact.
_DIGEST_SHOWN = 12
_TITLES = {"vars": "variables", "log": "output"}
_SIDES = ("before", "after")
_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("other", required=False, metavar="[RUN]", shell_complete=completing("runs"))
@json_option
@click.pass_context
def diff(context: click.Context, run: str, other: str | None, as_json: bool) -> None:
    """Show what differs between a run and the last good run of its workflow before it, or a second RUN."""
    client = client_of(context)
    found = find_run(client, run, "diff")
    against = find_run(client, other, "diff")["id"] if other is not None else None
    try:
        differences = client.get(run_path(found["id"], "/diff"), against=against)
    except Refused as error:
        if error.status != 404 or against is not None:
            raise
        problem = f"no run of {quote(found['path'], 80)} before this one has succeeded"
        raise Failure(REFUSED, problem, f"waterflowctl diff {found['id']} OTHER-RUN") from None
    if as_json:
        print_json([differences])
        return
    click.echo(wrapped(f"from {_named(differences['against'])}", 5))
    click.echo(wrapped(f"to   {_named(found)}", 5))
    for title, lines in _sections(differences):
        click.echo(style(title, is_bold=True))
        # The lines of a file are never broken or left out.
        shown = lines if title == "file" else [wrapped(f"  {line}", 4) for line in lines[:_ROWS]]
        for line in shown:
            click.echo(line)
        if len(lines) > len(shown):
            click.echo(f"  ... and {len(lines) - len(shown)} more; --json has them")


def _named(run: dict[str, Any]) -> str:
    name = escape_for_display(f"{run['name']} #{run['number']}")
    revision = f" @ {escape_for_display(run['revision'][:10])}" if run["revision"] else ""
    word = run["conclusion"] or run["status"]
    return f"{glyph(run['status'], run['conclusion'])} {name}{revision}  {word}  {time_text(run['created_at'])}  {run['id']}"


def _sections(found: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield what differs, what could not be compared, and the names of what is equal."""
    parts = {
        "commits": [*_commits(found)],
        "file": [*_file(found["file"])],
        "inputs": [_value(row) for row in found["inputs"]],
        "vars": [_value(row) for row in found["vars"]],
        "servers": [*_changed_names(found["servers"])],
        "steps": [_step(row) for row in found["steps"]],
        "reports": [line for row in found["reports"] for line in _report(row)],
        "artifacts": [line for row in found["artifacts"] or [] for line in _artifact(row)],
        "log": [*_line(found["log"])],
    }
    for name, lines in parts.items():
        if lines:
            yield _TITLES.get(name, name), lines
    unknown = found["unknown"]
    if unknown:
        yield "not compared", [escape_for_display(f"{_TITLES.get(name, name)}: {why}") for name, why in unknown.items()]
    equal = [_TITLES.get(name, name) for name, lines in parts.items() if not lines and name not in unknown]
    if equal:
        yield "equal", [", ".join(equal)]


def _commits(found: dict[str, Any]) -> Iterator[str]:
    for row in found["commits"] or []:
        yield escape_for_display(f"{row['id'][:10]}  {row['subject']}  ({row['author']})")
    if found["more_commits"]:
        yield "... and older ones"


def _file(text: str | None) -> Iterator[str]:
    for line in (text or "").splitlines():
        yield style(clean_line(line, has_colors=False), _COLORS.get(line[:1]))


def _value(row: dict[str, Any]) -> str:
    return f"{escape_for_display(row['name'])}: {_change(row)}"


def _change(row: dict[str, Any]) -> str:
    before, after = ("(none)" if row[key] is None else escape_for_display(str(row[key]), _VALUE_MAX) for key in _SIDES)
    return f"{before} -> {after}"


def _changed_names(row: dict[str, Any], what: str = "") -> Iterator[str]:
    for sign, names in (("+", row["added"]), ("-", row["gone"])):
        if names:
            yield style(f"{sign} {what}{escape_for_display(', '.join(names))}", _COLORS[sign])


def _report(row: dict[str, Any]) -> Iterator[str]:
    job = escape_for_display(row["job"])
    yield from _changed_names(row["columns"], f"{job}, column ")
    yield from _changed_names(row["rows"], f"{job}, row ")
    for cell in row["cells"]:
        yield f"{job}, {escape_for_display(cell['row'])}, {escape_for_display(cell['column'])}: {_change(cell)}"
    if row["cells_total"] > len(row["cells"]):
        yield f"{job}: {count(row['cells_total'] - len(row['cells']), 'more value')}"


def _artifact(row: dict[str, Any]) -> Iterator[str]:
    name = escape_for_display(row["name"])
    before, after = row["before"], row["after"]
    if before is None or after is None:
        sign = "+" if before is None else "-"
        yield style(f"{sign} {name}: {_facts(before or after)}", _COLORS[sign])
        return
    yield f"{name}: {_facts(before)} -> {_facts(after)}"
    files = row["files"]
    for file in files or []:
        sign = "+" if file["before"] is None else "-" if file["after"] is None else ""
        sizes = " -> ".join(size_text(file[key]) for key in _SIDES if file[key] is not None)
        yield style(f"  {sign or '~'} {escape_for_display(file['path'], _VALUE_MAX)}: {sizes}", _COLORS.get(sign))
    if files is None:
        yield "  files: not compared"
    elif not row["files_total"]:
        yield "  files: the same names and sizes, other content or permissions"
    elif row["files_total"] > len(files):
        yield f"  {count(row['files_total'] - len(files), 'more file')}"


def _facts(state: dict[str, Any]) -> str:
    digest = state["digest"].removeprefix("sha256:")[:_DIGEST_SHOWN]
    removed = ", removed" if state["is_removed"] else ""
    return f"{count(state['files'], 'file')}, {size_text(state['bytes'])}, {digest}{removed}"


def _step(row: dict[str, Any]) -> str:
    before, after = (_state(row[key], row[f"{key}_ms"]) for key in _SIDES)
    return f"{escape_for_display(row['place'])}: {before} -> {after}"


def _state(word: str | None, took_ms: int | None) -> str:
    if word is None:
        return "did not run"
    return word if took_ms is None else f"{word} in {duration_text(took_ms)}"


def _line(row: dict[str, Any] | None) -> Iterator[str]:
    if row is None:
        return
    yield f"{escape_for_display(row['place'])}, line {row['line']}"
    for sign, key in (("-", "before"), ("+", "after")):
        text = "(no line)" if row[key] is None else clean_line(row[key], has_colors=False)
        yield style(f"{sign} {text}", _COLORS[sign])
