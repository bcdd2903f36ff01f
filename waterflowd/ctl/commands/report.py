"""`report`: the tables that the jobs of a run have made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.report_tables import print_report
from waterflowd.ctl.failures import REFUSED, USAGE, Failure
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, json_option, print_json_list
from waterflowd.ctl.references import find

#: Reports, and rows of each, that commands print which are about a run as a whole.
_REPORTS_SHOWN = 3
_ROWS_SHOWN = 20


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("job", required=False, metavar="[JOB]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="The format; `json` is the same as --json.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to this file; for markdown and csv.")
@json_option
@click.pass_context
def report(context: click.Context, run: str, job: str | None, form: str, output: str | None, as_json: bool) -> None:
    """Show the reports of a run: a row for each server or matrix combination.

    With JOB, show only the report of that job.
    """
    if as_json:
        form = "json"
    if output is not None and form not in ("markdown", "csv"):
        raise Failure(USAGE, "--output needs --format markdown or csv", "add --format")
    client = client_of(context)
    found, job = find(client, run, job)
    if form in ("markdown", "csv"):
        _write(list(_texts(client, found, job, form)), output)
        return
    reports = [_whole(client, found["id"], name) for name in _jobs(client, found, job)]
    if form == "json":
        print_json_list(reports)
        return
    for each in reports:
        print_report(each)


def print_reports(client: Client, run: dict[str, Any], at: int | None = None) -> None:
    """Print the beginnings of the reports of a run, and how to see more."""
    # Responses of older daemons have none.
    names = run.get("reports", [])
    for name in names[:_REPORTS_SHOWN]:
        found = client.get(run_path(run["id"], "/report"), job=name, at=at, limit=_ROWS_SHOWN)
        print_report(found)
        more = found["rows_total"] - len(found["rows"])
        if more > 0:
            click.echo(f"  ... and {more} more rows")
            click.echo(f"  next: waterflowctl report {run['id']} {shlex.quote(escape_for_display(name))}")
    if len(names) > _REPORTS_SHOWN:
        click.echo(f"... and {len(names) - _REPORTS_SHOWN} more reports")
        click.echo(f"  next: waterflowctl report {run['id']}")


def _jobs(client: Client, run: dict[str, Any], job: str | None) -> list[str]:
    """Return the ids of the jobs whose reports are shown."""
    if job is not None:
        return [job]
    found = [row["job"] for row in client.pages(run_path(run["id"], "/reports"), "reports")]
    if not found:
        text = f"no job of run {run['id']} has a report"
        raise Failure(REFUSED, text, "add report: to a job of the workflow")
    return found


def _whole(client: Client, run: str, job: str) -> dict[str, Any]:
    """Return a report with all its rows."""
    path = run_path(run, "/report")
    whole: dict[str, Any] = client.get(path, job=job)
    page = whole
    while page["next"] is not None:
        page = client.get(path, job=job, cursor=page["next"])
        whole["rows"] += page["rows"]
    return {**whole, "next": None}


def _texts(client: Client, run: dict[str, Any], job: str | None, form: str) -> Iterator[str]:
    jobs = _jobs(client, run, job)
    if form == "csv" and len(jobs) > 1:
        names = escape_for_display(", ".join(jobs))
        command = f"waterflowctl report {run['id']} {shlex.quote(escape_for_display(jobs[0]))} --format csv"
        raise Failure(USAGE, f"a CSV file has one table, and these jobs have a report: {names}", command)
    for name in jobs:
        yield client.text(run_path(run["id"], "/report/text"), job=name, format=form)


def _write(texts: list[str], output: str | None) -> None:
    text = "\n".join(texts)
    if output is None or output == "-":
        click.echo(text, nl=False)
        return
    try:
        # Completely or not at all.
        with click.open_file(output, "w", encoding="utf-8", atomic=True) as file:
            file.write(text)
    except OSError as error:
        problem = f"cannot write {escape_for_display(output)}: {error.strerror or error}"
        raise Failure(REFUSED, problem, "see --output") from None
