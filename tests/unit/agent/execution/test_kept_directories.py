"""The directories of failed jobs are kept for a while, within bounds, and given to re-runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflow_agent.execution import kept_directories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.testing import FakeClock
from waterflow_agent.wire.messages import KEPT_MS, JobName

MIB = 1 << 20


@pytest.fixture
def clock() -> FakeClock:
    """A clock that tests set."""
    return FakeClock()


def directories(tmp_path: Path, clock: FakeClock, bytes_max: int = 100 * MIB) -> WorkingDirectories:
    """A new agent with what an earlier one has left."""
    return WorkingDirectories(tmp_path / "work", clock, bytes_max)


def fail(work: WorkingDirectories, run: str, job: str = "build", content: bytes = b"made") -> None:
    """A job has written a file and failed."""
    (work.enter(run, job) / "out").write_bytes(content)
    work.release(run, job, is_kept=True)


def can_continue(work: WorkingDirectories, run: str, earlier: JobName) -> bool:
    """Whether a re-run gets the directory of an earlier job."""
    try:
        work.take_over(run, "build", earlier)
    except Rejected as error:
        return (error.code, error.text.partition("; next: ")[2]) != (
            "WF754",
            f"waterflowctl rerun {earlier.run} --from {earlier.job}",
        )
    return True


def test_a_rerun_gets_the_directory_of_the_failed_job_once(tmp_path: Path, clock: FakeClock) -> None:
    """It is the same directory with the same mode, it is not listed for the daemon before, and a second re-run gets none."""
    work = directories(tmp_path, clock)
    made = work.enter("one", "build")
    made.chmod(0o751)
    (made / "out").write_text("made")
    inode = made.stat().st_ino
    work.release("one", "build", is_kept=True)
    assert not made.exists()
    assert work.jobs() == []

    work.take_over("two", "build", JobName("one", "build"))

    taken = work.enter("two", "build")
    assert (taken.stat().st_ino, taken.stat().st_mode & 0o777) == (inode, 0o751)
    assert (taken / "out").read_text() == "made"
    assert work.jobs() == [("two", "build")]
    # The next step of the job finds it in its place.
    work.take_over("two", "build", JobName("one", "build"))
    assert not can_continue(work, "three", JobName("one", "build"))
    assert not (tmp_path / "work" / "three").exists()


def test_another_process_of_the_agent_finds_what_was_kept(tmp_path: Path, clock: FakeClock) -> None:
    """A restart changes nothing, also for a job whose names are not those of files."""
    fail(directories(tmp_path, clock), "one", "deploy to/eu@2")

    later = directories(tmp_path, clock)

    assert later.jobs() == []
    later.retire_unused(set())
    assert not can_continue(later, "two", JobName("one", "deploy"))
    later.take_over("two", "build", JobName("one", "deploy to/eu@2"))
    assert (later.enter("two", "build") / "out").read_text() == "made"


def test_a_directory_that_was_not_released_yet_can_be_taken(tmp_path: Path, clock: FakeClock) -> None:
    """The daemon knows that the job has ended, whatever became of its message."""
    work = directories(tmp_path, clock)
    (work.enter("one", "build") / "out").write_text("made")

    work.take_over("two", "build", JobName("one", "build"))
    work.release("one", "build", is_kept=True)

    assert (work.enter("two", "build") / "out").read_text() == "made"
    assert work.jobs() == [("two", "build")]


@pytest.mark.parametrize("passed_ms", [KEPT_MS, -KEPT_MS])
def test_a_directory_is_kept_for_a_day(tmp_path: Path, clock: FakeClock, passed_ms: int) -> None:
    """Also across a restart. Then it goes to the trash, and so it does when the clock was set back that far."""
    fail(directories(tmp_path, clock), "one")
    clock.advance(passed_ms - (1 if passed_ms > 0 else -1))
    work = directories(tmp_path, clock)
    work.kept.prune()
    assert list((tmp_path / "work" / ".trash").iterdir()) == []
    clock.advance(1 if passed_ms > 0 else -1)

    assert not can_continue(work, "two", JobName("one", "build"))
    work.kept.prune()

    assert len(list((tmp_path / "work" / ".trash").iterdir())) == 1
    assert not (tmp_path / "work" / ".kept").exists()


def test_the_oldest_directories_go_when_they_have_too_many_bytes(tmp_path: Path, clock: FakeClock) -> None:
    """Sizes are measured by every process anew, and what was taken does not count."""
    work = directories(tmp_path, clock, 5 * MIB)
    for number in range(4):
        fail(work, f"run{number}", content=bytes(2 * MIB))
        clock.advance(1)
    work.take_over("again", "build", JobName("run3", "build"))
    work = directories(tmp_path, clock, 5 * MIB)

    work.kept.measure()
    work.kept.prune()

    assert sorted(path.name for path in (tmp_path / "work" / ".kept").iterdir()) == ["run1", "run2"]


def test_the_oldest_directories_go_when_there_are_too_many(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, without waiting for the next look at sizes."""
    monkeypatch.setattr(kept_directories, "KEPT_MAX", 3)
    work = directories(tmp_path, clock)
    for number in range(5):
        fail(work, f"run{number}")
        clock.advance(1)
    assert sorted(path.name for path in (tmp_path / "work" / ".kept").iterdir()) == ["run2", "run3", "run4"]


def test_nothing_is_kept_where_the_operator_does_not_want_it(tmp_path: Path, clock: FakeClock) -> None:
    """`keep-failed-mb = 0`."""
    work = directories(tmp_path, clock, 0)
    fail(work, "one")
    assert not (tmp_path / "work" / ".kept").exists()
    assert not can_continue(work, "two", JobName("one", "build"))


def test_nothing_is_kept_on_a_disk_that_is_almost_full(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that has filled the disk gives its space back, and so do the others."""
    work = directories(tmp_path, clock)
    fail(work, "one")
    whole = os.statvfs(tmp_path)
    full = os.statvfs_result((*whole[:4], whole.f_blocks // 1000, *whole[5:]))
    monkeypatch.setattr(kept_directories, "FREE_BYTES_MIN", whole.f_blocks * whole.f_frsize)
    monkeypatch.setattr(os, "statvfs", lambda _: full)

    fail(work, "two")
    work.kept.prune()

    assert not (tmp_path / "work" / ".kept").exists()
    assert len(list((tmp_path / "work" / ".trash").iterdir())) == 2
