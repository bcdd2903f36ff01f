"""`workflow_run` triggers: which completed runs start which files.

Rules of this file:

- Only runs of the same repository count. The started file is the one of the default ref, at its applied commit, whatever ref
  the completed run was for.
- A completed run starts a file once: the trigger key contains both. Runs that completed before the file had the trigger start
  nothing.
- The started run acts for the principal that started the completed one, within the groups of that principal's token.
- A chain of runs that trigger each other ends after `CHAIN_MAX` runs, so that workflows with a cycle do not run forever.
"""

from __future__ import annotations

from typing import Any

from waterflowd.model import chains, ids
from waterflowd.model.ids import RunId
from waterflowd.model.plan import WorkflowRunTrigger
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import globs, ref_updates, refs
from waterflowd.reconcile.state import FileState, RefState

#: Runs in a chain of triggers.
CHAIN_MAX = 5
KIND = chains.AFTER


def triggered_files(ref: RefState | None) -> dict[str, FileState]:
    """The files of the default ref that have a `workflow_run` trigger and no errors, by path."""
    files = ref.files if ref is not None else {}
    return {path: file for path, file in sorted(files.items()) if file.workflow_run is not None and not file.is_broken}


def is_triggered(trigger: WorkflowRunTrigger, path: str, row: RunSummary) -> bool:
    """Whether the completed run starts the file at `path`."""
    if row.path == path or row.conclusion is None:
        return False
    if row.name not in trigger.workflows and row.path not in trigger.workflows:
        return False
    if trigger.conclusions and row.conclusion.value not in trigger.conclusions:
        return False
    return _is_branch_selected(trigger, row.trigger.ref)


def _is_branch_selected(trigger: WorkflowRunTrigger, ref: str | None) -> bool:
    if not (trigger.branches or trigger.branches_ignore):
        return True
    branch = refs.branch_of(ref) if ref is not None else None
    if branch is None:
        return False
    is_selected = not trigger.branches or globs.selects(trigger.branches, branch)
    return is_selected and not globs.selects(trigger.branches_ignore, branch)


def trigger_key(run: RunId, path: str) -> str:
    """The key under which a completed run starts a file once; a long one ends in a hash."""
    return ids.trigger_key(f"workflow-run:{run}", path)


def event_of(row: RunSummary, depth: int) -> dict[str, Any]:
    """The `event` context: the completed run."""
    return {
        "name": KIND,
        KIND: {
            "id": row.id,
            "number": row.number,
            "name": row.name,
            "path": row.path,
            "conclusion": row.conclusion.value if row.conclusion is not None else None,
            "event": row.trigger.kind.value,
            "ref": row.trigger.ref,
            "branch": refs.branch_of(row.trigger.ref) if row.trigger.ref is not None else None,
            "revision": row.revision,
            "depth": depth,
        },
    }


def start_request(plan: bytes, repository: str, ref: RefState, path: str, row: RunSummary, depth: int) -> StartRequest:
    """The request that starts the file at `path` after a completed run, at the applied commit."""
    return StartRequest(
        plan=plan,
        repository=repository,
        revision=ref.commit,
        trigger=Trigger(
            kind=TriggerKind.WORKFLOW_RUN,
            by=f"run:{row.id}",
            principal=row.trigger.principal,
            scope=row.trigger.scope,
            key=trigger_key(row.id, path),
            ref=ref.ref,
            git=ref_updates.git_context(repository, ref.ref, ref.commit, ref.author, ref.message),
            payload=event_of(row, depth),
        ),
    )
