"""Two sessions over a network that loses, repeats and reorders frames: every message arrives once and in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import Session

TOKEN = "0123456789abcdef"


def _attempt(message: messages.Numbered) -> int:
    assert isinstance(message, messages.Started | messages.Finished | messages.Cancel)
    return message.key.attempt.number


class SessionPair:
    """The sessions of an agent and a daemon, and the frames in flight between them."""

    def __init__(self) -> None:
        self.now = 0
        self.agent = Session(TOKEN, codec.Side.DAEMON, 0)
        self.daemon = Session(TOKEN, codec.Side.AGENT, 0)
        self.to_agent: list[bytes] = []
        self.to_daemon: list[bytes] = []
        self.sent = {"agent": 0, "daemon": 0}
        self.got_by_daemon: list[int] = []
        self.got_by_agent: list[int] = []
        #: The highest numbers received.
        self.daemon_received = 0
        self.agent_received = 0
        self.acknowledged_to_agent: list[int] = []

    def report(self) -> None:
        self.sent["agent"] += 1
        key = task_id("r", "j", "s", self.sent["agent"], 1)
        self.agent.queue(messages.Started(key=key, at=self.now))

    def order(self) -> None:
        self.sent["daemon"] += 1
        key = task_id("r", "j", "s", self.sent["daemon"], 1)
        self.daemon.queue(messages.Cancel(key=key, force=False, reason=""))

    def emit(self) -> None:
        self.to_daemon += self.agent.frames(self.now)
        self.to_agent += self.daemon.frames(self.now)

    def deliver(self, to: str, at: int, *, keep: bool = False) -> None:
        pending = self.to_daemon if to == "daemon" else self.to_agent
        if not pending:
            return
        frame = pending[at % len(pending)] if keep else pending.pop(at % len(pending))
        if to == "daemon":
            received = self.daemon.receive(frame, self.now)
            self.got_by_daemon += [_attempt(message) for _, message in received.numbered]
            self.daemon_received = max([self.daemon_received, *(number for number, _ in received.numbered)])
        else:
            received = self.agent.receive(frame, self.now)
            self.got_by_agent += [_attempt(message) for _, message in received.numbered]
            self.agent_received = max([self.agent_received, *(number for number, _ in received.numbered)])
            self.acknowledged_to_agent += [_attempt(message) for message in received.acknowledged]

    def make_durable(self) -> None:
        self.daemon.acknowledge(self.daemon_received, self.now)
        self.agent.acknowledge(self.agent_received, self.now)

    def heal_and_drain(self) -> None:
        for _ in range(60):
            self.now += 5_000
            self.emit()
            while self.to_daemon:
                self.deliver("daemon", 0)
            while self.to_agent:
                self.deliver("agent", 0)
            self.make_durable()
            self.now += 60
            self.emit()


_moves = st.lists(
    st.tuples(
        st.sampled_from(["report", "order", "emit", "daemon", "agent", "repeat", "lose", "durable", "wait"]),
        st.integers(0, 50),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(_moves)
def test_all_messages_arrive_once_and_in_order(moves: list[tuple[str, int]]) -> None:
    """Whatever the network does, both sides receive 1, 2, 3...; once it works again, nothing is missing or unacknowledged."""
    pair = SessionPair()
    for move, number in moves:
        match move:
            case "report":
                pair.report()
            case "order":
                pair.order()
            case "emit":
                pair.emit()
            case "daemon" | "agent":
                pair.deliver(move, number)
            case "repeat":
                pair.deliver("daemon" if number % 2 else "agent", number, keep=True)
            case "lose":
                pending = pair.to_daemon if number % 2 else pair.to_agent
                del pending[:1]
            case "durable":
                pair.make_durable()
            case _:
                pair.now += number * 200
        assert pair.got_by_daemon == list(range(1, len(pair.got_by_daemon) + 1))
        assert pair.got_by_agent == list(range(1, len(pair.got_by_agent) + 1))
        assert len(pair.acknowledged_to_agent) <= len(pair.got_by_daemon)

    pair.heal_and_drain()

    assert len(pair.got_by_daemon) == pair.sent["agent"]
    assert len(pair.got_by_agent) == pair.sent["daemon"]
    assert pair.acknowledged_to_agent == list(range(1, pair.sent["agent"] + 1))
