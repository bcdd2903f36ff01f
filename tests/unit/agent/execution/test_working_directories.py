"""Working directories: names, boundaries, and removal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.errors import Rejected
from waterflow_agent.execution import working_directories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.testing import FakeClock


def test_each_job_of_a_run_has_its_own_directory(tmp_path: Path) -> None:
    """The same job gets the same directory again, with its content."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    first, second = workspaces.enter("run", "a"), workspaces.enter("run", "b")
    (first / "file").write_text("x")

    assert first != second
    assert (workspaces.enter("run", "a") / "file").read_text() == "x"


def test_directory_that_a_step_removed_is_recreated(tmp_path: Path) -> None:
    """The next step of the job can run."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    workspaces.enter("run", "a").rmdir()

    assert workspaces.enter("run", "a").is_dir()


@given(st.text(max_size=40), st.text(max_size=40))
def test_directory_names_are_safe_and_unique(one: str, two: str) -> None:
    """For any job name, the directory is a single path component and differs from those of other jobs."""
    name = working_directories.directory_name(one)

    assert "/" not in name
    assert "\0" not in name
    assert name not in ("", ".", "..", ".trash")
    assert len(os.fsencode(name)) < 255
    assert (name == working_directories.directory_name(two)) == (one == two)


def test_relative_directory_cannot_leave_the_job(tmp_path: Path) -> None:
    """Neither `..` nor a link leads outside."""
    inside = tmp_path / "job"
    (inside / "sub").mkdir(parents=True)
    (inside / "link").symlink_to(inside / "sub")
    (inside / "out").symlink_to("/")

    assert working_directories.resolve(inside, None) == inside
    assert working_directories.resolve(inside, "sub/../sub") == inside / "sub"
    assert working_directories.resolve(inside, "link") == inside / "sub"
    for requested in ("..", "../job2", "sub/../../..", "out", "out/etc", "missing", "a\0b"):
        with pytest.raises(Rejected, match="working-directory"):
            working_directories.resolve(inside, requested)


def test_absolute_directory_cannot_leave_the_job(tmp_path: Path) -> None:
    """The path may come from an input or a branch name, so only paths inside the job's directory are allowed."""
    inside = tmp_path / "job"
    (inside / "sub").mkdir(parents=True)

    assert working_directories.resolve(inside, str(inside / "sub")) == inside / "sub"
    for requested in ("/", "/etc", str(tmp_path), f"{inside}/../other", "/no/such/place"):
        with pytest.raises(Rejected, match="leaves the job's directory"):
            working_directories.resolve(inside, requested)


def test_directories_of_unused_runs_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not deleted early, nor while an attempt exists. A restarted agent starts to count again."""
    monkeypatch.setattr(working_directories, "KEEP_S", 600)
    clock = FakeClock()
    workspaces = WorkingDirectories(tmp_path / "work", clock)
    used, held = workspaces.enter("used", "a"), workspaces.enter("held", "a")

    clock.advance(599_000)
    workspaces.retire_unused({"held"})
    assert used.exists()
    clock.advance(1_000)
    workspaces.retire_unused({"held"})
    assert not used.exists()
    assert held.exists()
    later = WorkingDirectories(tmp_path / "work", clock)
    later.retire_unused(set())
    assert held.exists()
    clock.advance(600_000)
    later.retire_unused(set())
    assert not held.exists()
    assert len(list((tmp_path / "work" / ".trash").iterdir())) == 2
    later.empty_trash()
    assert list((tmp_path / "work" / ".trash").iterdir()) == []


def test_releasing_the_last_job_removes_the_run_s_directory(tmp_path: Path) -> None:
    """Directories are listed by run and job, also by a new agent. Releasing an unknown job does nothing."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    for job in ("a", "b"):
        workspaces.enter("run", job)
    assert sorted(WorkingDirectories(tmp_path / "work", FakeClock()).jobs()) == [("run", "a"), ("run", "b")]

    workspaces.release("run", "a")
    workspaces.release("run", "a")
    workspaces.release("other", "a")

    assert workspaces.jobs() == [("run", "b")]
    assert workspaces.enter("run", "a").is_dir()
    workspaces.release("run", "a")
    workspaces.release("run", "b")
    assert not (tmp_path / "work" / "run").exists()


def test_the_directories_of_an_ended_job_are_found_where_they_are_now(tmp_path: Path) -> None:
    """What a job leaves is in the trash, or kept; a job whose name only begins in the same way has nothing to do with it."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    for job in ("a", "a.b", "c"):
        (workspaces.enter("run", job) / f"of-{job}").touch()
        (workspaces.temporary("run", job) / f"temp-{job}").touch()
    assert workspaces.remains("run", "a") == []

    for job in ("a", "a.b", "c"):
        workspaces.release("run", job, is_kept=job == "a")

    found = {file.name: path.parent.name for path in workspaces.remains("run", "a") for file in path.iterdir()}
    assert found == {"of-a": "run", "temp-a": ".trash"}
    assert {file.name for path in workspaces.remains("run", "c") for file in path.iterdir()} == {"of-c", "temp-c"}


def test_hostile_tree_is_removed(tmp_path: Path) -> None:
    """It has unreadable directories, links that lead outside, pipes and deep nesting; the targets of links are kept."""
    kept = tmp_path / "kept"
    kept.write_text("x")
    tree = tmp_path / "tree"
    deep = tree
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tree / "closed").mkdir()
    (tree / "closed" / "file").write_text("x")
    (tree / "link").symlink_to(kept)
    (tree / "up").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")
    (tree / "closed").chmod(0)

    assert working_directories.remove_tree(tree)

    assert not tree.exists()
    assert kept.read_text() == "x"


def test_link_in_place_of_a_tree_is_removed_without_its_target(tmp_path: Path) -> None:
    """The target of the link is never removed."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    assert working_directories.remove_tree(tmp_path / "link")
    assert (tmp_path / "kept").is_dir()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file immutable")
def test_immutable_file_is_removed(tmp_path: Path) -> None:
    """A step that runs as root may have left one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    path = tree / "fixed"
    path.write_text("x")
    fd = os.open(path, os.O_RDONLY)
    try:
        import fcntl

        fcntl.ioctl(fd, working_directories._SET_FLAGS, (0x10).to_bytes(8, "little"))
    except OSError:
        pytest.skip("this file system has no immutable files")
    finally:
        os.close(fd)

    assert working_directories.remove_tree(tree)


def test_a_directory_that_was_not_complete_is_removed_by_the_next_process(tmp_path: Path) -> None:
    """A copy that was interrupted by a restart of the agent is not used as a job's directory, and is deleted."""
    first = WorkingDirectories(tmp_path / "work", FakeClock())
    first.enter("run", "a")
    (tmp_path / "work" / "run" / ".new-1").mkdir()

    second = WorkingDirectories(tmp_path / "work", FakeClock())

    assert second.jobs() == [("run", "a")]
    assert not (tmp_path / "work" / "run" / ".new-1").exists()
