"""Temporal's own command line shows a run of the real server readably, through the daemon's API."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.worker import Worker

from tests.integration.api.served import serve
from tests.integration.temporal import server
from tests.integration.temporal.server import KEYS, Namespace
from tests.lease_terms import TERMS
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.roles import Role
from waterflowd.dsl import compile_workflow
from waterflowd.engine import inputs
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids
from waterflowd.model.ids import AgentId
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.temporal import orders
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_decoder import PayloadDecoder
from waterflowd.temporal.workflow import messages, shell
from waterflowd.temporal.workflow.turns import StreamActivities

NOW = 1_700_000_000_000
STREAM = f"run/{ids.run_id(NOW, 1)}"
WORKFLOW = b"name: Deploy\njobs: {build: {runs-on: web, steps: [{id: test, run: make test}]}}"


def _engine() -> RunTurns:
    registry = Registry()
    registry.apply(
        fleet_events.AgentApproved(
            at=NOW, agent=AgentId("one"), name="web-1", groups=("web",), public_key="k", machine_id="m", by="t"
        )
    )
    return RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=600_000, terms=TERMS)


async def _show(namespace: Namespace, endpoint: str, token: str) -> tuple[int, str]:
    """What `temporal workflow show` prints."""
    process = await asyncio.create_subprocess_exec(
        *(str(server.program()), "workflow", "show", "--workflow-id", STREAM, "--output", "json"),
        *("--address", namespace.server.address, "--namespace", namespace.name),
        *("--codec-endpoint", endpoint, "--codec-auth", f"Bearer {token}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def _values(history: dict[str, Any], kind: str, *path: str) -> list[Any]:
    """The decoded payloads of all events of a kind, at this path inside of them."""
    found = []
    for event in history["events"]:
        if event["eventType"] == kind:
            value: Any = event
            for name in path:
                value = value[name]
            found += [json.loads(base64.b64decode(each["data"])) for each in value.get("payloads", [value])]
    return found


async def test_a_run_can_be_read_with_temporal_s_command_line(namespace: Namespace, tmp_path: Path) -> None:
    """Plan, start, facts, commands, orders and summaries; with a token, and recorded in the audit trail."""
    compiled = compile_workflow("deploy.yml", WORKFLOW)
    assert compiled.plan is not None
    start = inputs.StartRun(
        plan_hash="h",
        number=1,
        trigger=Trigger(kind=TriggerKind.API, by="alice"),
        repository=None,
        revision=None,
        inputs={},
        vars={},
    )
    begin = messages.Begin(
        subject=compiled.plan, inputs=[messages.SignalReceived(number=1, content=orders.INPUTS.pack(start))], number=1
    )
    client = await namespace.client()
    activities = StreamActivities(_engine(), client.data_converter)
    async with Worker(
        client,
        task_queue=orders.STREAMS_QUEUE,
        workflows=[shell.Stream],
        activities=activities.all,
        graceful_shutdown_timeout=timedelta(0),
    ):
        handle = await client.start_workflow(
            messages.WORKFLOW_TYPE, begin, id=STREAM, task_queue=orders.STREAMS_QUEUE, result_type=bytes
        )
        await handle.execute_update(messages.REQUEST_UPDATE, b"", result_type=bytes)
    async with serve(tmp_path) as served:
        served.harness.services.payloads = PayloadDecoder(KEYS)
        endpoint, viewer = f"{served.address}/v1/temporal", served.harness.token(Role.VIEWER)
        code, text = await _show(namespace, endpoint, viewer)
        assert code == 0, text
        audit = [(fact.by, fact.what, fact.target) for fact in served.harness.audit() if hasattr(fact, "what")]
    assert audit == [("viewer", "read-payloads", STREAM)]
    assert base64.b64encode(codec.SEALED).decode() not in text
    history = json.loads(text)
    [first] = _values(
        history, "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED", "workflowExecutionStartedEventAttributes", "input"
    )
    assert first["subject"]["name"] == "Deploy"
    assert first["inputs"][0]["content"]["type"] == "start-run"
    turns = _values(history, "EVENT_TYPE_MARKER_RECORDED", "markerRecordedEventAttributes", "details", "result")
    assert [fact["type"] for fact in turns[0]["facts"]][:2] == ["run-created", "run-started"]
    [order] = _values(history, "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED", "activityTaskScheduledEventAttributes", "input")
    assert (order["type"], order["group"], order["attempt"][1:]) == ("slot-order", "web", ["build", "test", 1])
    [summary] = _values(history, "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED", "userMetadata", "summary")
    assert summary == "Find a server of web for build/test"
