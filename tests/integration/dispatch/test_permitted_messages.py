"""Every message type in every state of a peer: what the table does not permit is rejected. Without sockets."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import zmq

from waterflow_agent.keys import fingerprint
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch.enrollment import EnrollmentPort, Introduction
from waterflowd.dispatch.port.client import IncomingMessage
from waterflowd.dispatch.port.records import Verdict
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.sessions import Sessions, SessionSettings
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Outcome
from waterflowd.testing.awaiting import until

TOKEN = "0123456789abcdef"
PUBLIC_KEY = zmq.curve_keypair()[0].decode()
KEY = task_id("01J00000000000000000000000", "build", "1", 1, 3)
TASK = messages.Task(KEY, "run", {}, {}, "", None, 1, "TERM", 1, 1, "boot", "instance")

#: One example of every message type.
EXAMPLES: tuple[object, ...] = (
    messages.Hello("fedcba9876543210", 1, 1, "0", "instance", "machine", "boot", 1, "h", "linux", "arm", {}, [], []),
    messages.Started(KEY, 1),
    messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {}, {}, 1, 2, 0, 0),
    messages.Output(KEY, 0, []),
    messages.FileRequest(KEY, 1, [], 0),
    messages.ArtifactRequest(KEY, 1, messages.ListArtifacts()),
    messages.Welcome(TOKEN, 1, 1, "n", [], 1, []),
    messages.Reject(TOKEN, "WF210", "no", 0),
    messages.Reset("again"),
    messages.KeyRotated(TOKEN, "k", []),
    messages.Offer(TASK),
    messages.Cancel(KEY, False, ""),
    messages.Release("run", "job"),
    messages.OutputAck(KEY, 0),
    messages.FileResponse(KEY, 1, []),
    messages.ArtifactResponse(KEY, 1, messages.ArtifactAccepted()),
    messages.EnrollRequest(1, "", "n", [], "h", "m", "v"),
    messages.EnrollAnswer("approved", "", "", "", [], "", 0),
)


class Host:
    """Implements both handlers and records the calls of the link."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_approving = True

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskId]:
        self.calls.append("settle")
        return []

    def connected(self, agent: AgentId) -> None:
        self.calls.append("connected")

    def disconnected(self, agent: AgentId, text: str) -> None:
        self.calls.append("disconnected")

    def received(
        self, agent: AgentId, reports: Sequence[messages.Started | messages.Finished], durable: Callable[[], None]
    ) -> None:
        self.calls.append("received")

    def output(self, agent: AgentId, output: messages.Output) -> None:
        self.calls.append("output")

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        self.calls.append("wanted")

    def artifact_requested(self, agent: AgentId, request: messages.ArtifactRequest) -> None:
        self.calls.append("artifact")

    async def request(self, public_key: str, request: messages.EnrollRequest) -> messages.EnrollAnswer:
        self.calls.append("request")
        return messages.EnrollAnswer("pending", "", "", "", [], "", 1)

    def is_approved(self, public_key: str) -> bool:
        return self.is_approving


