"""The parts of a run as the API returns them, flattened: jobs with their instances, steps with those in their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_FAILURES = frozenset({"failure", "timed-out", "lost"})


def all_jobs(jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the jobs, each before its instances."""
    for job in jobs:
        yield job
        yield from all_jobs(job.get("jobs") or [])


def all_steps(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the steps, each before the steps inside it."""
    for step in steps:
        yield step
        for block in step.get("blocks") or []:
            yield from all_steps(block["steps"])


def failed_steps(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the jobs and steps of attempts that failed, whose output is worth printing."""
    for job in all_jobs(run["jobs"]):
        for step in all_steps(job["steps"]):
            if step["conclusion"] in _FAILURES and step["attempts"]:
                yield job["id"], step["id"]


def failed_step(run: dict[str, Any]) -> tuple[str, str] | None:
    """Return the first of them, if there is one."""
    return next(failed_steps(run), None)


#: The reason of a part that failed because a part of it did.
FAILED_INSIDE = "failed"
#: Reasons of parts that were skipped because another part did not succeed.
_CONSEQUENCES = frozenset({"earlier-failure", "needs"})


def is_explained_below(part: dict[str, Any], below: Iterable[dict[str, Any]]) -> bool:
    """Return whether the reason of a part only repeats that of a part of it that is shown too."""
    return part["reason"]["code"] == FAILED_INSIDE and any(
        inner["conclusion"] not in (None, "success", "skipped") for inner in below
    )


class PartReason(NamedTuple):
    """Why a part is in its state; `is_repeated` if another part explains it."""

    part: str
    state: str
    text: str
    is_repeated: bool = False


def reasons(run: dict[str, Any]) -> Iterator[PartReason]:
    """Yield the reason of each part that is not completed or did not succeed."""
    above = run["reason"] if run["conclusion"] != "success" else None
    if run["conclusion"] != "success":
        yield _reason(run, "run", run["conclusion"] or run["status"], run["jobs"])
    for job in all_jobs(run["jobs"]):
        # A cancelled run, for example, is the reason of all of its parts.
        for row in _job_reasons(job):
            yield row._replace(is_repeated=True) if above is not None and row.text == above["text"] else row


def _job_reasons(job: dict[str, Any]) -> Iterator[PartReason]:
    below = [*job["steps"], *(job.get("jobs") or [])]
    if job["conclusion"] != "success":
        yield _reason(job, job["id"], job["conclusion"] or job["status"], below)
    elif job["outcome"] not in (None, "success"):
        yield _reason(job, job["id"], job["outcome"], below)
    has_started = job["status"] in ("running", "waiting", "completed") and job["conclusion"] != "skipped"
    for step in all_steps(job["steps"]) if has_started else ():
        outcome = step["outcome"] if step["conclusion"] == "success" else step["conclusion"]
        if outcome != "success" and step["status"] != "queued":
            inside = [inner for block in step.get("blocks") or [] for inner in block["steps"]]
            row = _reason(step, f"{job['id']}/{step['id']}", outcome or step["status"], inside)
            # A job that waits for a server has the reason of its step.
            is_same = step["status"] == "waiting" and step["reason"] == job["reason"]
            yield row._replace(is_repeated=True) if is_same else row
    hidden = job.get("jobs_total", 0) - len(job.get("jobs") or [])
    if hidden > 0:
        yield PartReason(job["id"], "more", f"{hidden} more instances are not listed")


def _reason(part: dict[str, Any], name: str, state: str, below: list[dict[str, Any]]) -> PartReason:
    is_consequence = part["conclusion"] == "skipped" and part["reason"]["code"] in _CONSEQUENCES
    return PartReason(name, state, part["reason"]["text"], is_consequence or is_explained_below(part, below))
