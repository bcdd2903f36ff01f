"""Sealing of payloads: what opens, what is refused, and the limits."""

from __future__ import annotations

import os
import threading
import zlib

import pytest
from nacl import bindings
from temporalio.api.common.v1 import Payload
from temporalio.converter import ActivitySerializationContext, NexusSerializationContext, WorkflowSerializationContext

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.engine import inputs
from waterflowd.model.ids import AgentId, AttemptNo, JobId, StepId
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_keys import PayloadKeys
from waterflowd.temporal.workflow import messages

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
KEYS = PayloadKeys([NEW, OLD])
NONCE = bytes(range(100, 124))
#: Version, length of the workflow's id, and the id itself.
HEAD_BYTES = 3 + len("run/01J8XQ5T3MZ6V0K9B7N2C4D1EF")
RUN = "run/01J8XQ5T3MZ6V0K9B7N2C4D1EF"
PLAIN = Payload(metadata={"encoding": b"json/plain", "other": b"x"}, data=b'"the text of an input"')


def bound(workflow_id: str = RUN, keys: PayloadKeys = KEYS, limit: int = codec.SEALED_BYTES_MAX) -> codec.SealingCodec:
    return codec.SealingCodec(keys, sealed_bytes_max=limit).with_context(
        WorkflowSerializationContext(namespace="waterflow", workflow_id=workflow_id)
    )


async def test_a_payload_opens_as_it_was_sealed() -> None:
    """Metadata and data are sealed together, and neither can be read."""
    [sealed] = await bound().encode([PLAIN])
    assert set(sealed.metadata) == {"encoding", codec.KEY_FIELD}
    assert sealed.metadata["encoding"] == codec.SEALED
    assert b"input" not in sealed.SerializeToString()
    assert b"json" not in sealed.SerializeToString()
    assert await bound().decode([sealed]) == [PLAIN]


async def test_the_activities_of_a_workflow_share_its_seal() -> None:
    """An argument is sealed by the workflow, and opened by the activity."""
    [sealed] = await bound().encode([PLAIN])
    context = ActivitySerializationContext(
        namespace="waterflow",
        activity_id="1",
        activity_type="attempt",
        activity_task_queue="agent/a",
        workflow_id=RUN,
        workflow_type="stream",
        is_local=False,
    )
    assert await codec.SealingCodec(KEYS).with_context(context).decode([sealed]) == [PLAIN]


@pytest.mark.parametrize("other", ["run/01J8XQ5T3MZ6V0K9B7N2C4D1EG", RUN + " ", "r"])
async def test_a_payload_of_another_workflow_is_refused(other: str) -> None:
    """Copying an approval from one run to another gives it no effect there."""
    [sealed] = await bound(other).encode([PLAIN])
    [opened] = await bound().decode([sealed])
    assert codec.refusal(opened) == "it was changed, or sealed for another workflow"
    assert b"input" not in opened.SerializeToString()


def test_every_changed_byte_is_refused() -> None:
    """The version, the nonce, the ciphertext and its end are all covered."""
    sealed = codec.seal(PLAIN, RUN, KEYS, NONCE)
    for position in range(1, len(sealed.data)):
        data = bytearray(sealed.data)
        data[position] ^= 1
        assert codec.refusal(codec.unseal(Payload(metadata=sealed.metadata, data=bytes(data)), RUN, KEYS)), position
    for length in range(len(sealed.data)):
        assert codec.refusal(codec.unseal(Payload(metadata=sealed.metadata, data=sealed.data[:length]), RUN, KEYS))
    older = Payload(metadata=sealed.metadata, data=b"\x00" + sealed.data[1:])
    assert codec.refusal(codec.unseal(older, RUN, KEYS))


@pytest.mark.parametrize(
    "payload",
    [PLAIN, Payload(), Payload(metadata={"encoding": messages.REFUSED}, data=b"x")],
    ids=["plain", "empty", "refused"],
)
def test_a_payload_without_a_seal_is_refused(payload: Payload) -> None:
    """Without a key, the right to write to the namespace is not enough to send an input."""
    assert codec.refusal(codec.unseal(payload, RUN, KEYS)) == "it is not sealed"


def test_the_first_key_seals_and_every_key_opens() -> None:
    """After a new key is added, what the old one sealed still opens."""
    sealed = codec.seal(PLAIN, RUN, PayloadKeys([OLD]), NONCE)
    assert codec.unseal(sealed, RUN, KEYS) == PLAIN
    newer = codec.seal(PLAIN, RUN, KEYS, NONCE)
    assert newer.metadata[codec.KEY_FIELD].decode() == KEYS.sealing_id
    with pytest.raises(Stalled, match="WF810"):
        codec.unseal(newer, RUN, PayloadKeys([OLD]))


def test_a_missing_key_is_named() -> None:
    """The operator can find it in an older copy of the file."""
    sealed = codec.seal(PLAIN, RUN, KEYS, NONCE)
    with pytest.raises(Stalled) as stalled:
        codec.unseal(sealed, RUN, PayloadKeys([OLD]))
    assert stalled.value.text == (
        f"a payload of workflow {RUN} is sealed with the key '{KEYS.sealing_id}', which the file of temporal.payload-keys"
        " does not contain; next: add this key as a further line, on every daemon"
    )


def test_a_format_of_a_newer_release_is_not_taken_for_a_forgery() -> None:
    """The payload is not dropped, and an upgraded daemon repeats the task."""
    sealed = codec.seal(PLAIN, RUN, KEYS, NONCE)
    newer = Payload(metadata=sealed.metadata, data=b"\x02" + sealed.data[1:])
    with pytest.raises(Stalled, match="newer than this release"):
        codec.unseal(newer, RUN, KEYS)


