"""The session, one side at a time: when it sends, what it refuses, and its limits."""

from __future__ import annotations

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages, session
from waterflow_agent.wire.session import Session

TOKEN = "0123456789abcdef"
KEY = task_id("01J00000000000000000000000", "build", "1", 1, 3)


def started(at: int) -> messages.Started:
    return messages.Started(key=KEY, at=at)


def agent(now: int = 0) -> Session:
    return Session(TOKEN, codec.Side.DAEMON, now)


def daemon(now: int = 0) -> Session:
    return Session(TOKEN, codec.Side.AGENT, now)


def decoded(frame: bytes) -> codec.Frame:
    return codec.decode_frame(frame, codec.Side.AGENT)


def agent_frame(*, first: int, count: int, ack: int = 0, token: str = TOKEN) -> bytes:
    raws = [codec.encode_message(started(first + index)) for index in range(count)]
    return codec.encode_frame(token, ack, first, raws, [])


def test_all_queued_messages_are_sent_in_one_frame() -> None:
    """Messages of one turn share a frame and have consecutive numbers from 1."""
    ours = agent()
    numbers = [ours.queue(started(at)) for at in range(3)]

    (frame,) = ours.frames(0)

    assert numbers == [1, 2, 3]
    assert decoded(frame).first_number == 1
    assert decoded(frame).numbered == [started(at) for at in range(3)]
    assert ours.frames(0) == []


def test_output_follows_all_other_messages() -> None:
    """Output comes after the results in a frame, whatever was queued first."""
    ours = agent()
    chunk = messages.OutputChunk(at=1, stream=1, data=bytes(messages.OUTPUT_CHUNK_BYTES_MAX))
    for _ in range(20):
        ours.queue(messages.Output(key=KEY, offset=0, chunks=[chunk]))
    ours.queue(started(1))

    frames = ours.frames(0)

    assert decoded(frames[0]).numbered == [started(1)]
    assert len(frames) > 1
    assert all(len(frame) <= messages.FRAME_BYTES_MAX for frame in frames)
    assert sum(len(decoded(frame).loose) for frame in frames) == 20


def test_long_lists_are_split_over_frames_of_bounded_size() -> None:
    """No frame exceeds the limit, no message is lost, and the numbers continue from frame to frame."""
    ours, theirs = agent(), daemon()
    outputs = {"text": "x" * 300_000}
    for _ in range(10):
        ours.queue(messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", outputs, {}, 1, 2, 0, 0))

    frames = ours.frames(0)
    numbers = [number for frame in frames for number, _ in theirs.receive(frame, 0).numbered]

    assert all(len(frame) <= messages.FRAME_BYTES_MAX for frame in frames)
    assert numbers == list(range(1, 11))


def test_a_message_larger_than_a_frame_has_its_own_frame() -> None:
    """A single larger message gets its own frame, which a socket still accepts."""
    ours = agent()
    ours.queue(started(1))
    ours.queue(messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {"x": "y" * (2 << 20)}, {}, 1, 2, 0, 0))
    ours.queue(started(2))

    frames = ours.frames(0)

    assert [len(decoded(frame).numbered) for frame in frames] == [1, 1, 1]
    assert len(frames[1]) <= messages.MESSAGE_BYTES_MAX


def test_an_acknowledgement_is_delayed_to_share_a_frame() -> None:
    """It is sent after 50 ms, or at once with any other message."""
    theirs = daemon()
    theirs.receive(agent_frame(first=1, count=2), 0)
    theirs.acknowledge(2, 10)

    assert theirs.frames(59) == []
    assert theirs.next_wake_at(20) == 60
    (frame,) = theirs.frames(60)
    assert codec.decode_frame(frame, codec.Side.DAEMON).ack == 2
    assert theirs.frames(61) == []


def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    """A received message that is not durable is not acknowledged by any frame."""
    theirs = daemon()
    theirs.receive(agent_frame(first=1, count=2), 0)
    theirs.queue(messages.Cancel(key=KEY, force=False, reason="x"))

    (frame,) = theirs.frames(1)

    assert codec.decode_frame(frame, codec.Side.DAEMON).ack == 0


def test_unacknowledged_messages_are_resent_with_backoff() -> None:
    """It is sent again after 5 s, then after 10, 20, 30 and 30 s."""
    ours = agent()
    ours.silence_ms = 10**9
    ours.queue(started(1))
    ours.frames(0)
    moments: list[int] = []
    now = 0
    while len(moments) < 5:
        now = ours.next_wake_at(now + 1)
        if any(decoded(frame).numbered for frame in ours.frames(now)):
            moments.append(now)

    assert moments == [5_000, 15_000, 35_000, 65_000, 95_000]


def test_an_acknowledged_message_is_never_sent_again() -> None:
    """The acknowledged message is returned to the caller."""
    ours, theirs = agent(), daemon()
    ours.queue(started(1))
    ours.queue(started(2))
    (frame,) = ours.frames(0)
    theirs.receive(frame, 0)
    theirs.acknowledge(1, 0)
    (answer,) = theirs.frames(50)

    assert ours.receive(answer, 60).acknowledged == [started(1)]
    again = [decoded(frame) for frame in ours.frames(5_060)]
    assert [frame.numbered for frame in again] == [[started(2)]]
    assert again[0].first_number == 2


