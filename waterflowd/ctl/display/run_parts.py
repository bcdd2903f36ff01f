"""The parts of a run as the API returns them, flattened: jobs with their instances, steps with those in their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def failed_step(run: dict[str, Any]) -> tuple[str, str] | None:
    """Return the job and step of the first attempt that failed, whose output is worth printing."""
    for job in all_jobs(run["jobs"]):
        for step in all_steps(job["steps"]):
            if step["conclusion"] in _FAILURES and step["attempts"]:
                return job["id"], step["id"]
    return None


def reasons(run: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (part, state, reason) for each part that is not completed or did not succeed."""
    if run["conclusion"] != "success":
        yield "run", run["conclusion"] or run["status"], run["reason"]["text"]
    for job in all_jobs(run["jobs"]):
        yield from _job_reasons(job)


def _job_reasons(job: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if job["conclusion"] != "success":
        yield job["id"], job["conclusion"] or job["status"], job["reason"]["text"]
    elif job["outcome"] not in (None, "success"):
        yield job["id"], job["outcome"], job["reason"]["text"]
    has_started = job["status"] in ("running", "waiting", "completed") and job["conclusion"] != "skipped"
    for step in all_steps(job["steps"]) if has_started else ():
        outcome = step["outcome"] if step["conclusion"] == "success" else step["conclusion"]
        if outcome != "success" and step["status"] != "queued":
            yield f"{job['id']}/{step['id']}", outcome or step["status"], step["reason"]["text"]
    hidden = job.get("jobs_total", 0) - len(job.get("jobs") or [])
    if hidden > 0:
        yield job["id"], "more", f"{hidden} more instances are not listed"
