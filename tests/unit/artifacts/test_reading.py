"""Artifacts for the API: where a file is, and when the bytes of the archive are others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.artifacts.harness import NOW, RUN, new_store, put, reader_of
from waterflow_agent.errors import Rejected
from waterflowd.artifacts import reading
from waterflowd.artifacts.reading import ArtifactReader, OpenArtifact
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.host.history import LogHistory
from waterflowd.testing.host import HostHarness
from waterflowd.time_slices import TimeSlices

FILES = {"a": b"one", "empty": b"", "dir/b": b"two" * 100}


async def opened(store: ArtifactStore) -> OpenArtifact:
    async with HostHarness(artifacts=store) as host:
        kept = KeptArtifacts(store, LogHistory(host.log, host.feed, TimeSlices()))
        return await ArtifactReader(store, host.artifacts, kept, host.clock).open(RUN, "site")


async def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    """Each file has its part of the content; another path is an error that names it."""
    store = new_store(tmp_path)
    put(store, "site", FILES)

    found = await opened(store)

    for path, data in FILES.items():
        begin, size = found.file(path)
        assert found.read_content(begin, begin + size) == data
    with pytest.raises(Rejected, match='has no file "dir"'):
        found.file("dir")


async def test_the_tag_changes_when_the_bytes_of_the_archive_do(tmp_path: Path) -> None:
    """The same files stored again have another time in the archive: a download must not continue with those."""
    store = new_store(tmp_path)
    put(store, "site", FILES)
    before = await opened(store)
    put(store, "site", FILES, now=NOW + 1_000)

    after = await opened(store)

    assert before.read_tar(0, before.tar_size) != after.read_tar(0, after.tar_size)
    assert before.tag != after.tag


async def test_artifacts_with_many_files_are_not_all_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download asks for many ranges, so the last artifact stays; what others take is bounded by their files."""
    monkeypatch.setattr(reading, "_OPEN_FILES_MAX", 2 * len(FILES))
    store = new_store(tmp_path)
    put(store, "a", {**FILES, "more": b"a"})
    put(store, "b", {**FILES, "more": b"b"})
    async with HostHarness(artifacts=store) as host:
        reader = reader_of(store, LogHistory(host.log, host.feed, TimeSlices()), host.clock)
        first = await reader.open(RUN, "a")
        assert await reader.open(RUN, "a") is first

        await reader.open(RUN, "b")

        assert await reader.open(RUN, "a") is not first
