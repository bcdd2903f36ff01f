"""Sending output: offsets without gaps, a window over all attempts, and sending again from the last acknowledgement."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.display import missing_line
from waterflow_agent.execution.masking import Masks, StreamMasker
from waterflow_agent.execution.output import RESEND_MS, OutputLog, OutputSender, chunks_of
from waterflow_agent.runner.spool import SpoolWriter
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId


def key(number: int = 1) -> TaskId:
    return task_id("run", "job", f"s{number}", 1, 1)


def spooled(path: Path, pieces: list[bytes], cap: int = 1 << 20, *, is_complete: bool = True) -> str:
    """Returns a spool with these writes."""
    writer = SpoolWriter(str(path), cap)
    for number, piece in enumerate(pieces):
        writer.append(1 + number % 2, memoryview(piece), number)
    if is_complete:
        writer.close(99)
    return str(path)


def text(outputs: list[messages.Output]) -> bytes:
    return b"".join(chunk.data for output in outputs for chunk in output.chunks)


def everything(log: OutputLog, size: int = 1_000) -> bytes:
    parts: list[bytes] = []
    while chunks := log.read(sum(map(len, parts)), size, is_complete=True):
        parts += [chunk.data for chunk in chunks]
    return b"".join(parts)


def test_spool_output_precedes_the_agent_s_output(tmp_path: Path) -> None:
    """Both are one log with continuous offsets."""
    log = OutputLog(spooled(tmp_path / "output", [b"one\n", b"two\n"]))
    log.append(chunks_of([(2, b"from the agent\n")], 5))

    assert everything(log) == b"one\ntwo\nfrom the agent\n"
    assert log.size() == 23


def test_dropped_output_is_one_line(tmp_path: Path) -> None:
    """The line counts the bytes, and the log's size counts the line."""
    path = spooled(tmp_path / "output", [b"a" * 100, b"b" * 1_000, b"c" * 100], cap=400)

    log = everything(OutputLog(path))

    assert log.startswith(b"a" * 100)
    assert log.endswith(b"c" * 100)
    kept = sum(log.count(letter) for letter in (b"aaaaa", b"bbbbb", b"ccccc")) * 5
    assert b"bytes of output were dropped here" in log
    assert 0 < kept <= 400
    assert OutputLog(path).size() == len(log)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(20, 400), st.data())
def test_log_has_the_same_bytes_from_every_offset(pieces: list[bytes], cap: int, data: st.DataObject) -> None:
    """The bytes at an offset are the same wherever reading starts, because the daemon may have any prefix."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = spooled(Path(directory, "output"), pieces, cap)
        log = OutputLog(path, chunks_of([(2, b"the end")], 1))
        whole = everything(log, 7)
        offset = data.draw(st.integers(0, len(whole)))
        size = data.draw(st.integers(1, 100))

        piece = b"".join(chunk.data for chunk in OutputLog(path, log._printed).read(offset, size, is_complete=True))

    assert whole[offset:].startswith(piece)
    assert piece or offset == len(whole)


def test_many_small_chunks_are_split_over_messages(tmp_path: Path) -> None:
    """A step that prints single bytes makes a chunk of each; the offsets stay without gaps."""
    count = 2 * messages.OUTPUT_CHUNKS_MAX + 10
    sender = OutputSender()
    sender.open(key(), spooled(tmp_path / "output", [b"x"] * count))
    sender.finish(key(), [], count)
    outputs, _ = sender.take(0)

    assert [len(output.chunks) for output in outputs] == [messages.OUTPUT_CHUNKS_MAX] * 2 + [10]
    assert [output.offset for output in outputs] == [0, messages.OUTPUT_CHUNKS_MAX, 2 * messages.OUTPUT_CHUNKS_MAX]
    assert text(outputs) == b"x" * count


def test_running_step_sends_the_first_half_of_its_limit(tmp_path: Path) -> None:
    """The bytes after it may still be dropped, so they are sent after the exit."""
    path = spooled(tmp_path / "output", [b"a" * 100, b"b" * 300], cap=200, is_complete=False)
    log = OutputLog(path)

    running = b"".join(chunk.data for chunk in log.read(0, 1_000, is_complete=False))

    assert running == b"a" * 100


def test_window_is_shared_by_all_attempts(tmp_path: Path) -> None:
    """Two floods share it in turns, and continue with each acknowledgement."""
    pump = OutputSender(window_bytes=150_000)
    for number in (1, 2):
        pump.open(key(number), spooled(tmp_path / f"output{number}", [b"x" * 60_000] * 10))
        pump.finish(key(number), [], 600_000)

    first, _ = pump.take(0)
    again, _ = pump.take(1)
    pump.acknowledge(key(1), 50_000, 2)
    more, _ = pump.take(3)

    assert {output.key for output in first} == {key(1), key(2)}
    assert len(text(first)) == 150_000
    assert again == []
    assert len(text(more)) == 50_000
    assert pump.take(4)[0] == [], "the window is full"


def test_end_is_reported_when_all_output_is_acknowledged(tmp_path: Path) -> None:
    """It is reported only for an attempt that has ended."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"text"]))
    pump.take(0)

    early = pump.acknowledge(key(), 4, 0)
    pump.finish(key(), chunks_of([(2, b"!")], 0), 5)
    rest, _ = pump.take(0)

    assert not early
    assert [(output.offset, output.chunks[0].data) for output in rest] == [(4, b"!")]
    assert not pump.acknowledge(key(), 4, 0)
    assert pump.acknowledge(key(), 5, 0)


