"""The daemon's key file, and the limits on recorded rejections."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from waterflow_agent.errors import Stalled
from waterflow_agent.wire import messages
from waterflowd.dispatch import keys
from waterflowd.dispatch.clone_detection import CLONE_RETRY_MS, CloneDetector
from waterflowd.dispatch.rejections import Rejections
from waterflowd.rates import BucketPerName, TokenBucket


def test_the_pair_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """The second start uses the first one's key, and no other file remains."""
    first = keys.load_server_keys(tmp_path)
    again = keys.load_server_keys(tmp_path)
    path = tmp_path / "keys" / "server.key"

    assert first == again
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["server.key"]
    assert first.secret not in repr(first)


def _load(data_dir: Path) -> str:
    return keys.load_server_keys(data_dir).public


def test_two_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """Of two concurrent first starts, the second one uses the existing key."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_load, [tmp_path] * 4, chunksize=1))) == 1


@pytest.mark.parametrize("content", [b"", b"short\nkeys\n", b"\xff\xfe", b"a" * 40 + b"\n" + b"a" * 40 + b"\n"])
def test_a_damaged_key_file_stops_the_daemon_with_a_text(tmp_path: Path, content: bytes) -> None:
    """The daemon does not replace a damaged key, which would lock out every agent: a person must decide."""
    keys.load_server_keys(tmp_path)
    path = tmp_path / "keys" / "server.key"
    path.write_bytes(content)

    with pytest.raises(Stalled) as caught:
        keys.load_server_keys(tmp_path)

    assert caught.value.code == "WF220"
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    """File modes are checked, and not silently repaired."""
    keys.load_server_keys(tmp_path)
    (tmp_path / "keys" / "server.key").chmod(0o640)

    with pytest.raises(Stalled, match="chmod 600"):
        keys.load_server_keys(tmp_path)


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    """A bucket allows five at once, and then two per second."""
    bucket = TokenBucket(2.0, 5, 0)

    assert [bucket.take(0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(now) for now in (400, 500, 600, 1_000)] == [False, True, False, True]


def test_names_are_bounded_and_the_oldest_makes_room() -> None:
    """However many names appear, only a limited number is remembered."""
    buckets = BucketPerName(0.001, 1, 2)

    assert [buckets.take(name, 0) for name in "aabcb"] == [True, False, True, True, False]
    assert buckets.take("a", 0)


def test_refusals_are_counted_in_full_and_told_in_part(caplog: pytest.LogCaptureFixture) -> None:
    """A flood produces a burst of log lines; the next line says how many were omitted."""
    now = [0]
    rejections = Rejections(logging.getLogger("waterflow.test"), lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(1_000):
            rejections.note("WF202", "evil\x1b[2J\ntext", "10.0.0.1")
        now[0] = 1_000
        rejections.note("WF202", "one more", "10.0.0.1")

    assert rejections.total == rejections.counts["WF202"] == 1_001
    assert len(caplog.messages) == 21
    assert "980 more rejections" in caplog.messages[-1]
    assert all(message.isprintable() for message in caplog.messages)


def _newcomer() -> CloneDetector:
    hello = messages.Hello("0123456789abcdef", 1, 1, "0", "newer", "m", "b", 1, "h", "linux", "arm", {}, [], [])
    return CloneDetector(hello, 1_000, 6_000)


def test_a_newcomer_is_let_in_when_the_older_process_stays_silent() -> None:
    """It waits for two keep-alives, and learns how long."""
    detector = _newcomer()

    assert [refusal.after_ms if (refusal := detector.refusal(now)) else 0 for now in (1_000, 4_000, 5_000)] == [
        4_000,
        1_000,
        0,
    ]


def test_a_newcomer_is_a_clone_once_the_older_process_speaks() -> None:
    """The first frame that cannot have been in flight before decides permanently, and is reported once."""
    detector = _newcomer()

    assert [detector.is_exposed(now) for now in (1_001, 1_999, 2_000, 2_001)] == [False, False, True, False]
    refusal = detector.refusal(100_000)
    assert refusal is not None
    assert (refusal.code, refusal.after_ms) == ("WF211", CLONE_RETRY_MS)
