"""What people see of sealed payloads: names and values, and a reason where there is nothing to see."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec
import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import WorkflowSerializationContext

from waterflowd.admin.ports import SealedPayload
from waterflowd.engine import events, inputs
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.sealing import codec, converter, payload_decoder
from waterflowd.temporal.sealing.payload_decoder import PayloadDecoder
from waterflowd.temporal.sealing.payload_keys import PayloadKeys
from waterflowd.temporal.workflow import messages

KEYS = PayloadKeys([bytes(range(32))])
NOW = 1_700_000_000_000
RUN = "run/01J8XQ5T3MZ6V0K9B7N2C4D1EF"
ATTEMPT = AttemptId(RunId(RUN.removeprefix("run/")), JobId("build"), StepId("test"), AttemptNo(1))


async def sealed(value: Any, stream: str = RUN, keys: PayloadKeys = KEYS) -> SealedPayload:
    context = WorkflowSerializationContext(namespace="waterflow", workflow_id=stream)
    [payload] = await converter.data_converter(keys).with_context(context).encode([value])
    return SealedPayload(metadata=dict(payload.metadata), data=payload.data)


async def shown(value: Any) -> Any:
    decoded = await PayloadDecoder(KEYS).decode([await sealed(value)])
    assert decoded.streams == {RUN}
    [payload] = decoded.payloads
    assert payload.metadata["encoding"] == b"json/plain"
    return json.loads(payload.data)


async def test_a_turn_is_shown_with_its_facts_and_commands() -> None:
    """The bytes inside of it are shown by their fields, and times as text."""
    fact = run_turns.FACTS.pack(
        NOW, events.RunCompleted(at=NOW, conclusion=Conclusion.SUCCESS, reason=reason(ReasonCode.SUCCEEDED, "done"))
    )
    order = orders.SlotOrder(attempt=ATTEMPT, group="web", node="shell")
    turn = messages.TurnResult(
        facts=[fact],
        commands=[
            messages.ScheduleActivity(
                id="place/build/test/1", name="place", queue="group/web", content=orders.ORDERS.pack(order)
            ),
            messages.StartTimer(id="close", due_at=NOW + 1),
        ],
        taken=[1],
        seq=1,
        state=bytes(range(200, 216)),
    )
    found = await shown(turn)
    assert found["facts"] == [
        {
            "at": "2023-11-14T22:13:20.000Z",
            "type": "run-completed",
            "conclusion": "success",
            "reason": {"code": "succeeded", "text": "done"},
        }
    ]
    schedule, timer = found["commands"]
    assert schedule["content"] == {
        "type": "slot-order",
        "attempt": [ATTEMPT.run, "build", "test", 1],
        "group": "web",
        "node": "shell",
    }
    assert timer["due_at"] == "2023-11-14T22:13:20.001Z"
    assert found["state"] == "16 bytes: yMnKy8zNzs/Q0dLT1NXW1w=="


async def test_the_first_payload_of_a_run_shows_its_plan_and_how_it_was_started() -> None:
    """Both are bytes for the shell."""
    start = inputs.StartRun(
        plan_hash="h",
        number=7,
        trigger=Trigger(kind=TriggerKind.API, by="alice"),
        repository="ops",
        revision=None,
        inputs={"version": "1.2"},
        vars={},
    )
    plan = msgspec.msgpack.encode({"name": "deploy", "jobs": [{"id": "build"}]})
    begin = messages.Begin(
        subject=plan, inputs=[messages.SignalReceived(number=1, content=orders.INPUTS.pack(start))], now=NOW
    )
    found = await shown(begin)
    assert found["subject"] == {"name": "deploy", "jobs": [{"id": "build"}]}
    assert found["inputs"][0]["content"]["inputs"] == {"version": "1.2"}
    assert found["now"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", ""),
        (b"plain text\n", "plain text\n"),
        ("build/test on web-1", "build/test on web-1"),
        (b"\x00\x01", "2 bytes: AAE="),
        (bytes(200), f"200 bytes: {'A' * 86}==..."),
        ({"a": [1, None, True, 0.5]}, {"a": [1, None, True, 0.5]}),
    ],
    ids=["nothing", "text", "a summary", "bytes", "many bytes", "JSON"],
)
async def test_other_content_is_shown_as_what_it_is(value: Any, expected: Any) -> None:
    """Bytes are shortened, text is not."""
    assert await shown(value) == expected


async def test_a_result_of_an_activity_is_an_input_by_its_name() -> None:
    """The agent's report, for example."""
    report = inputs.TaskFinished(
        job=ATTEMPT.job,
        step=ATTEMPT.step,
        attempt=ATTEMPT.number,
        epoch=1,
        agent=AgentId("SHA256:one"),
        outcome=Outcome.FAILURE,
        exit_code=3,
        started_at=NOW,
        finished_at=NOW + 10,
        output_bytes=5,
    )
    found = await shown(orders.INPUTS.pack(report))
    assert (found["type"], found["exit_code"]) == ("task-finished", 3)
    assert found["finished_at"] == "2023-11-14T22:13:20.010Z"


