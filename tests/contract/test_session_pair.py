"""Two wire sessions connected to each other, as a daemon and an agent use them: a session on a good network."""

from __future__ import annotations

from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import Received, Session

TOKEN = "0123456789abcdef"
KEY = task_id("01J00000000000000000000000", "build", "1", 1, 3)
TASK = messages.Task(
    KEY, "run", {"script": "true"}, {}, "build", None, 60_000, "TERM", 5_000, 1 << 20, "boot", "instance"
)
HELLO = messages.Hello(
    TOKEN, 1, 1, "0.1.0", "instance", "machine", "boot", 4, "host", "linux", "x86_64", {}, ["run"], []
)
WELCOME = messages.Welcome(TOKEN, 1, 7, "web-1", ["web"], 3_000, [])
FINISHED = messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {"answer": 42}, {}, 1, 2, 5, 0)


def pair() -> tuple[Session, Session]:
    return Session(TOKEN, codec.Side.DAEMON, 0), Session(TOKEN, codec.Side.AGENT, 0)


def pass_on(sender: Session, receiver: Session, now: int) -> list[Received]:
    return [receiver.receive(frame, now) for frame in sender.frames(now)]


def test_a_welcome_and_the_first_offers_share_a_frame() -> None:
    """Opening a session costs one frame each way, and the welcome precedes the work."""
    agent, daemon = pair()
    agent.queue(HELLO)

    (greeted,) = pass_on(agent, daemon, 0)
    daemon.queue(messages.Offer(task=TASK))
    daemon.queue(WELCOME)
    (welcomed,) = pass_on(daemon, agent, 1)

    assert greeted.loose == [HELLO]
    assert welcomed.loose == [WELCOME]
    assert welcomed.numbered == [(1, messages.Offer(task=TASK))]


def test_a_welcome_leaves_before_offers_that_need_more_frames() -> None:
    """Even when several frames of work were queued first, the first frame opens the session."""
    agent, daemon = pair()
    large = messages.Task(KEY, "run", {"script": "x" * 700_000}, {}, "", None, 1, "TERM", 1, 1, "boot", "instance")
    for _ in range(3):
        daemon.queue(messages.Offer(task=large))
    daemon.queue(WELCOME)

    received = pass_on(daemon, agent, 0)

    assert len(received) == 3
    assert received[0].loose == [WELCOME]


def test_an_attempt_passes_through_all_messages() -> None:
    """Offer, acceptance, result, output and all acknowledgements are exchanged, and nothing remains outstanding."""
    agent, daemon = pair()
    daemon.queue(messages.Offer(task=TASK))
    ((offered,)) = pass_on(daemon, agent, 0)
    agent.acknowledge(offered.numbered[-1][0], 1)
    output = messages.Output(key=KEY, offset=0, chunks=[messages.OutputChunk(at=1, stream=1, data=b"hello")])
    agent.queue(output)
    agent.queue(FINISHED)

    (reported,) = pass_on(agent, daemon, 2)
    daemon.acknowledge(reported.numbered[-1][0], 3)
    daemon.queue(messages.OutputAck(key=KEY, offset=5))
    (settled,) = pass_on(daemon, agent, 4)

    assert reported.acknowledged == [messages.Offer(task=TASK)]
    assert reported.numbered == [(1, FINISHED)]
    assert reported.loose == [output]
    assert settled.acknowledged == [FINISHED]
    assert settled.loose == [messages.OutputAck(key=KEY, offset=5)]
    assert pass_on(agent, daemon, 1_000) == pass_on(daemon, agent, 1_000) == []


def test_a_new_session_starts_over_and_ignores_the_old_one() -> None:
    """After a disconnect both sides number from 1 again; a late frame of the old session has no effect."""
    agent, _ = pair()
    agent.queue(FINISHED)
    late = agent.frames(0)
    again = Session("fedcba9876543210", codec.Side.DAEMON, 10)
    daemon = Session("fedcba9876543210", codec.Side.AGENT, 10)
    again.queue(FINISHED)

    assert [daemon.receive(frame, 11).is_foreign for frame in late] == [True]
    (received,) = pass_on(again, daemon, 12)
    assert received.numbered == [(1, FINISHED)]


def test_two_quiet_sides_keep_each_other_alive_without_a_storm() -> None:
    """An idle minute costs at most one frame each way per third of the silence limit."""
    agent, daemon = pair()
    frames = 0
    for now in range(0, 60_000, 50):
        frames += len(pass_on(agent, daemon, now)) + len(pass_on(daemon, agent, now))
        assert not agent.is_silent(now)
        assert not daemon.is_silent(now)

    assert frames <= 2 * 30


def test_acting_only_at_next_wake_at_is_enough() -> None:
    """A caller that acts only at `next_wake_at` loses nothing: acknowledgements, resends and keep-alives all happen."""
    agent, daemon = pair()
    agent.queue(FINISHED)
    now, is_first_lost = 0, True
    got: list[messages.Numbered] = []
    acknowledged: list[messages.Numbered] = []
    while not acknowledged:
        now = min(agent.next_wake_at(now), daemon.next_wake_at(now))
        assert now < 20_000
        for frame in agent.frames(now):
            if is_first_lost:
                is_first_lost = False
                continue
            for number, message in daemon.receive(frame, now).numbered:
                got.append(message)
                daemon.acknowledge(number, now)
        for frame in daemon.frames(now):
            acknowledged += agent.receive(frame, now).acknowledged

    assert got == acknowledged == [FINISHED]