def test_end_after_the_last_acknowledgement_is_reported_at_once(tmp_path: Path) -> None:
    """The daemon acknowledged all output while the step was running, so no further acknowledgement will come."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"all"]))
    pump.take(0)
    assert not pump.acknowledge(key(), 3, 0)

    assert pump.finish(key(), [], 3)


def test_new_session_starts_at_the_last_acknowledgement(tmp_path: Path) -> None:
    """Output in flight is sent again."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"one", b"two"]))
    pump.take(0)
    pump.acknowledge(key(), 3, 0)
    pump.finish(key(), [], 6)

    pump.rewind()
    outputs, _ = pump.take(0)

    assert [(output.offset, text([output])) for output in outputs] == [(3, b"two")]


def test_first_acknowledgement_after_a_restart_sets_the_offset(tmp_path: Path) -> None:
    """After a restart of the agent, the first acknowledgement says how far the daemon's log reaches."""
    pump = OutputSender(window_bytes=1)
    pump.open(key(), spooled(tmp_path / "output", [b"0123456789"]))
    pump.finish(key(), [], 10)
    pump.take(0)

    pump.acknowledge(key(), 7, 0)
    outputs, _ = pump.take(0)

    assert [(output.offset, text([output])) for output in outputs] == [(7, b"7")]


def test_gap_at_the_daemon_is_filled_once(tmp_path: Path) -> None:
    """A repeated acknowledgement means that a chunk is missing; it is not sent again for each repetition."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"one", b"two"]))
    pump.finish(key(), [], 6)
    pump.take(0)

    pump.acknowledge(key(), 0, 0)
    once, _ = pump.take(0)
    pump.acknowledge(key(), 0, 0)
    twice, _ = pump.take(0)

    assert text(once) == b"onetwo"
    assert twice == []


def test_unacknowledged_output_is_sent_again(tmp_path: Path) -> None:
    """It is sent again after `RESEND_MS`, and not before."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"one"]))
    pump.finish(key(), [], 3)
    pump.take(1_000)

    assert pump.next_wake_at() == 1_000 + RESEND_MS
    assert pump.take(999 + RESEND_MS) == ([], [])
    assert text(pump.take(1_000 + RESEND_MS)[0]) == b"one"


def test_removed_spool_is_reported(tmp_path: Path) -> None:
    """The agent must not keep the attempt forever because of deleted bytes."""
    pump = OutputSender()
    pump.open(key(), str(tmp_path / "nothing"))
    pump.finish(key(), [], 10)

    assert pump.take(0) == ([], [key()])


def test_dropped_attempt_frees_the_window(tmp_path: Path) -> None:
    """Its unacknowledged bytes no longer count."""
    pump = OutputSender(window_bytes=3)
    pump.open(key(), spooled(tmp_path / "output", [b"one"]))
    pump.take(0)

    pump.drop(key())

    assert pump.take(0) == ([], [])
    pump.open(key(2), spooled(tmp_path / "other", [b"two"]))
    assert text(pump.take(1)[0]) == b"two"


def test_message_never_exceeds_the_limit(tmp_path: Path) -> None:
    """This includes the lines that count dropped bytes."""
    pump = OutputSender()
    pump.open(key(), spooled(tmp_path / "output", [b"x" * 50_000] * 9, cap=200_000))
    printed = chunks_of([(2, b"y" * 300_000)], 0)
    total = OutputLog(str(tmp_path / "output")).size() + 300_000
    pump.finish(key(), printed, total)
    sizes: list[int] = []
    offset = 0

    while not pump.acknowledge(key(), offset, 0):
        for output in pump.take(0)[0]:
            assert output.offset == offset
            sizes.append(sum(len(chunk.data) for chunk in output.chunks))
            offset += sizes[-1]

    assert max(sizes) <= messages.OUTPUT_CHUNK_BYTES_MAX
    assert len(missing_line(10**15)) < 100


