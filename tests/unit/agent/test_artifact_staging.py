"""The folder into which artifacts are fetched: left ones are removed, used ones stay, and nothing is moved halfway."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from waterflow_agent.nodes.artifacts import staging
from waterflow_agent.nodes.artifacts.staging import Staging
from waterflow_agent.nodes.node import NodeFailure


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_a_killed_step_has_left_is_removed(tmp_path: Path) -> None:
    """Each kill would otherwise leave up to the size of an artifact at a destination outside the workspace."""
    left = Staging(tmp_path)
    write(left.folder(0), {"image": "half"})
    # The kernel closes the files of a process that is killed.
    os.close(left._lock)

    staged = Staging(tmp_path)

    assert os.listdir(tmp_path) == [staged.path.name]
    staged.remove()


def test_a_folder_that_a_step_uses_stays(tmp_path: Path) -> None:
    """Two steps may fetch to the same destination at the same time; folders with similar names are of other people."""
    first = Staging(tmp_path)
    write(first.folder(0), {"a": "1"})
    write(tmp_path / ".artifacts-of-last-year", {"b": "2"})

    second = Staging(tmp_path)
    second.remove()

    assert read(first.path) == {"0/a": "1"}
    first.remove()
    assert os.listdir(tmp_path) == [".artifacts-of-last-year"]


@pytest.mark.parametrize(
    ("existing", "problem"),
    [
        ({"z/inner": "a folder"}, "z: a folder is in the place of a file"),
        ({"dir": "a file"}, "dir: a file is in the place of a folder"),
    ],
)
def test_something_in_the_way_leaves_the_destination_as_it_was(
    existing: dict[str, str], problem: str, tmp_path: Path
) -> None:
    """Nothing is moved before everything can be moved."""
    source = write(tmp_path / "source", {"a": "new", "dir/b": "new", "z": "new"})
    target = write(tmp_path / "target", {"a": "old", **existing})

    with pytest.raises(NodeFailure, match=problem):
        staging.move_all([(source, target)])

    assert read(target) == {"a": "old", **existing}


def test_the_first_of_several_is_not_moved_if_the_second_cannot_be(tmp_path: Path) -> None:
    """All artifacts of a step arrive, or none."""
    first, second = write(tmp_path / "1", {"a": "new"}), write(tmp_path / "2", {"b": "new"})
    target = write(tmp_path / "target", {"two": "a file"})

    with pytest.raises(NodeFailure, match="two: a file is in the place of a folder"):
        staging.move_all([(first, target / "one"), (second, target / "two")])

    assert read(target) == {"two": "a file"}


def test_links_at_the_destination_are_used_or_replaced(tmp_path: Path) -> None:
    """A link to a folder is that folder, as for `cp -r`; a link in the place of a file is replaced, also a broken one."""
    source = write(tmp_path / "source", {"shared/new": "1", "current": "2", "broken": "3"})
    target, elsewhere = tmp_path / "target", write(tmp_path / "elsewhere", {"old": "0"})
    target.mkdir()
    (target / "shared").symlink_to(elsewhere)
    (target / "current").symlink_to(elsewhere)
    (target / "broken").symlink_to("nowhere")

    staging.move_all([(source, target)])

    assert read(elsewhere) == {"old": "0", "new": "1"}
    assert (target / "current").read_text() == "2"
    assert (target / "broken").read_text() == "3"
    assert not (target / "current").is_symlink()


@pytest.mark.skipif(
    not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat("/var/tmp").st_dev, reason="needs two disks"
)
def test_a_folder_of_the_destination_may_be_on_another_disk(tmp_path: Path) -> None:
    """Such as `release/shared`, a link to a mounted disk."""
    disks = [Path("/dev/shm"), Path("/var/tmp")]
    other = next(disk for disk in disks if disk.stat().st_dev != tmp_path.stat().st_dev) / f"waterflow-{os.getpid()}"
    other.mkdir()
    try:
        source = write(tmp_path / "source", {"shared/a": "1", "shared/deep/er/b": "2"})
        (source / "shared/a").chmod(0o755)
        target = tmp_path / "target"
        target.mkdir()
        (target / "shared").symlink_to(write(other, {"a": "old"}))

        staging.move_all([(source, target)])

        assert read(other) == {"a": "1", "deep/er/b": "2"}
        assert os.access(other / "a", os.X_OK)
    finally:
        shutil.rmtree(other)


def test_too_little_space_is_an_error_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that becomes full would harm everything else on the server."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=100, free=10 << 20))
    staged = Staging(tmp_path)
    staged.check_space(10 << 20)

    with pytest.raises(NodeFailure, match=r"have 1\.0 GiB, and .* has only 10\.0 MiB left; free some space") as caught:
        staged.check_space(1 << 30)

    assert caught.value.may_retry
    staged.remove()
