"""The tar archive of an artifact: any range of it, without ever making it."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from waterflow_agent.artifacts.content import ArtifactFile
from waterflowd.artifacts.tar import TarLayout

PATHS = ["a", "b/" + "n" * 96, "c/" + "n" * 98, "d/" + "n" * 99, "e/" + "n" * 509, "f/" + "n" * 510, "ü" * 60, "z"]


def layout(sizes: list[int]) -> tuple[TarLayout, bytes, list[ArtifactFile]]:
    files = [ArtifactFile(path, size, size % 2 == 1) for path, size in zip(PATHS, sizes, strict=True)]
    content = random.Random(1).randbytes(sum(sizes))
    return TarLayout(files, 1_764_000_000), content, files


@pytest.mark.parametrize("sizes", [[0] * 8, [1, 511, 512, 513, 0, 100_000, 7, 1_024]])
def test_the_archive_contains_exactly_the_files(sizes: list[int]) -> None:
    """Python's own reader agrees, with long paths and paths beyond ASCII."""
    made, content, files = layout(sizes)

    archive = made.read(0, made.size, lambda begin, end: content[begin:end])

    assert len(archive) == made.size
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        members = opened.getmembers()
        assert [(m.name, m.size, m.mode) for m in members] == [
            (file.path, file.size, 0o755 if file.is_executable else 0o644) for file in files
        ]
        assert b"".join(opened.extractfile(m).read() for m in members) == content  # type: ignore[union-attr]


def test_every_range_is_a_part_of_the_whole() -> None:
    """A download is continued at any byte."""
    made, content, _ = layout([1, 511, 512, 513, 0, 3_000, 7, 1_024])
    archive = made.read(0, made.size, lambda begin, end: content[begin:end])
    dice = random.Random(2)

    for _ in range(2_000):
        begin = dice.randrange(made.size)
        end = dice.randrange(begin, made.size + 1)
        assert made.read(begin, end, lambda first, last: content[first:last]) == archive[begin:end]
