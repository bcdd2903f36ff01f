"""The daemon's key file, rate limits, rejections and clone detection."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from waterflow_agent.errors import Stalled
from waterflow_agent.wire import messages
from waterflowd.dispatch import keys
from waterflowd.dispatch.clone_detection import CLONE_RETRY_MS, CloneDetector
from waterflowd.dispatch.rejections import PEER_LINES_BURST, Rejections
from waterflowd.rates import BucketPerName, TokenBucket


def test_the_key_pair_is_created_once_and_is_private(tmp_path: Path) -> None:
    """The second start uses the first one's key; no other file stays behind."""
    first = keys.load_server_keys(tmp_path)
    again = keys.load_server_keys(tmp_path)
    path = tmp_path / "keys" / "server.key"

    assert first == again
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["server.key"]
    assert first.current.secret not in repr(first)


def _load(data_dir: Path) -> str:
    return keys.load_server_keys(data_dir).public


def test_two_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """The second process uses the key of the first."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_load, [tmp_path] * 4, chunksize=1))) == 1


@pytest.mark.parametrize("content", [b"", b"short\nkeys\n", b"\xff\xfe", b"a" * 40 + b"\n" + b"a" * 40 + b"\n"])
def test_a_damaged_key_file_stops_the_daemon_with_a_text(tmp_path: Path, content: bytes) -> None:
    """A new key in its place would lock out every agent, so a person decides."""
    keys.load_server_keys(tmp_path)
    path = tmp_path / "keys" / "server.key"
    path.write_bytes(content)

    with pytest.raises(Stalled) as caught:
        keys.load_server_keys(tmp_path)

    assert caught.value.code == "WF220"
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    """File modes are checked, not silently repaired."""
    keys.load_server_keys(tmp_path)
    (tmp_path / "keys" / "server.key").chmod(0o640)

    with pytest.raises(Stalled, match="chmod 600"):
        keys.load_server_keys(tmp_path)


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    """Five at once, then two per second."""
    bucket = TokenBucket(2.0, 5, 0)

    assert [bucket.take(0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(now) for now in (400, 500, 600, 1_000)] == [False, True, False, True]


def test_names_are_bounded_and_the_oldest_is_dropped() -> None:
    """However many names arrive, only a limited number is kept."""
    buckets = BucketPerName(0.001, 1, 2)

    assert [buckets.take(name, 0) for name in "aabcb"] == [True, False, True, True, False]
    assert buckets.take("a", 0)


def test_all_rejections_are_counted_and_some_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A flood costs a burst of lines; the next line says how many were left out."""
    now = [0]
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for number in range(1_000):
            rejections.record("WF202", "evil\x1b[2J\ntext", f"10.0.0.{number}")
        now[0] = 1_000
        rejections.record("WF202", "one more", "10.0.1.1")

    assert rejections.total == rejections.counts["WF202"] == 1_001
    assert len(caplog.messages) == 21
    assert "980 more rejections" in caplog.messages[-1]
    assert all(message.isprintable() for message in caplog.messages)


def test_one_peer_does_not_hide_what_the_others_do(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of one peer uses up its own few lines, and another peer's first rejection is still logged."""
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: 0)
    with caplog.at_level(logging.WARNING):
        for _ in range(1_000):
            rejections.record("WF202", "noise", "10.0.0.1")
        rejections.record("WF212", "a break-in", "10.0.0.2")

    assert len(caplog.messages) == PEER_LINES_BURST + 1
    assert "a break-in" in caplog.messages[-1]


def _newcomer() -> CloneDetector:
    hello = messages.Hello("0123456789abcdef", 1, 1, "0", "newer", "m", "b", 1, "h", "linux", "arm", {}, [], [])
    return CloneDetector(hello, 1_000, 6_000)


def test_a_newer_process_is_accepted_when_the_older_one_is_silent() -> None:
    """It waits for two keep-alive intervals, and the answer says how long."""
    detector = _newcomer()

    assert [rejection.after_ms if (rejection := detector.rejection(now)) else 0 for now in (1_000, 4_000, 5_000)] == [
        4_000,
        1_000,
        0,
    ]


def test_a_newer_process_is_a_clone_if_the_older_one_sends() -> None:
    """The first frame that cannot have been in transit decides for good, and is reported once."""
    detector = _newcomer()

    assert [detector.frame_received(now) for now in (1_001, 1_999, 2_000, 2_001)] == [False, False, True, False]
    rejection = detector.rejection(100_000)
    assert rejection is not None
    assert (rejection.code, rejection.after_ms) == ("WF211", CLONE_RETRY_MS)
