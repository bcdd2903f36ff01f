"""The state file of a mirror, and its directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from waterflowd.gitsource.remote import mirror
from waterflowd.gitsource.remote.fetch_protocol import Fetched
from waterflowd.gitsource.remote.mirror import Mirror


def fetched(*commits: str, shallow: tuple[str, ...] = ()) -> Fetched:
    return Fetched(head_ref="refs/heads/main", object_ids={}, complete=commits, commits=commits, shallow=shallow)


@pytest.fixture
def made(tmp_path: Path) -> Mirror:
    made = Mirror(tmp_path / "mirrors" / "ops.git", "git://host/ops")
    made.open()
    return made


def test_the_state_is_read_again_by_the_next_process(made: Mirror) -> None:
    """Only the owner may read the mirror."""
    assert made.fetched_at is None
    made.record(fetched("a", shallow=("a",)))
    made.record(fetched("b"))
    again = Mirror(made.path, "git://host/ops")
    again.open()
    assert (again.state.commits, again.state.shallow) == (("a", "b"), ("a",))
    assert again.fetched_at is not None
    assert made.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("note", [b"", b"{", b'{"place": 7}', b"\xff", None])
def test_without_a_readable_state_file_a_mirror_starts_empty(made: Mirror, note: bytes | None) -> None:
    """Nothing that may be missing is recorded as complete."""
    made.record(fetched("a"))
    (made.path / "objects" / "pack" / "pack-x.pack").touch()
    if note is None:
        (made.path / "waterflow.json").unlink()
    else:
        (made.path / "waterflow.json").write_bytes(note)
    made.open()
    assert (made.state.complete, made.pack_count()) == ((), 0)


def test_leftovers_of_a_fetch_are_removed(made: Mirror) -> None:
    """A killed child could not remove them."""
    made.record(fetched("a"))
    for name in ("objects/tmp_pack_x", "objects/tmp_fetch_y", "objects/pack/pack-without-index.pack"):
        (made.path / name).touch()
    Path(made.begin_fresh(), "x").touch()
    made.open()
    assert sorted(path.name for path in (made.path / "objects").iterdir()) == ["info", "pack"]
    assert made.pack_count() == 0
    assert [path.name for path in made.path.parent.iterdir()] == ["ops.git"]


def test_only_the_newest_commits_are_recorded(made: Mirror) -> None:
    """Thousands of commits are not announced to a server."""
    for number in range(400):
        made.record(fetched(f"{number}", shallow=(f"{number}",)))
    assert len(made.state.commits) == len(made.state.shallow) == 256
    assert made.state.commits[-1] == "399"


def test_an_age_is_displayed_in_the_largest_unit(made: Mirror) -> None:
    """Messages show the age in this form."""
    assert mirror.age_text(None) == "never fetched"
    made.record(fetched())
    for seconds, expected in ((90, "1 min"), (7_300, "2 h"), (200_000, "2 d")):
        os.utime(made.path / "waterflow.json", (0, 0))
        at = made.fetched_at
        assert at == 0
        assert mirror.age_text(time.time() - seconds) == f"last fetched {expected} ago"
