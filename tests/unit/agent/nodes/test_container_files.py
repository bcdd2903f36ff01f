"""Which files of an attempt a container sees, and what comes back of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from waterflow_agent.nodes.containers import execution
from waterflow_agent.nodes.step_files import RETURNED
from waterflow_agent.wire import messages


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """The directory of an attempt, as the agent has prepared it."""
    directory = tmp_path / "attempt"
    directory.mkdir()
    for name in RETURNED:
        (directory / name).write_bytes(b"")
    (directory / "script.sh").write_text(f"echo a=b >> {directory}/output\n")
    (directory / "request").write_text("{}")
    return directory


@pytest.fixture
def shared(tmp_path: Path, attempt: Path) -> Iterator[tuple[Path, int]]:
    """The copy that the container sees, and its descriptor."""
    (tmp_path / "start").mkdir()
    with execution.shared_files(str(tmp_path / "start"), str(attempt)) as (inside, directory):
        yield Path(inside), directory


def test_the_container_gets_a_copy_with_its_own_paths_that_any_user_can_run(
    attempt: Path, shared: tuple[Path, int]
) -> None:
    """The script names the copies; the request, which is for the process on the server, is not among them."""
    inside, _ = shared
    assert {entry.name for entry in inside.iterdir()} == {*RETURNED, "script.sh"}
    assert (inside / "script.sh").read_text() == f"echo a=b >> {inside}/output\n"
    assert (inside / "script.sh").stat().st_mode & 0o777 == 0o755
    assert {(inside / name).stat().st_mode & 0o777 for name in RETURNED} == {0o666}
    assert inside.stat().st_mode & 0o777 == 0o755


def test_what_a_script_has_written_comes_back(attempt: Path, shared: tuple[Path, int]) -> None:
    """Every file of a step, with its whole content; other files that the script has made do not."""
    inside, directory = shared
    for name in RETURNED:
        (inside / name).write_text(f"of {name}\n")
    (inside / "stray").write_text("x")

    execution.copy_back(directory, str(attempt))

    assert {name: (attempt / name).read_text() for name in RETURNED} == {name: f"of {name}\n" for name in RETURNED}
    assert not (attempt / "stray").exists()


def test_nothing_comes_back_through_links_pipes_and_directories(
    tmp_path: Path, attempt: Path, shared: tuple[Path, int]
) -> None:
    """A container may do anything to its copy; no file of the server is read because of that, and nothing hangs."""
    inside, directory = shared
    (tmp_path / "private").write_text("a-secret-of-the-server")
    for name in RETURNED:
        (inside / name).unlink()
    (inside / "output").symlink_to(tmp_path / "private")
    os.mkfifo(inside / "env")
    (inside / "path").mkdir()

    execution.copy_back(directory, str(attempt))

    assert {name: (attempt / name).read_bytes() for name in RETURNED} == dict.fromkeys(RETURNED, b"")


def test_a_directory_that_was_replaced_gives_back_only_what_was_in_the_first_one(
    tmp_path: Path, attempt: Path, shared: tuple[Path, int]
) -> None:
    """The files are read through a descriptor, so another directory of this name, or a link, changes nothing."""
    inside, directory = shared
    (inside / "output").write_text("true=1\n")
    inside.rename(tmp_path / "moved")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "output").write_text("false=1\n")
    inside.symlink_to(tmp_path / "other")

    execution.copy_back(directory, str(attempt))

    assert (attempt / "output").read_text() == "true=1\n"


def test_more_than_is_accepted_comes_back_only_in_part(attempt: Path, shared: tuple[Path, int]) -> None:
    """One byte too many is enough for the agent to refuse it; a container cannot fill the server's disk with it."""
    inside, directory = shared
    with (inside / "output").open("wb") as file:
        file.truncate(64 << 20)

    execution.copy_back(directory, str(attempt))

    assert messages.OUTPUTS_BYTES_MAX < (attempt / "output").stat().st_size < messages.OUTPUTS_BYTES_MAX + (1 << 20)


def test_what_the_disk_says_is_not_taken_for_a_lost_engine(tmp_path: Path, attempt: Path) -> None:
    """A full disk or a missing directory is named as what it is, when files are copied and when they come back."""
    missing = pytest.raises(execution.FilesError, match="No such file")
    with missing, execution.shared_files(str(tmp_path / "missing"), str(attempt)):
        pass

    (tmp_path / "start").mkdir()
    shared = execution.shared_files(str(tmp_path / "start"), str(attempt))
    with shared as (_, directory), missing:
        execution.copy_back(directory, str(tmp_path / "missing"))
