"""Records histories of streams as this release writes them, for later releases: `python tests/compat/record_histories.py`.

It runs the shell on Temporal's real development server and writes `histories/<release>-<name>.json.gz`. Between them, the
histories contain everything that the shell does: signals, updates, timers, activities that succeed, fail and are cancelled,
signals to other streams, attributes, memos, a stall, a cancellation, a reset, and a new execution. Recordings of published
releases must never be changed.
"""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle

import waterflowd
from tests.integration.temporal import test_shell as harness
from tests.integration.temporal.server import Server, new_namespace
from tests.integration.temporal.toy_engine import ToyEngine, content
from waterflowd.temporal.workflow import messages, shell

HISTORIES = Path(__file__).parent / "histories"
#: Low limits, so that small histories reach them. `test_recorded_histories.py` sets them, too.
LIMITS = {"HISTORY_EVENTS_MAX": 60, "TASK_MAX": 5, "OPEN_MAX": 8}


async def record(client: Client) -> dict[str, str]:
    """The recorded histories by name, as JSON."""
    engine, agents = ToyEngine(), harness.Agents()
    async with harness.daemon(client, engine), agents.running(client):
        handle, other = await harness.start(client), await harness.start(client)
        await harness.send(handle, harness.timer("soon"), harness.timer("far", now=int(1e13)))
        await handle.execute_update(messages.REQUEST_UPDATE, content(), result_type=bytes)
        activities = [harness.schedule(f"a{number}", "echo") for number in range(12)]
        await harness.send(handle, *activities, harness.schedule("late", schedule_to_start_ms=1, queue="nobody"))
        await harness.until(lambda: engine.count(messages.ActivityCompleted) == 12, "the activities")
        await harness.send(handle, harness.schedule("cancelled", queue="nobody"))
        await harness.send(handle, messages.CancelActivity(id="cancelled"), messages.CancelTimer(id="far"))
        await harness.send(handle, messages.SendSignal(id="s1", workflow_id=other.id, content=harness.DONE))
        await harness.send(handle, messages.SendSignal(id="s2", workflow_id="run/none", content=harness.DONE))
        await harness.send(handle, messages.SetAttributes(values={"WaterflowNumber": 1, "WaterflowStatus": "running"}))
        await harness.send(handle, messages.SetMemo(name="row", content=b"row"))
        await harness.until(lambda: engine.count(messages.SignalNotDelivered) == 1, "the failed delivery")
        await other.result()
        engine.errors = [KeyError("state")] * 3
        await harness.send(handle)
        await harness.until(lambda: not engine.errors, "the failed turns")
        await harness.until_stalled(handle, "KeyError")
        await handle.signal(messages.RETRY_SIGNAL)
        await handle.cancel()
        newest: WorkflowHandle[Any, bytes] = client.get_workflow_handle(handle.id, result_type=bytes)
        while not [request for request in engine.requests if request.begins and request.seq]:
            taken = engine.count()
            await harness.send(newest)
            await harness.until(lambda taken=taken: engine.count() > taken, "its turn")  # type: ignore[misc]
        taken = engine.count()
        await harness.send(newest)
        await harness.until(lambda: engine.count() > taken, "a turn of the new execution")
        reset = await _reset(client, newest)
        await harness.until_stalled(newest, messages.RESET)
        await newest.signal(messages.RETRY_SIGNAL)
        await newest.signal(messages.INPUT_SIGNAL, harness.DONE)
        await newest.result()
        runs = {"first-execution": handle.result_run_id, "second-execution": reset, "after-a-reset": None}
        found = {name: (await harness.history(client, handle, run)).to_json() for name, run in runs.items()}
        return found | {"small": (await harness.history(client, other)).to_json()}


async def _reset(client: Client, handle: WorkflowHandle[Any, bytes]) -> str:
    """Resets the newest execution to its last task; returns the id of the execution before."""
    events = (await harness.history(client, handle)).events
    tasks = [event.event_id for event in events if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
    run_id = (await handle.describe()).run_id
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="a test",
            request_id=run_id,
            workflow_task_finish_event_id=tasks[-1],
        )
    )
    assert run_id is not None
    return run_id


async def main() -> None:
    """Records on a server of its own."""
    set_limits(lambda name, value: setattr(shell, name, value))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            namespace = await new_namespace(server)
            found = await record(await namespace.client())
        finally:
            server.close()
    HISTORIES.mkdir(exist_ok=True)
    for name, text in found.items():
        file = HISTORIES / f"{waterflowd.__version__}-{name}.json.gz"
        file.write_bytes(gzip.compress(text.encode(), mtime=0))


def set_limits(set_: Callable[[str, int], None]) -> None:
    """Sets the limits with which the histories were recorded."""
    for name, value in LIMITS.items():
        set_(name, value)


if __name__ == "__main__":
    asyncio.run(main())