def test_one_round_of_resending_is_bounded() -> None:
    """A peer that is slow to acknowledge megabytes does not get all of them again at once."""
    ours = agent()
    outputs = {"text": "x" * 900_000}
    for _ in range(12):
        ours.queue(messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", outputs, {}, 1, 2, 0, 0))
    ours.frames(0)

    again = ours.frames(5_000)

    assert 0 < sum(map(len, again)) <= session.RESEND_BYTES_MAX + messages.FRAME_BYTES_MAX


def test_a_repeated_message_is_dropped_and_acknowledged_again() -> None:
    """Duplicates are dropped, and acknowledged again."""
    theirs = daemon()
    theirs.receive(agent_frame(first=1, count=2), 0)
    theirs.acknowledge(2, 0)
    theirs.frames(50)

    received = theirs.receive(agent_frame(first=1, count=3), 5_000)

    assert received.numbered == [(3, started(3))]
    assert theirs.duplicates == 2
    (frame,) = theirs.frames(5_050)
    assert codec.decode_frame(frame, codec.Side.DAEMON).ack == 2


def test_a_frame_that_would_leave_a_gap_is_refused() -> None:
    """Messages after a missing one are dropped; they are sent again after it."""
    theirs = daemon()

    assert theirs.receive(agent_frame(first=2, count=1), 0).numbered == []
    assert theirs.gaps == 1
    assert theirs.receive(agent_frame(first=1, count=2), 1).numbered == [(1, started(1)), (2, started(2))]


def test_a_frame_of_another_session_changes_nothing() -> None:
    """Its messages and its acknowledgement are ignored, and the frame does not count as a sign of life."""
    theirs = daemon()
    theirs.queue(messages.Cancel(key=KEY, force=False, reason="x"))
    theirs.frames(0)

    received = theirs.receive(agent_frame(first=1, count=1, ack=1, token="another-session"), 5_999)

    assert received.is_foreign
    assert received.numbered == []
    assert received.acknowledged == []
    assert theirs.is_silent(6_000)


def test_only_loose_messages_are_read_without_a_session() -> None:
    """Loose messages of the daemon are handled without a session; numbered ones are ignored."""
    ours = agent()
    frame = codec.encode_frame(
        "",
        0,
        1,
        [codec.encode_message(messages.Cancel(key=KEY, force=True, reason=""))],
        [codec.encode_message(messages.Reset(text="again"))],
    )

    received = ours.receive(frame, 0)

    assert received.loose == [messages.Reset(text="again")]
    assert received.numbered == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (agent_frame(first=1, count=1, ack=1), "WF204"),
        (agent_frame(first=0, count=1), "WF204"),
        (agent_frame(first=1, count=messages.FRAME_MESSAGES_MAX + 1), "WF202"),
        (b"\xc1", "WF202"),
    ],
)
def test_a_protocol_violation_is_an_error_of_the_peer(frame: bytes, code: str) -> None:
    """An acknowledgement of an unsent message, numbers below 1, and a frame of too many messages are errors of the peer."""
    with pytest.raises(RemoteProtocolError) as caught:
        daemon().receive(frame, 0)

    assert caught.value.code == code


def test_more_unacknowledged_messages_than_the_window_are_an_error_of_the_peer() -> None:
    """However many frames bring them."""
    ours = daemon()
    for first in range(1, session.WINDOW_MESSAGES, messages.FRAME_MESSAGES_MAX):
        ours.receive(agent_frame(first=first, count=messages.FRAME_MESSAGES_MAX), 0)

    with pytest.raises(RemoteProtocolError) as caught:
        ours.receive(agent_frame(first=session.WINDOW_MESSAGES + 1, count=1), 0)
    assert caught.value.code == "WF205"


def test_a_frame_has_a_limited_number_of_messages() -> None:
    """What was queued in one turn is split, and arrives in order."""
    theirs, ours = agent(), daemon()
    for _ in range(3 * messages.FRAME_MESSAGES_MAX):
        theirs.queue(messages.Started(key=KEY, at=1))
    theirs.queue(messages.Output(KEY, 0, []))
    received = [ours.receive(frame, 0) for frame in theirs.frames(0)]

    assert [len(part.numbered) + len(part.loose) for part in received] == [messages.FRAME_MESSAGES_MAX] * 3 + [1]
    assert [number for part in received for number, _ in part.numbered] == [
        *range(1, 3 * messages.FRAME_MESSAGES_MAX + 1)
    ]


def test_the_window_limits_queued_messages() -> None:
    """Beyond 4,096 unacknowledged messages a message is refused, until one is acknowledged."""
    ours, theirs = agent(), daemon()
    for at in range(session.WINDOW_MESSAGES):
        ours.queue(started(at))

    assert ours.room == 0
    with pytest.raises(LocalProtocolError) as caught:
        ours.queue(started(0))
    assert caught.value.code == "WF207"

    for frame in ours.frames(0):
        theirs.receive(frame, 0)
    theirs.acknowledge(10, 0)
    (answer,) = theirs.frames(50)
    ours.receive(answer, 60)
    assert ours.room == 10


