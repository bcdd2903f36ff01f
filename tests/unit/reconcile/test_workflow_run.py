"""Which completed runs start which files."""

from __future__ import annotations

from typing import Any

import pytest

from waterflowd.model import chains
from waterflowd.model.ids import run_id
from waterflowd.model.plan import WorkflowRunTrigger
from waterflowd.model.reasons import CREATED
from waterflowd.model.records import RunSummary, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile import workflow_run

RUN = run_id(1, 1)


def completed(ref: str | None = "refs/heads/main", conclusion: Conclusion = Conclusion.SUCCESS) -> RunSummary:
    return RunSummary(
        id=RUN,
        number=3,
        name="build",
        path="workflows/build.yml",
        repository="ops",
        trigger=Trigger(kind=TriggerKind.PUSH, ref=ref),
        status=Status.COMPLETED,
        conclusion=conclusion,
        reason=CREATED,
        created_at=1,
        seq=9,
    )


@pytest.mark.parametrize(
    ("trigger", "row", "expected"),
    [
        ({}, completed(), True),
        ({"workflows": ("workflows/build.yml",)}, completed(), True),
        ({"workflows": ("other",)}, completed(), False),
        ({"conclusions": ("success",)}, completed(), True),
        ({"conclusions": ("failure", "timed-out")}, completed(), False),
        ({"conclusions": ("failure", "timed-out")}, completed(conclusion=Conclusion.TIMED_OUT), True),
        ({"branches": ("main",)}, completed(), True),
        ({"branches": ("release/*",)}, completed(), False),
        ({"branches": ("**", "!main")}, completed(), False),
        ({"branches_ignore": ("main",)}, completed(), False),
        ({"branches_ignore": ("other",)}, completed(), True),
        ({"branches": ("**",)}, completed("refs/tags/v1"), False),
        ({"branches": ("**",)}, completed(None), False),
        ({}, completed(None), True),
    ],
)
def test_a_completed_run_starts_files_with_a_matching_trigger(
    trigger: dict[str, Any], row: RunSummary, expected: bool
) -> None:
    """It matches by name or path, conclusion, and branch."""
    requested = WorkflowRunTrigger(**{"workflows": ("build",), **trigger})
    assert workflow_run.is_triggered(requested, "workflows/deploy.yml", row) is expected


def test_a_file_never_starts_after_itself() -> None:
    """This holds even if its name becomes the one in its trigger."""
    assert not workflow_run.is_triggered(WorkflowRunTrigger(workflows=("build",)), "workflows/build.yml", completed())


def test_the_depth_of_a_chain_is_read_only_from_runs_of_a_chain() -> None:
    """The payload of a webhook or push cannot forge it."""
    chained = Trigger(kind=TriggerKind.WORKFLOW_RUN, payload=workflow_run.event_of(completed(), 4))
    assert chains.depth_of(chained) == 4
    assert chains.depth_of(Trigger(kind=TriggerKind.PUSH, payload={"name": "push"})) == 0
    forged = Trigger(kind=TriggerKind.WEBHOOK, payload={"name": "webhook", "workflow_run": {"depth": 9}})
    assert chains.depth_of(forged) == 0


def test_keys_fit_into_the_index_and_differ() -> None:
    """They differ by run and by file, however long the path is."""
    paths = ["workflows/a.yml", "w/" + "x" * 900 + "1.yml", "w/" + "x" * 900 + "2.yml"]
    keys = {workflow_run.trigger_key(RUN, path) for path in paths}
    assert len(keys) == 3
    assert f"workflow-run:{RUN}:workflows/a.yml" in keys
    assert all(len(key.encode()) <= 400 for key in keys)
