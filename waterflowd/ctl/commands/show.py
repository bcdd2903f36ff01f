"""`show` and `why`: the state of a run, and its reasons."""

from __future__ import annotations

from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.commands.report import print_reports
from waterflowd.ctl.display import artifact_lines, marked_lines, pending_approvals, run_parts, run_tree, summaries
from waterflowd.ctl.display.terminal import localized, now_ms, style, terminal_columns, time_text, wrapped
from waterflowd.ctl.failures import Refused
from waterflowd.ctl.live_values import completing
from waterflowd.ctl.options import client_of, count, json_option, print_json, print_json_list
from waterflowd.ctl.references import checked_part, find

#: Names of skipped parts on the screen of `why`.
_SKIPPED_MAX = 12


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.option("--at", type=click.IntRange(min=1), metavar="SEQ", help="Show the state after this event.")
@json_option
@click.pass_context
def show(context: click.Context, run: str, at: int | None, as_json: bool) -> None:
    """Show a run with its jobs and steps."""
    client = client_of(context)
    found, part = find(client, run)
    if at is not None:
        found = client.get(run_path(found["id"]), at=at)
    if part is not None:
        _show_part(client, found, part, at, as_json=as_json)
        return
    if as_json:
        print_json([found])
        return
    for line in run_tree.lines(found, now_ms() if at is None else None, columns=terminal_columns()):
        click.echo(line)
    for text in _facts(found):
        click.echo(style(wrapped(escape_for_display(text), 2), "bright_black"))
    for line in marked_lines.lines(found):
        click.echo(line)
    for line in summaries.lines(found):
        click.echo(line)
    print_reports(client, found, at)
    if at is None:
        # Approvals that were pending at an earlier time can no longer be decided.
        for line in pending_approvals.lines(found):
            click.echo(wrapped(line, 2))
        for line in artifact_lines.lines(found["id"], _artifacts(client, found["id"])):
            click.echo(wrapped(line, 2))
    if found["conclusion"] not in (None, "success", "skipped"):
        for verb in ("why", "logs", "rerun --failed"):
            click.echo(f"next: waterflowctl {verb} {found['id']}")


def _artifacts(client: Client, run: str) -> list[dict[str, Any]]:
    """The artifacts of a run; none on an engine that has none."""
    try:
        rows: list[dict[str, Any]] = client.get(run_path(run, "/artifacts"))["artifacts"]
    except Refused as error:
        if error.status == 404:
            return []
        raise
    return rows


def _show_part(client: Client, run: dict[str, Any], part: str, at: int | None, *, as_json: bool) -> None:
    """Show only a job, or a step of it."""
    job, step = checked_part(run, part, "show")
    if step is not None and not summaries.is_complete(step):
        job = client.get(run_path(run["id"]), part=part, at=at)["jobs"][0]
        step = job["steps"][0]
    if as_json:
        print_json([job if step is None else step])
        return
    for line in run_tree.part_lines(run, job, step, now_ms(), terminal_columns()):
        click.echo(line)
    for line in marked_lines.part_lines(job, step):
        click.echo(line)
    for line in summaries.part_lines(job, step):
        click.echo(line)


def _facts(run: dict[str, Any]) -> list[str]:
    trigger = run["trigger"]
    by = f" by {trigger['by']}" if trigger["by"] else ""
    ref = f" on {trigger['ref']}" if trigger["ref"] else ""
    facts = [f"{trigger['kind']}{by}{ref}, created {time_text(run['created_at'])}, seq {run['seq']}"]
    facts += _rights(trigger)
    if run.get("rerun_of"):
        reused = run.get("reused")
        text = (
            f", reused {count(reused['jobs'], 'job')} and {count(reused['steps'], 'step')}"
            if reused and (reused["jobs"] or reused["steps"])
            else ""
        )
        facts.append(f"re-run of {run['rerun_of']}{text}")
    parent = run.get("parent_run")
    if parent:
        facts.append(f"child run of step {parent['job']}/{parent['step']} of run {parent['run']}")
    return facts


def _rights(trigger: dict[str, Any]) -> list[str]:
    """Return for whom the run acts, where `by` does not say it. Responses of older daemons have neither field."""
    principal, scope = trigger.get("principal"), trigger.get("scope")
    facts = []
    if principal is not None and principal != trigger["by"]:
        facts.append(f"acts for {principal}")
    if scope is not None:
        facts.append(f"may only use the groups {', '.join(scope)}" if scope else "may use no group")
    return facts


@click.command()
@click.argument("run", shell_complete=completing("runs"))
@click.argument("part", required=False, metavar="[JOB[/STEP]]")
@json_option
@click.pass_context
def why(context: click.Context, run: str, part: str | None, as_json: bool) -> None:
    """Explain why a run is waiting, or why it failed.

    With a part, explain what it waits for, down to what must happen first.
    """
    client = client_of(context)
    found, part = find(client, run, part)
    if part is not None:
        checked_part(found, part, "why")
        _print_chain(client.get(run_path(found["id"], "/why"), place=part)["chain"], as_json=as_json)
        return
    reasons = list(run_parts.reasons(found))
    if as_json:
        print_json_list({"part": row.part, "state": row.state, "text": row.text} for row in reasons)
        return
    if not reasons:
        click.echo(f"all jobs of {found['id']} succeeded")
        return
    _print_reasons(reasons)
    for line in pending_approvals.lines(found):
        click.echo(line)
    if found["conclusion"] not in (None, "success", "skipped"):
        click.echo(f"next: waterflowctl logs {found['id']}")


def _print_reasons(reasons: list[run_parts.PartReason]) -> None:
    """Print each reason once, and the names of what was skipped because of a failure."""
    for row in reasons:
        if not row.is_repeated:
            text = f"{escape_for_display(row.part)}: {row.state}: {escape_for_display(localized(row.text))}"
            click.echo(wrapped(text, 2))
    skipped = [row.part for row in reasons if row.is_repeated and row.state == "skipped"]
    if skipped:
        more = f" and {len(skipped) - _SKIPPED_MAX} more" if len(skipped) > _SKIPPED_MAX else ""
        click.echo(wrapped(f"skipped as a result: {escape_for_display(', '.join(skipped[:_SKIPPED_MAX]))}{more}", 2))


def _print_chain(links: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json_list(links)
        return
    for link in links:
        until = f" (until {time_text(link['until'])})" if link["until"] else ""
        text = (
            f"{escape_for_display(link['place'] or 'run')}: {link['state']}: {escape_for_display(link['text'])}{until}"
        )
        click.echo(wrapped(text, 2))
    if links and links[-1]["next"]:
        click.echo(f"next: {escape_for_display(links[-1]['next'])}")