def test_the_window_bounds_bytes_too() -> None:
    """A few large messages fill the window as well."""
    ours = agent()
    finished = messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {"x": "y" * (3 << 20)}, {}, 1, 2, 0, 0)
    queued = 0
    while ours.room:
        ours.queue(finished)
        queued += 1

    assert queued <= session.WINDOW_BYTES // (3 << 20) + 1


def test_unsent_loose_messages_are_bounded() -> None:
    """A caller that never sends gets an error instead of filling the memory."""
    ours = agent()
    output = messages.Output(key=KEY, offset=0, chunks=[messages.OutputChunk(at=1, stream=1, data=bytes(3 << 20))])
    for _ in range(session.LOOSE_BYTES_MAX // (3 << 20)):
        ours.queue(output)

    with pytest.raises(LocalProtocolError) as caught:
        ours.queue(output)

    assert caught.value.code == "WF207"


def test_acknowledging_an_unreceived_message_is_a_local_error() -> None:
    """A message that was not received cannot be acknowledged."""
    with pytest.raises(LocalProtocolError) as caught:
        daemon().acknowledge(1, 0)

    assert caught.value.code == "WF208"


def test_an_idle_session_sends_keep_alives() -> None:
    """A frame is sent every third of the silence, so the peer does not consider the session lost."""
    ours, theirs = agent(), daemon()
    for now in range(0, 60_000, 500):
        for frame in ours.frames(now):
            theirs.receive(frame, now)
        assert not theirs.is_silent(now)


def test_a_peer_that_sends_nothing_is_silent_after_the_agreed_time() -> None:
    """The silence starts with the last frame of this session, and `next_wake_at` includes its end."""
    theirs = daemon()
    theirs.receive(agent_frame(first=1, count=1), 1_000)
    theirs.frames(6_999)

    assert not theirs.is_silent(6_999)
    assert theirs.next_wake_at(6_999) == 7_000
    assert theirs.is_silent(7_000)


def test_a_suspension_of_this_side_does_not_count_as_the_peer_s_silence() -> None:
    """After a suspension of this side the peer gets the full time again."""
    theirs = daemon()
    theirs.forgive(100_000)

    assert not theirs.is_silent(105_999)
    assert theirs.is_silent(106_000)


def test_the_daemon_confirms_the_newest_stamp_that_it_has_received() -> None:
    """What counts is when the agent sent the frame, not when it or the answer arrived."""
    ours, theirs = agent(1_000), daemon(0)
    (frame,) = ours.frames(1_000 + session.SILENCE_MS)
    assert ours.confirmed_at == 0

    theirs.receive(frame, 50)
    (answer,) = theirs.frames(session.SILENCE_MS)
    ours.receive(answer, 900_000)

    assert ours.confirmed_at == 1_000 + session.SILENCE_MS


def test_frames_of_a_daemon_that_hears_nothing_confirm_nothing() -> None:
    """In a partition of one direction the session stays open, and the lease ends."""
    ours, theirs = agent(1_000), daemon(0)
    theirs.receive(ours.frames(1_000 + session.SILENCE_MS)[0], 50)
    ours.receive(theirs.frames(session.SILENCE_MS)[0], 8_000)
    ours.frames(20_000)

    ours.receive(theirs.frames(2 * session.SILENCE_MS)[0], 21_000)

    assert ours.confirmed_at == 1_000 + session.SILENCE_MS


def test_a_frame_that_is_not_confirmed_extends_nothing() -> None:
    """The daemon does not know whether the agent's attempts may continue; later frames are confirmed again."""
    ours, theirs = agent(1_000), daemon(0)
    theirs.is_confirming = False
    theirs.receive(ours.frames(1_000 + session.SILENCE_MS)[0], 50)
    ours.receive(theirs.frames(session.SILENCE_MS)[0], 8_000)
    assert ours.confirmed_at == 0

    theirs.is_confirming = True
    theirs.receive(ours.frames(20_000)[0], 12_000)
    ours.receive(theirs.frames(3 * session.SILENCE_MS)[0], 21_000)

    assert ours.confirmed_at == 20_000


def test_what_was_never_sent_cannot_be_confirmed() -> None:
    """A stamp from the future extends nothing beyond the newest frame."""
    ours = agent(1_000)

    ours.receive(codec.encode_frame(TOKEN, 0, 1, [], [], 10**12), 1_500)

    assert ours.confirmed_at == 1_000


def test_the_hello_is_confirmed_by_the_answer() -> None:
    """The daemon's first frame repeats the stamp of the frame that opened the session."""
    theirs = Session(TOKEN, codec.Side.AGENT, 0, stamp=77)
    theirs.queue(messages.Welcome(TOKEN, 1, 1, "web-1", [], 6_000, []))

    (frame,) = theirs.frames(0)

    assert codec.decode_frame(frame, codec.Side.DAEMON).stamp == 77