def test_content_is_deflated_only_when_that_makes_it_smaller() -> None:
    """Repetitive content shrinks; random content grows by the workflow's id, 71 bytes and its metadata at most."""
    text = Payload(data=b"the same line again\n" * 5000)
    noise = Payload(data=os.urandom(100_000))
    assert len(codec.seal(text, RUN, KEYS, NONCE).data) < 1000
    assert len(codec.seal(noise, RUN, KEYS, NONCE).data) < 100_000 + len(RUN) + 71
    for payload in (text, noise):
        assert codec.unseal(codec.seal(payload, RUN, KEYS, NONCE), RUN, KEYS) == payload


def test_the_payloads_of_steps_shrink_although_they_are_small() -> None:
    """A report repeats nothing in itself; the dictionary has the names of its fields."""
    report = inputs.TaskFinished(
        job=JobId("build"), step=StepId("1"), attempt=AttemptNo(1), epoch=1, agent=AgentId("SHA256:x"),
        outcome=Outcome.SUCCESS, exit_code=0, started_at=1_700_000_000_000, finished_at=1_700_000_000_001,
    )  # fmt: skip
    payload = Payload(metadata={"encoding": b"binary/plain"}, data=orders.INPUTS.pack(report))
    sealed = codec.seal(payload, RUN, KEYS, NONCE)
    assert codec.unseal(sealed, RUN, KEYS) == payload
    assert len(sealed.data) - len(RUN) - 71 < payload.ByteSize() / 2


async def test_every_payload_has_its_own_nonce() -> None:
    """The same content never looks the same."""
    sealed = await bound().encode([PLAIN] * 50)
    assert len({payload.data[HEAD_BYTES : HEAD_BYTES + 24] for payload in sealed}) == 50


async def test_what_temporal_would_not_store_is_rejected_before_it_is_sent() -> None:
    """The limit counts the sealed bytes; the message says what to do."""
    noise = Payload(data=os.urandom(2000))
    with pytest.raises(Rejected) as rejected:
        await bound(limit=2000).encode([noise])
    assert (rejected.value.code, rejected.value.status) == ("WF812", 413)
    assert f"a payload of workflow {RUN} has 2,07" in rejected.value.text
    assert "the limit is 2,000" in rejected.value.text
    [sealed] = await bound(limit=2000).encode([Payload(data=bytes(1_000_000))])
    assert len(sealed.data) < 2000


def test_a_sealed_payload_states_its_workflow() -> None:
    """So a payload can be opened without other knowledge; one whose statement was changed opens nowhere."""
    sealed = codec.seal(PLAIN, RUN, KEYS, NONCE)
    assert codec.stated_workflow(sealed) == RUN
    other = RUN[:-1] + "G"
    changed = Payload(metadata=sealed.metadata, data=sealed.data.replace(RUN.encode(), other.encode(), 1))
    assert codec.stated_workflow(changed) == other
    for workflow in (RUN, other):
        assert codec.refusal(codec.unseal(changed, workflow, KEYS)) == "it was changed, or sealed for another workflow"
    for unsealed in (PLAIN, Payload(), Payload(metadata=sealed.metadata, data=b"\x01\xff")):
        assert codec.stated_workflow(unsealed) is None


async def test_content_has_a_limit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds when sealing, and when opening what a faulty daemon sealed."""
    monkeypatch.setattr(codec, "CONTENT_BYTES_MAX", 10_000)
    with pytest.raises(Rejected, match="WF812"):
        await bound().encode([Payload(data=bytes(10_001))])
    head = b"\x01" + len(RUN).to_bytes(2, "big") + RUN.encode()
    bomb = b"\x01" + zlib.compress(bytes(1_000_000))
    encrypted = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(bomb, b"waterflow payload\0" + head, NONCE, NEW)
    sealed = Payload(
        metadata={"encoding": codec.SEALED, codec.KEY_FIELD: KEYS.sealing_id.encode()}, data=head + NONCE + encrypted
    )
    with pytest.raises(Rejected, match="WF812"):
        await bound().decode([sealed])


async def test_large_payloads_are_sealed_as_small_ones_are() -> None:
    """They are sealed on a thread."""
    large = Payload(metadata={"encoding": b"binary/plain"}, data=os.urandom(600 << 10))
    [sealed] = await bound().encode([large])
    assert await bound().decode([sealed]) == [large]


@pytest.mark.parametrize(("size", "is_on_thread"), [(1_000, False), (10 << 20, True)])
async def test_a_small_payload_with_large_content_is_opened_on_a_thread(*, size: int, is_on_thread: bool) -> None:
    """The event loop does not wait until it has been inflated."""
    threads: list[int] = []

    class Keys(PayloadKeys):
        def find(self, identifier: str) -> bytes | None:
            threads.append(threading.get_ident())
            return super().find(identifier)

    [sealed] = await bound().encode([Payload(data=b"x" * size)])
    assert len(sealed.data) < 20_000

    [opened] = await bound(keys=Keys([NEW, OLD])).decode([sealed])

    assert len(opened.data) == size
    assert (threads[-1] != threading.get_ident()) is is_on_thread


async def test_a_codec_without_a_workflow_seals_nothing() -> None:
    """The id is what binds a payload to its place; without it, the caller has a bug."""
    nexus = codec.SealingCodec(KEYS).with_context(NexusSerializationContext(endpoint="e", service="s", operation="o"))
    for unbound in (codec.SealingCodec(KEYS), nexus):
        with pytest.raises(RuntimeError, match="not bound"):
            await unbound.encode([PLAIN])
        with pytest.raises(RuntimeError, match="not bound"):
            await unbound.decode([PLAIN])