class Outgoing:
    """Takes the place of the port: records what is sent and closed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.disconnected: list[int] = []

    def send(self, connection: int, payload: bytes) -> bool:
        self.sent.append(payload)
        return True

    def disconnect(self, connection: int) -> None:
        self.disconnected.append(connection)


def inbound(payload: bytes) -> IncomingMessage:
    return IncomingMessage(1, PUBLIC_KEY, "127.0.0.1", memoryview(payload))


def frame(message: object, token: str) -> bytes:
    raw = [codec.encode_message(message)]  # type: ignore[arg-type]
    numbered, loose = (raw, []) if isinstance(message, messages.NUMBERED) else ([], raw)
    return codec.encode_frame(token, 0, 1, numbered, loose)


def test_the_examples_cover_every_message_type() -> None:
    """A new kind of message needs a row here, and a decision about who may send it."""
    kinds = {*get_args(messages.Message), messages.EnrollRequest, messages.EnrollAnswer}

    assert {type(example) for example in EXAMPLES} == kinds


@pytest.mark.parametrize("state", [s for s in messages.PeerState if s is not messages.PeerState.ANONYMOUS])
@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
async def test_the_work_port_accepts_exactly_what_the_table_permits(state: messages.PeerState, message: object) -> None:
    """A permitted message reaches the listener; any other is counted or answered with a reset."""
    host = Host()
    port = Outgoing()
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    settings = SessionSettings(generation=1, describe=lambda agent: ("n", []), on_clone=lambda agent, hello: None)
    sessions = Sessions(host, host, port, settings, rejections)
    if state is not messages.PeerState.CONNECTED:
        opening = messages.Hello(TOKEN, 1, 1, "0", "instance", "machine", "boot", 1, "h", "linux", "arm", {}, [], [])
        sessions.take(inbound(frame(opening, TOKEN)))
        host.calls.clear()
    host.is_approving = state is not messages.PeerState.REVOKED

    sessions.take(inbound(frame(message, getattr(message, "session", TOKEN))))

    reached = set(host.calls) & {"settle", "received", "output", "wanted", "artifact"}
    if type(message) in messages.PERMITTED[state]:
        assert reached
    else:
        assert not reached
        assert rejections.total or sessions.resets_sent
        assert port.sent or state is messages.PeerState.REVOKED
        assert fingerprint(PUBLIC_KEY) not in sessions.connected or state is messages.PeerState.SETTLED
    sessions.close()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
async def test_the_enrollment_port_accepts_exactly_what_the_table_permits(message: object) -> None:
    """Only enrollment requests are accepted."""
    host = Host()
    port = Outgoing()
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    enrollment = EnrollmentPort(host, port, rejections, lambda: 0, lambda: Introduction("tcp://:1", "", []))
    enrollment.take(inbound(bytes(memoryview(codec.encode_message(message)))))  # type: ignore[arg-type]
    await until(lambda: port.sent)

    is_permitted = type(message) in messages.PERMITTED[messages.PeerState.ANONYMOUS]
    assert [codec.decode_enroll_answer(payload).state for payload in port.sent] == [
        "pending" if is_permitted else "refused"
    ]
    assert host.calls == (["request"] if is_permitted else [])
    assert rejections.total == (0 if is_permitted else 1)
    # A connection is for one request.
    assert port.disconnected == [1]


async def test_an_agent_with_costly_frames_is_disconnected() -> None:
    """Well-formed frames that use too much processor time end the connection; another agent is not affected."""
    host, port = Host(), Outgoing()
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    processor_s = itertools.count(0, 60)
    settings = SessionSettings(generation=1, describe=lambda agent: ("n", []), on_clone=lambda agent, hello: None)
    sessions = Sessions(host, host, port, settings, rejections, lambda: next(processor_s))
    opening = messages.Hello(TOKEN, 1, 1, "0", "instance", "machine", "boot", 1, "h", "linux", "arm", {}, [], [])
    sessions.take(inbound(frame(opening, TOKEN)))

    while fingerprint(PUBLIC_KEY) in sessions.connected:
        sessions.take(inbound(codec.encode_frame(TOKEN, 0, 1, [], [])))

    assert rejections.counts["WF218"] == 1
    assert host.calls == ["settle", "connected", "disconnected"]
    assert port.disconnected == [1]
    # Nothing more of it is read, and it may not connect again at once.
    read = next(processor_s)
    sessions.take(inbound(frame(opening, TOKEN)))
    assert next(processor_s) == read + 60
    assert fingerprint(PUBLIC_KEY) not in sessions.connected
    assert sessions.admit(PUBLIC_KEY, "127.0.0.1") is Verdict.CLOSE
    other = zmq.curve_keypair()[0].decode()
    assert sessions.admit(other, "127.0.0.1") is Verdict.ACCEPT
    sessions.take(IncomingMessage(2, other, "127.0.0.1", memoryview(frame(opening, TOKEN))))
    assert sessions.connected == {fingerprint(other)}
    sessions.close()


async def test_an_agent_that_uses_up_its_budget_again_waits_longer() -> None:
    """Twice as long each time, up to five minutes; what it does meanwhile adds nothing, and good behaviour is rewarded."""
    host = Host()
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    settings = SessionSettings(generation=1, describe=lambda agent: ("n", []), on_clone=lambda agent, hello: None)
    sessions = Sessions(host, host, Outgoing(), settings, rejections)
    agent, now, waits = AgentId("SHA256:agent"), 1_000, []
    for _ in range(7):
        waits.append(sessions._punish(agent, now))
        assert sessions._punish(agent, now + 1) == waits[-1] - 1
        now += waits[-1]

    assert waits == [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]
    assert sessions._punish(agent, now + 3_600_000) == 10_000
    sessions.close()


async def test_a_daemon_that_is_cut_off_sends_its_agents_to_others() -> None:
    """Open sessions end with the agent's next frame, which is not handled; new ones are refused until that is over."""
    host, port, reason = Host(), Outgoing(), ""
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    settings = SessionSettings(
        generation=1,
        describe=lambda agent: ("n", []),
        on_clone=lambda agent, hello: None,
        absence=lambda: reason,
    )
    sessions = Sessions(host, host, port, settings, rejections)
    opening = messages.Hello(TOKEN, 1, 1, "0", "instance", "machine", "boot", 1, "h", "linux", "arm", {}, [], [])
    sessions.take(inbound(frame(opening, TOKEN)))
    assert sessions.connected
    reason = "this daemon is cut off"
    sessions.take(inbound(frame(messages.Started(KEY, 1), TOKEN)))
    sessions.take(inbound(frame(opening, TOKEN)))

    assert not sessions.connected
    assert host.calls == ["settle", "connected", "disconnected"]
    rejected = [
        message
        for payload in port.sent
        for message in codec.decode_frame(memoryview(payload), codec.Side.DAEMON).loose
        if isinstance(message, messages.Reject)
    ]
    assert [(each.code, each.text, each.after_ms > 0) for each in rejected] == [("WF802", reason, True)] * 2
    reason = ""
    sessions.take(inbound(frame(opening, TOKEN)))
    assert sessions.connected
    sessions.close()
