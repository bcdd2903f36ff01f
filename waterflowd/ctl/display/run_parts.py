"""The parts of a run as the API gives it, one after the other: jobs with what they have become, steps with what is inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FAILURES = frozenset({"failure", "timed-out", "lost"})


def all_jobs(jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The jobs, each before what it has become."""
    for job in jobs:
        yield job
        yield from all_jobs(job.get("jobs") or [])


def all_steps(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The steps, each before those inside of it."""
    for step in steps:
        yield step
        for block in step.get("blocks") or []:
            yield from all_steps(block["steps"])


def failed_step(run: dict[str, Any]) -> tuple[str, str] | None:
    """Job and step of the first attempt that failed: where there is output to look at."""
    for job in all_jobs(run["jobs"]):
        for step in all_steps(job["steps"]):
            if step["conclusion"] in _FAILURES and step["attempts"]:
                return job["id"], step["id"]
    return None


def reasons(run: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(place, state, sentence) of each thing that is not completed, or did not end well."""
    if run["conclusion"] != "success":
        yield "run", run["conclusion"] or run["status"], run["reason"]["text"]
    for job in all_jobs(run["jobs"]):
        yield from _of_job(job)


def _of_job(job: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if job["conclusion"] != "success":
        yield job["id"], job["conclusion"] or job["status"], job["reason"]["text"]
    elif job["outcome"] not in (None, "success"):
        yield job["id"], job["outcome"], job["reason"]["text"]
    is_begun = job["status"] in ("running", "waiting", "completed") and job["conclusion"] != "skipped"
    for step in all_steps(job["steps"]) if is_begun else ():
        outcome = step["outcome"] if step["conclusion"] == "success" else step["conclusion"]
        if outcome != "success" and step["status"] != "queued":
            yield f"{job['id']}/{step['id']}", outcome or step["status"], step["reason"]["text"]
    hidden = job.get("jobs_total", 0) - len(job.get("jobs") or [])
    if hidden > 0:
        yield job["id"], "more", f"{hidden} of what it has become are not shown here"
