"""The `github` and `runner` contexts: what GitHub's names mean for a run here, and the variables of the same name in scripts.

Rules of this file: a field has a value that is true here, or it does not exist. Paths are references, which the agent fills in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from waterflow_agent import server_paths
from waterflowd import expr
from waterflowd.engine.state.blocks import COMPOSITE, Block
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import JobId
from waterflowd.model.records import TriggerKind

#: GitHub's names of the events that have one there.
_DISPATCH = "workflow_dispatch"
_EVENT_NAMES = {
    TriggerKind.MANUAL.value: _DISPATCH,
    TriggerKind.CLI.value: _DISPATCH,
    TriggerKind.API.value: _DISPATCH,
    TriggerKind.PARENT_RUN.value: _DISPATCH,
}
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "windows": "Windows"}
_ARCHITECTURES = {
    **dict.fromkeys(("x86_64", "amd64"), "X64"),
    **dict.fromkeys(("aarch64", "arm64"), "ARM64"),
    **dict.fromkeys(("i386", "i486", "i586", "i686"), "X86"),
    **dict.fromkeys(("arm", "armv6l", "armv7l", "armv8l"), "ARM"),
}
#: Kinds of triggers without a person, where the author of the commit is the best answer, as on GitHub.
_BY_COMMIT = (TriggerKind.PUSH.value, TriggerKind.SCHEDULE.value)


class WithPaths(Mapping[str, object]):
    """A context in which some names are references to paths. They are not listed, so that nothing is computed with them."""

    def __init__(self, values: Mapping[str, object], paths: Mapping[str, str]) -> None:
        self._values = values
        self._paths = paths

    def __getitem__(self, name: str) -> object:
        path = self._paths.get(name.lower())
        return path if path is not None else self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def context(run: Run, job: JobId | None, folder: str | None = None) -> Mapping[str, object]:
    """The `github` context of a part of the run; in a composite step, `folder` is the one of its file, see `action_folder`."""
    values = {**_facts(run), "job": job, "event": _event(run)}
    paths = {"workspace": server_paths.reference(server_paths.WORKSPACE)}
    if folder is not None:
        paths["action_path"] = f"{paths['workspace']}/{folder}" if folder != "." else paths["workspace"]
    return WithPaths(values, paths)


def action_folder(job: Job, block: Block) -> str | None:
    """The folder of the file of the composite step around the block, from the job's directory; None if there is none."""
    owner = block.owner
    while owner is not None and owner.plan.node != COMPOSITE:
        owner = owner.block.owner
    if owner is None or not owner.plan.folder:
        return None
    checkout = next((checkout for checkout in job.plan.checkouts if not checkout.repository), None)
    folders = (checkout.path if checkout is not None else "", owner.plan.folder)
    return "/".join(folder for folder in folders if folder not in ("", ".")) or "."


def runner(agent: Mapping[str, object]) -> dict[str, object]:
    """What `runner` calls differently from `agent`, of a job's server."""
    system, architecture = str(agent.get("os") or ""), str(agent.get("arch") or "")
    return {
        "os": _SYSTEMS.get(system, system),
        "arch": _ARCHITECTURES.get(architecture, architecture),
        "environment": "self-hosted",
    }


def facts_for_scripts(run: Run, job: Job, block: Block) -> dict[str, str]:
    """Facts for the variables of GitHub's names in the scripts of a block, without empty ones and those that its agent derives.

    They are part of each attempt, so on Temporal they are stored several times for each step.
    """
    facts, server = _facts(run), runner(job.agent_facts)
    names = ("sha", "ref", "repository", "run_number", "event_name", "actor", "workflow")
    found = {name: expr.to_text(facts[name]) for name in names} | {"os": str(server["os"]), "arch": str(server["arch"])}
    found["action_path"] = action_folder(job, block) or ""
    return {name: text for name, text in found.items() if text}


def _facts(run: Run) -> dict[str, Any]:
    git = run.trigger.git
    full_name = str(git.get("full-name") or git.get("repository") or "")
    branch, tag = git.get("branch") or "", git.get("tag") or ""
    actor = _actor(run)
    return {
        "sha": git.get("sha") or "",
        "ref": git.get("ref") or "",
        "ref_name": branch or tag,
        "ref_type": "branch" if branch else "tag" if tag else "",
        "head_ref": "",
        "base_ref": "",
        "repository": full_name,
        "repository_owner": full_name.rpartition("/")[0],
        "event_name": _event_name(run),
        "run_id": run.id,
        "run_number": run.number,
        "run_attempt": 1,
        "workflow": run.plan.name,
        "workflow_sha": git.get("sha") or "",
        "actor": actor,
        "triggering_actor": actor,
    }


def _kind(run: Run) -> str:
    """What first started the run, also for a re-run of it."""
    name = run.trigger.payload.get("name") if run.trigger.kind is TriggerKind.RERUN else None
    return str(name) if name else run.trigger.kind.value


def _event_name(run: Run) -> str:
    kind = _kind(run)
    return _EVENT_NAMES.get(kind, kind)


def _actor(run: Run) -> str:
    """The person behind the run, as far as anyone is known."""
    if run.trigger.principal:
        return run.trigger.principal
    return str(run.trigger.git.get("author") or "") if _kind(run) in _BY_COMMIT else ""


def _event(run: Run) -> dict[str, object]:
    """The payload, with what GitHub's payloads of the same event have and is known here."""
    git = run.trigger.git
    event: dict[str, object] = {key: value for key, value in run.trigger.payload.items() if key != "name"}
    if git:
        full_name = str(git.get("full-name") or git.get("repository") or "")
        owner, _, name = full_name.rpartition("/")
        event.setdefault("ref", git.get("ref"))
        event.setdefault("repository", {"name": name, "full_name": full_name, "owner": {"login": owner}})
    if _kind(run) == TriggerKind.PUSH.value:
        author = {"name": git.get("author")}
        event.setdefault("head_commit", {"id": git.get("sha"), "message": git.get("message"), "author": author})
        if before := event.get("before"):
            # A new ref has no commit before, which Git writes as zeros. A deleted ref starts nothing.
            event |= {"created": not str(before).strip("0"), "deleted": False}
    if _event_name(run) == _DISPATCH:
        # On GitHub they are text, whatever their type.
        event["inputs"] = {name: expr.to_text(value) for name, value in run.inputs.items()}
    return event
