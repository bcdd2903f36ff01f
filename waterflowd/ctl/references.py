"""The run, and the part of it, that an argument names.

All commands take the same references: the id of a run or the beginning of one, `NAME` (the newest run of this workflow),
`NAME#NUMBER`, and each of these with `/JOB` or `/JOB/STEP`. A workflow's path works in place of its name. Names may contain
slashes, so the longest one that names a run wins; what follows it is the part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from waterflow_agent.display import quote
from waterflowd.ctl.client import Client, run_path
from waterflowd.ctl.display.run_parts import all_jobs, all_steps
from waterflowd.ctl.failures import REFUSED, Failure, Refused

METAVAR = "RUN"
#: Runs that are looked at for a number, newest first.
_NUMBERS_MAX = 10_000
#: Recent runs whose names are suggested for a misspelt one.
_NAMES_MAX = 100
_SLASHES_MAX = 40
_ID = re.compile(r"[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{1,26}")
_NUMBERED = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)


class Reference(NamedTuple):
    """A run as the API returns it, and `JOB[/STEP]` of it, or None for all of it."""

    run: dict[str, Any]
    part: str | None


def find(client: Client, text: str, part: str | None = None) -> Reference:
    """Return what `text` names; `part` was typed as an argument of its own. Ends the command with suggestions for no run."""
    for name, rest in _splits(text):
        run = _run(client, name)
        if run is None:
            continue
        if rest is not None and part is not None:
            part = f"{rest}/{part}"
        return Reference(run, part if rest is None or part is not None else rest)
    raise _unknown(client, text)


def find_run(client: Client, text: str, command: str) -> dict[str, Any]:
    """Return the run that `text` names, for a command that takes no part of one."""
    run, part = find(client, text)
    if part is not None:
        problem = f"{command} takes a whole run, and {quote(text, 80)} is a part of one"
        raise Failure(REFUSED, problem, f"waterflowctl {command} {run['id']}")
    return run


def checked_part(run: dict[str, Any], part: str, command: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the job and the step that `part` names; ends the command with suggestions if the run has no such part."""
    jobs = {job["id"]: job for job in all_jobs(run["jobs"])}
    end = len(part)
    while end > 0:
        job = jobs.get(part[:end])
        if job is not None:
            name = part[end + 1 :]
            steps = {step["id"]: step for step in all_steps(job["steps"])}
            if not name or name in steps:
                return job, steps.get(name)
            raise _missing("step", name, steps, f"{command} {run['id']} {job['id']}")
        end = part.rfind("/", 0, end)
    raise _missing("job", part.partition("/")[0], jobs, f"{command} {run['id']}")


def _missing(kind: str, name: str, known: Iterable[str], command: str) -> Failure:
    names = list(known)
    hint = did_you_mean(name, names)
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    text = f"{kind} {quote(name, 60)} not found{hint}; the {kind}s are: {listed or 'none yet'}"
    return Failure(REFUSED, text, f"waterflowctl {command}")


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the text as a whole, and split at each slash, from the last one."""
    yield text, None
    end = text.rfind("/")
    for _ in range(_SLASHES_MAX):
        if end <= 0:
            return
        yield text[:end], text[end + 1 :] or None
        end = text.rfind("/", 0, end)


def _run(client: Client, name: str) -> dict[str, Any] | None:
    """Return the run with this id, beginning of an id, name or name with number; None if there is none."""
    if _ID.fullmatch(name):
        try:
            found: dict[str, Any] = client.get(run_path(name))
        except Refused as error:
            if error.status != 404:
                raise
        else:
            return found
    numbered = _NUMBERED.fullmatch(name)
    for workflow, number in [(name, None)] + ([(numbered[1], int(numbered[2]))] if numbered else []):
        row = _newest(client, workflow, number)
        if row is not None:
            return dict(client.get(run_path(row["id"])))
    return None


def _newest(client: Client, name: str, number: int | None) -> dict[str, Any] | None:
    if len(name) > 300:
        return None
    rows = client.pages("/v1/runs", "runs", 1 if number is None else _NUMBERS_MAX, name=name)
    return next((row for row in rows if number is None or row["number"] == number), None)


def _unknown(client: Client, text: str) -> Failure:
    """Say what may have been meant: runs and workflows with similar names."""
    name = text.partition("#")[0]
    recent = client.get("/v1/runs", limit=_NAMES_MAX)["runs"]
    names = {row["name"]: None for row in recent}
    defined = islice(client.pages("/v1/definitions", "definitions"), 1_000)
    without_runs = {row["name"] for row in defined} - names.keys()
    if name in names and "#" in text:
        numbers = [row["number"] for row in recent if row["name"] == name]
        removed = _removed(client, text)
        if removed:
            return Failure(REFUSED, removed, f"waterflowctl runs --name {name}")
        return Failure(
            REFUSED,
            f"{quote(name, 60)} has no run {text.partition('#')[2]}; its newest is #{numbers[0]}",
            f"waterflowctl runs --name {name}",
        )
    if name in without_runs:
        return Failure(REFUSED, f"workflow {quote(name, 60)} has no runs yet", f"waterflowctl run {name}")
    hint = did_you_mean(name, [*names, *without_runs]) or did_you_mean(name.partition("/")[0], [*names, *without_runs])
    return Failure(REFUSED, f"run {quote(text, 60)} not found{hint}", "waterflowctl runs")


def _removed(client: Client, text: str) -> str:
    """Say when and why the run NAME#NUMBER was removed; empty if it was not."""
    numbered = _NUMBERED.fullmatch(text)
    if numbered is None:
        return ""
    rows = client.get("/v1/removed-runs", name=numbered[1][:300], number=int(numbered[2]))["removed_runs"]
    return "; ".join(
        f"run {quote(text, 60)} ({row['id']}) was removed at {row['removed_at']} by the retention rule {row['rule']}"
        for row in rows
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean "deploy"?`, or nothing if no known name is close."""
    spelled = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {quote(spelled[found[0]])}?" if found else ""
