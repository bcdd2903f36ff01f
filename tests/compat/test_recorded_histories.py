"""Recorded histories of every release: the shell of a later one must still replay them, and no turn may run.

A replayer has no activities, so a turn could not run. A history that no longer replays means that the shell changed what it
does without `workflow.patched`: open runs would be stuck after an upgrade.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

import waterflowd
from tests.compat import record_histories
from tests.integration.temporal.server import KEYS
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.workflow import shell

FILES = sorted(record_histories.HISTORIES.glob("*.json.gz"))


def _history(file: Path) -> WorkflowHistory:
    text = gzip.decompress(file.read_bytes()).decode()
    # Payloads open only for the workflow that they were sealed for.
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)


def _replayer() -> Replayer:
    return Replayer(workflows=[shell.Stream], data_converter=converter.data_converter(KEYS))


@pytest.fixture
def recorded_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits at the time of the recording."""
    record_histories.set_limits(lambda name, value: monkeypatch.setattr(shell, name, value))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".json.gz"))
@pytest.mark.usefixtures("recorded_limits")
async def test_a_recorded_history_replays(file: Path) -> None:
    """Every command of the shell is the one in the history."""
    result = await _replayer().replay_workflow(_history(file), raise_on_replay_failure=False)
    assert result.replay_failure is None


async def test_a_change_of_the_shell_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other limits the shell continues as new later than the history says."""
    [file] = [file for file in FILES if file.name.startswith(f"{waterflowd.__version__}-first-execution")]
    result = await _replayer().replay_workflow(_history(file), raise_on_replay_failure=False)
    assert "Nondeterminism" in str(result.replay_failure)


def test_the_limits_are_those_of_every_release() -> None:
    """A history of thousands of events is too large to be kept here; a change of these needs `workflow.patched`."""
    limits = (shell.INPUTS_MAX, shell.OPEN_MAX, shell.TASK_MAX, shell.HISTORY_EVENTS_MAX, shell.HISTORY_BYTES_MAX)
    assert limits == (200, 1000, 100, 4096, 4 << 20)


def test_this_release_has_recorded_histories() -> None:
    """Run `tests/compat/record_histories.py` before a release."""
    assert [file for file in FILES if file.name.startswith(f"{waterflowd.__version__}-")]