def test_lost_output_is_sent_again_despite_acknowledgements_of_other_attempts(tmp_path: Path) -> None:
    """Acknowledgements of one attempt do not delay the retransmission of another."""
    pump = OutputSender()
    for number in (1, 2):
        pump.open(key(number), spooled(tmp_path / f"output{number}", [b"x" * 100]))
    pump.take(0)
    pump.acknowledge(key(2), 50, RESEND_MS - 1)

    again, _ = pump.take(RESEND_MS)

    assert [(output.key, output.offset) for output in again] == [(key(1), 0)]
    assert pump.next_wake_at() == 2 * RESEND_MS - 1


def test_daemon_restored_from_a_backup_gets_missing_output_again(tmp_path: Path) -> None:
    """A restored backup has less output than was acknowledged, so the first acknowledgement of a session counts."""
    pump = OutputSender(window_bytes=8)
    pump.open(key(), spooled(tmp_path / "output", [b"abcdefgh"]))
    pump.take(0)
    pump.acknowledge(key(), 6, 0)

    pump.acknowledge(key(), 2, 1)
    pump.rewind()
    pump.take(2)
    pump.acknowledge(key(), 2, 3)
    rest, _ = pump.take(4)

    assert text(rest) == b"cdefgh"
    pump.open(key(2), spooled(tmp_path / "other", [b"12345678"]))
    assert text(pump.take(5)[0]) == b"12", "6 bytes of the window are unacknowledged"


@given(
    st.lists(st.sampled_from([b"s3cret", b"s3c", b"s3cr", b"ret", b"x\n", b"s3cs3cret", b"ret s3cre"]), max_size=12),
    st.integers(1, 40),
    st.integers(0, 120),
)
def test_a_masked_log_is_the_same_from_every_offset(pieces: list[bytes], size: int, offset: int) -> None:
    """Sending again relies on this. The streams do not affect each other."""
    with TemporaryDirectory() as folder:
        path = spooled(Path(folder) / "output", pieces)
        masks = Masks(["s3cret"])
        whole = everything(OutputLog(path, masks=masks))

        log = OutputLog(path, masks=masks)
        assert everything(log, size) == whole
        assert log.size() == len(whole)
        begun = OutputLog(path, masks=masks)
        begun.read(0, size, is_complete=False)
        assert begun.copy().size() == len(whole)
        assert everything(begun) == whole
        if len(whole) == sum(map(len, pieces)):
            begun.mark_clean()
            log.mark_clean()
            assert everything(begun, size) == whole
        rest = b"".join(chunk.data for chunk in log.read(min(offset, len(whole)), 10_000, is_complete=True))
        streams = {1: b"", 2: b""}
        for chunk in OutputLog(path, masks=masks).read(0, 10_000, is_complete=True):
            streams[chunk.stream] += chunk.data
    assert rest == whole[min(offset, len(whole)) :]
    for number, reported in streams.items():
        assert reported == _masked(masks, b"".join(pieces[number - 1 :: 2]))


def _masked(masks: Masks, printed: bytes) -> bytes:
    stream = StreamMasker(masks)
    return stream.feed(printed) + stream.finish()


def test_a_growing_masked_log_has_the_offsets_of_the_finished_one(tmp_path: Path) -> None:
    """The output that is sent while the step runs is a prefix of the complete output."""
    writer = SpoolWriter(str(tmp_path / "output"), 1 << 20)
    masks = Masks(["s3cret"])
    log = OutputLog(str(tmp_path / "output"), masks=masks)
    reported = b""
    for number, piece in enumerate([b"a s3c", b"on the other s3c", b"ret b", b"ret d", b" s3", b""]):
        if piece:
            writer.append(1 + number % 2, memoryview(piece), number)
        reported += b"".join(chunk.data for chunk in log.read(len(reported), 1_000, is_complete=False))
        assert b"s3c" not in reported
    writer.close(9)

    assert reported == b"a on the other *** b*** d "
    assert everything(OutputLog(str(tmp_path / "output"), masks=masks)) == reported + b"s3"


def test_a_gap_releases_held_back_text(tmp_path: Path) -> None:
    """The start of a secret before dropped bytes is sent before the line that counts them, or masked."""
    path = spooled(tmp_path / "output", [b"x" * 190 + b"password12", b"b" * 1_000, b"c" * 100], cap=400)

    log = everything(OutputLog(path, masks=Masks(["password1234"])))

    assert log.startswith(b"x" * 190 + b"***\n[waterflow:")
    assert OutputLog(path, masks=Masks(["password1234"])).size() == len(log)