async def test_what_does_not_open_is_one_sentence_and_the_rest_is_shown() -> None:
    """A changed payload, and one with a key that this daemon does not have."""
    good = await sealed("good")
    changed = msgspec.structs.replace(good, data=good.data[:-1] + bytes([good.data[-1] ^ 1]))
    elsewhere = await sealed("x", keys=PayloadKeys([bytes(32)]))
    decoded = await PayloadDecoder(KEYS).decode([changed, elsewhere, good])
    first, second, third = (json.loads(payload.data) for payload in decoded.payloads)
    assert first == ("no daemon has sealed this payload for a workflow: it was changed, or sealed for another workflow")
    assert second.startswith(f"this payload cannot be shown: a payload of workflow {RUN} is sealed with the key")
    assert second.endswith("[WF810]")
    assert third == "good"


async def test_a_payload_that_names_another_workflow_does_not_open() -> None:
    """So nobody can pass the fleet's payloads off as those of a run, which more people may read."""
    payload = await sealed("a token's hash", stream="fleet/" + "x" * 24)
    renamed = msgspec.structs.replace(payload, data=payload.data.replace(b"fleet/" + b"x" * 24, RUN.encode(), 1))
    decoded = await PayloadDecoder(KEYS).decode([renamed])
    assert decoded.streams == frozenset()
    assert b"token" not in decoded.payloads[0].data


@pytest.mark.parametrize("length", [3, 0xFFFF])
async def test_a_payload_whose_workflow_is_not_text_does_not_open(length: int) -> None:
    """It is refused like any other forged payload, whatever the length that it states."""
    good = await sealed("good")
    forged = msgspec.structs.replace(good, data=b"\x01" + length.to_bytes(2, "big") + b"\xff" * length)
    decoded = await PayloadDecoder(KEYS).decode([forged, good])
    assert decoded.streams == {RUN}
    first, second = (json.loads(payload.data) for payload in decoded.payloads)
    assert first.endswith("it was changed, or sealed for another workflow")
    assert second == "good"


async def test_a_payload_without_a_seal_is_unchanged() -> None:
    """Someone sent it by hand; the shell drops it."""
    by_hand = SealedPayload(metadata={"encoding": b"json/plain"}, data=b'"stop"')
    decoded = await PayloadDecoder(KEYS).decode([by_hand])
    assert (decoded.streams, list(decoded.payloads)) == (frozenset(), [by_hand])


async def test_a_request_has_a_limit_after_inflating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small payload may inflate to a large one: the limit counts all of them together."""
    monkeypatch.setattr(payload_decoder, "SHOWN_BYTES_MAX", 3_000)
    small = await sealed("x" * 1_000)
    large = await sealed("y" * 1_000_000)
    assert len(large.data) < 2_000
    decoded = await PayloadDecoder(KEYS).decode([small, large, small, small, small])
    found = [json.loads(payload.data) for payload in decoded.payloads]
    assert found[0] == found[2] == "x" * 1_000
    assert found[1].endswith("have more than 3,000 bytes; next: open fewer at a time [WF812]")
    assert "[WF812]" in found[-1]


async def test_deep_nesting_and_odd_values_are_shown_up_to_a_depth() -> None:
    """Nothing that a daemon has sealed makes the request fail."""
    nested: Any = {}
    for _ in range(400):
        nested = {"in": nested}
    packed = msgspec.msgpack.encode(nested)
    boxed = b""
    for _ in range(200):
        boxed = msgspec.msgpack.encode({"in": boxed})
    odd = msgspec.msgpack.encode({1: float("nan"), "ext": msgspec.msgpack.Ext(5, b"x"), "big": 2**63})
    for content in (packed, boxed, odd, os.urandom(64), b"\x80", b"\xc1"):
        decoded = await PayloadDecoder(KEYS).decode([await sealed(content)])
        json.loads(decoded.payloads[0].data)
    assert "nested too deeply" in json.dumps(await shown(packed))


def test_the_payload_of_the_protocol_is_temporal_s() -> None:
    """Bytes are base64 in both JSON forms."""
    from google.protobuf import json_format

    payload = Payload(metadata={"encoding": codec.SEALED, "waterflow-key": b"\xff\xfe"}, data=bytes(range(256)))
    text = json_format.MessageToJson(payload)
    found = msgspec.json.decode(text, type=SealedPayload)
    assert (found.metadata, found.data) == (dict(payload.metadata), payload.data)
    assert json_format.Parse(msgspec.json.encode(found), Payload()) == payload
