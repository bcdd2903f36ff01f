"""The screen of `status`: problems, repositories, agents, what runs and waits, recent failures, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display import pending_approvals
from waterflowd.ctl.display.terminal import (
    counted_down,
    duration_text,
    glyph,
    localized,
    millis,
    span_text,
    style,
    time_text,
    wrapped,
)
from waterflowd.ctl.options import count

#: Rows of a section, so that everything fits on one screen.
_ROWS = 8
#: How long a changed boot is shown.
_NEW_BOOT_MS = 24 * 3_600_000


def lines(found: dict[str, Any], at_ms: int) -> Iterator[str]:
    """Yield the lines of the screen for an answer of the API, as it is at this time of this machine (ms)."""
    daemon = found["daemon"]
    up = duration_text((millis(daemon["now"]) or 0) - (millis(daemon["started_at"]) or 0))
    word = style(found["status"], "green" if found["status"] == "healthy" else "red", is_bold=True)
    yield (f"waterflowd {daemon['version']}: {word}, up {up}, {count(found['open_runs'], 'open run')}")
    for text in found["problems"]:
        yield from (style(line, "red") for line in wrapped(f"  ! {escape_for_display(localized(text))}", 4).split("\n"))
    yield from _section("repositories", [_repository(row, found["problems"]) for row in found["repositories"]])
    total = found["agents_total"]
    # Responses of older daemons count only the agents that they list.
    listed = sum(row["status"] == "connected" for row in found["agents"])
    connected = found.get("agents_connected", listed)
    # Those that somebody may want to look at come first.
    rows = sorted(found["agents"], key=lambda row: row["text"] == "connected")
    agents = [_agent(row, found["problems"], at_ms) for row in rows]
    yield from _section(f"agents ({connected} of {total} connected)", agents, total)
    yield from _section(
        "pending agents", [escape_for_display(f"{row['name']}: {row['text']}") for row in found["pending"]]
    )
    yield from _section("running", [_run(row, at_ms) for row in found["running"]])
    # Responses of older daemons have neither approvals nor schedules.
    yield from _section("pending approvals", [_approval(row) for row in found.get("approvals", [])])
    yield from _section("waiting", [_waiting(row, at_ms) for row in found["waiting"]])
    yield from _section("recent failures", [_run(row, at_ms) for row in found["failed"]])
    yield from _section("next scheduled runs", [_schedule(row) for row in found.get("schedules", [])])
    yield from _section("next steps", _next_steps(found))


def _next_steps(found: dict[str, Any]) -> list[str]:
    """What the daemon lacks, and how to add it."""
    steps = []
    if not found["repositories"]:
        steps.append("no repositories: waterflowctl repositories add NAME URL, or [[repositories]] in waterflowd.toml")
    if not found["agents_total"] and not found["pending"]:
        steps.append(
            "no agents: waterflowctl agents tokens create --group GROUP, and give the token to the agent of a server"
        )
    # Responses of older daemons do not say it.
    if not found.get("audit", {}).get("sealed", True):
        steps.append("the audit trail is not sealed: waterflowd audit-key FILE, and set audit.key-file to FILE")
    return steps


def _section(title: str, rows: list[str], total: int = 0) -> Iterator[str]:
    """Yield the first rows, and how many there are in all: `total`, where the response has only some of them."""
    if not rows:
        return
    yield style(title, is_bold=True)
    for row in rows[:_ROWS]:
        yield from wrapped(f"  {row}", 4).split("\n")
    if len(rows) > _ROWS:
        yield f"  ... and {max(len(rows), total) - _ROWS} more"


def _repository(row: dict[str, Any], problems: list[str]) -> str:
    words = [word for word in ("fetched", "attempted", "applied") if row[f"revision_{word}"]]
    if len({row[f"revision_{word}"] for word in words}) == 1:
        # Usually all of them are the same commit; the word says how far it came.
        del words[:-1]
    revisions = "  ".join(f"{word} {escape_for_display(str(row[f'revision_{word}'])[:10])}" for word in words)
    sign = glyph("completed", "success" if row["status"] == "ready" else "failure")
    fetched = f"  fetched at {time_text(row['fetched_at'])}" if row["fetched_at"] else ""
    # What is among the problems is not repeated.
    is_shown = row["status"] == "ready" or any(row["text"] in problem for problem in problems)
    text = "" if is_shown else f"  {escape_for_display(row['text'])}"
    # Responses of older daemons have no quotas. One that is used up is among the problems.
    near = [quota for quota in row.get("quotas", []) if quota["text"] and not quota["exceeded"]]
    quotas = "".join(style(f"  {escape_for_display(quota['text'])}", "yellow") for quota in near)
    return f"{sign} {escape_for_display(row['name'])}  {revisions or 'no commits yet'}{fetched}{text}{quotas}"


def _agent(row: dict[str, Any], problems: list[str], at_ms: int) -> str:
    is_connected = row["status"] == "connected"
    sign = glyph("completed", "success" if is_connected else "lost")
    is_as_usual = row["text"] == "connected"
    slots = f"{row['slots_busy']}/{row['slots']} slots busy" if is_as_usual else escape_for_display(row["text"])
    if not is_connected:
        # What is among the problems is not repeated.
        is_shown = any(row["text"] in problem for problem in problems)
        slots = "not connected" if is_shown else escape_for_display(row["text"])
    changed_at = millis(row.get("boot_changed_at"))
    is_new = changed_at is not None and at_ms - changed_at < _NEW_BOOT_MS
    boot = style(f"  new boot at {time_text(row['boot_changed_at'])}", "yellow") if is_new else ""
    return f"{sign} {escape_for_display(row['name'])}  {escape_for_display(', '.join(row['groups']))}  {slots}{boot}"


def _run(row: dict[str, Any], at_ms: int) -> str:
    sign = glyph(row["status"], row["conclusion"])
    span = span_text(row["started_at"], row["completed_at"], at_ms)
    # Responses of older daemons do not say what failed first.
    first = row.get("first_failure")
    text = f"{first['place']}: {first['reason']['text']}" if first else row["reason"]["text"]
    is_obvious = row["status"] == "running" and row["reason"]["code"] == "started" and not first
    reason = "" if is_obvious else "  " + style(escape_for_display(localized(text)), "bright_black")
    return f"{sign} {escape_for_display(row['name'])} #{row['number']}  {span}  {row['id']}{reason}"


def _schedule(row: dict[str, Any]) -> str:
    if row["waiting"]:
        text = escape_for_display(f"{row['name']} of {time_text(row['waiting'][0])}: {row['text']}")
        return f"{glyph('waiting', None)} {text}"
    text = escape_for_display(f"{row['name']}  {time_text(row['next'][0])}  {row['cron']}")
    return f"{glyph('queued', None)} {text}"


def _approval(row: dict[str, Any]) -> str:
    name, sentence = escape_for_display(row["name"]), pending_approvals.sentence(row)
    part = style(escape_for_display(pending_approvals.part_of(row)), "yellow")
    command = f"next: waterflowctl approve {row['run']} {pending_approvals.argument(row)}"
    return f"{glyph('waiting', None)} {name} {part} {sentence}\n    {style(command, 'bright_black')}"


def _waiting(row: dict[str, Any], at_ms: int) -> str:
    part = f" {pending_approvals.part_of(row)}" if row["job"] else ""
    # Responses of older daemons do not say until when.
    reason = counted_down(localized(row["reason"]["text"]), row.get("until"), at_ms)
    name = escape_for_display(f"{row['name']}{part}")
    return f"{glyph('waiting', None)} {name}  {row['run']}  {escape_for_display(reason)}"
