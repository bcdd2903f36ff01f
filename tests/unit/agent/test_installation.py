"""The id of an agent's data directory, which a copy does not share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from waterflow_agent.errors import Stalled
from waterflow_agent.state import installation


def test_the_id_stays_with_the_directory(tmp_path: Path) -> None:
    """It is random, and the same after a restart and under another name."""
    first = installation.load_or_create(tmp_path / ".")

    assert len(first) == 32
    assert installation.load_or_create(tmp_path) == first
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert installation.load_or_create(moved) == first


@pytest.mark.parametrize("copies", [shutil.copy2, os.link], ids=["copies", "hard links"])
def test_a_copy_has_another_id(tmp_path: Path, copies: object) -> None:
    """Also one with the same times and modes, and one of hard links; then it keeps its own id."""
    original = tmp_path / "original"
    original.mkdir()
    first = installation.load_or_create(original)
    shutil.copytree(original, tmp_path / "copy", copy_function=copies)  # type: ignore[arg-type]

    second = installation.load_or_create(tmp_path / "copy")

    assert second != first
    assert installation.load_or_create(tmp_path / "copy") == second
    assert installation.load_or_create(original) == first


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": 5}', '{"id": "x", "inodes": null}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    """The agent is another installation then, which a person has to accept."""
    (tmp_path / installation.FILE).write_text(content)

    assert len(installation.load_or_create(tmp_path)) == 32


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """WF317, with the path and the next step."""
    (tmp_path / f"{installation.FILE}.new").mkdir()

    with pytest.raises(Stalled, match="make it writable") as caught:
        installation.load_or_create(tmp_path)

    assert caught.value.code == "WF317"
