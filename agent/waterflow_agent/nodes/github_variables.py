"""The variables of scripts that have GitHub's names: from facts that the daemon sends, and from the attempt.

Rules of this file: each variable always has a value, empty where there is none, so that scripts with `set -u` work. Only
composite steps have the directory of their file, as on GitHub.
"""

from __future__ import annotations

import os

from waterflow_agent.wire import messages

#: Variables by the names of the facts that the daemon sends.
SENT = {
    "sha": "GITHUB_SHA",
    "ref": "GITHUB_REF",
    "repository": "GITHUB_REPOSITORY",
    "run_number": "GITHUB_RUN_NUMBER",
    "event_name": "GITHUB_EVENT_NAME",
    "actor": "GITHUB_ACTOR",
    "workflow": "GITHUB_WORKFLOW",
    "os": "RUNNER_OS",
    "arch": "RUNNER_ARCH",
}
_REF_TYPES = {"heads": "branch", "tags": "tag"}


def variables(task: messages.Task, agent: str) -> dict[str, str]:
    """Return the variables for a task on the agent of this name; each is also called `WATERFLOW_...`."""
    facts = task.facts
    _, kind, ref_name = (*facts.get("ref", "").split("/", 2), "", "")[:3]
    ref_type = _REF_TYPES.get(kind, "")
    found = {
        **{variable: facts.get(name, "") for name, variable in SENT.items()},
        "GITHUB_REF_NAME": ref_name if ref_type else "",
        "GITHUB_REF_TYPE": ref_type,
        "GITHUB_REPOSITORY_OWNER": facts.get("repository", "").rpartition("/")[0],
        "GITHUB_RUN_ID": task.key.attempt.run,
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_JOB": _plain_job(task.key.attempt.job),
        "RUNNER_NAME": agent,
    }
    return {**found, **{f"WATERFLOW_{name.partition('_')[2]}": value for name, value in found.items()}}


def in_composite_step(task: messages.Task, workspace: str) -> dict[str, str]:
    """Return the variables that only the steps of composite steps have: the directory of their file."""
    folder = task.facts.get("action_path")
    if not folder:
        return {}
    path = os.path.normpath(os.path.join(workspace, folder))
    return {"GITHUB_ACTION_PATH": path, "WATERFLOW_ACTION_PATH": path}


def _plain_job(job: str) -> str:
    """`build` for the instance `deploy/build[linux]` of a job of a called workflow."""
    return job.rpartition("/")[2].partition("[")[0]
