"""Step directories are reused only when they are clean."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.nodes import step_files


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.fixture
def discarded() -> list[Path]:
    return []


@pytest.fixture
def directories(tmp_path: Path, discarded: list[Path]) -> StepDirectories:
    def discard(path: Path) -> None:
        discarded.append(path)
        path.rename(tmp_path / f"away{len(discarded)}")

    return StepDirectories(tmp_path / "steps", discard)


def test_directory_is_emptied_and_reused(directories: StepDirectories, discarded: list[Path]) -> None:
    """The next step sees no files of the last one."""
    first = directories.take()
    files = step_files.create(directories.path(first))
    Path(files.output).write_text("a=1\n")
    directories.release(first)
    directories.release(first)

    second, third = directories.take(), directories.take()

    assert (second, third != second) == (first, True)
    assert step_files.collect(step_files.create(directories.path(second))).outputs == {}
    assert discarded == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "more").write_text("x"),
        lambda path: ((path / "output").unlink(), (path / "output").symlink_to("/etc/passwd")),
        lambda path: replace_by_pipe(path / "env"),
        lambda path: os.link(path / "output", path.parent / "kept"),
        lambda path: (path / "output").chmod(0o666),
        lambda path: ((path / "summary").unlink(), (path / "summary").mkdir()),
    ],
)
def test_unclean_directory_is_not_reused(
    directories: StepDirectories, discarded: list[Path], spoil: Callable[[Path], object]
) -> None:
    """The cases are another file, a link, a pipe, a second link, another mode, and a directory."""
    number = directories.take()
    path = Path(directories.path(number))
    step_files.create(str(path))
    spoil(path)

    directories.release(number)

    assert discarded == [path]
    assert directories.take() != number


def test_restart_keeps_the_directories_of_open_attempts(tmp_path: Path, directories: StepDirectories) -> None:
    """The others are freed, and no number is assigned twice."""
    for _ in range(3):
        step_files.create(directories.path(directories.take()))
    later = StepDirectories(tmp_path / "steps", lambda path: None)

    later.adopt(2)
    later.sweep()

    assert sorted(later.take() for _ in range(4)) == [1, 3, 4, 5]
