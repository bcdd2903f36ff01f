"""What every source of a revision's files must do, whether it reads Git or memory (`ports.RevisionFiles`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.integration.gitsource.file_reader import file_reader
from tests.integration.gitsource.test_local import Git
from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflow_agent.wire.messages import FileChunk
from waterflowd.model.records import Checkout
from waterflowd.ports import RevisionFiles
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.memory_files import MemoryFiles

FILES = {"README": b"read me\n", "app/a.txt": b"a" * 1_000, "app/empty": b"", "app/sub/b.txt": b"b" * 100}


class Repository:
    """A repository `ops` with one revision."""

    def __init__(self, files: RevisionFiles, revision: str) -> None:
        self.files = files
        self.revision = revision

    async def pieces(self, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        """Returns contents of files."""
        listed = await self.files.listed(Checkout(repository="ops", revision=self.revision))
        return await self.files.pieces("ops", listed, blobs, offset, bytes_max)

    async def paths(self, *patterns: str) -> dict[str, bytes]:
        """Returns path and Git id of each file in a checkout."""
        found = await self.files.listed(Checkout(repository="ops", revision=self.revision, patterns=patterns))
        entries = file_list.decode(found.content)
        assert found.blobs == {entry.blob for entry in entries}
        return {entry.path.decode(): entry.blob for entry in entries}


@pytest.fixture(params=["git", "memory"])
async def repository(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repository]:
    if request.param == "memory":
        yield Repository(
            MemoryFiles(lambda repository, revision: FILES if (repository, revision) == ("ops", "1") else None), "1"
        )
        return
    git = Git(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    git("add", "--all")
    git("commit", "--quiet", "--message=first")
    contents = file_reader(RepositorySettings(name="ops", url=str(tmp_path)), mirrors=tmp_path / "mirrors")
    yield Repository(contents, git("rev-parse", "HEAD").strip())
    await contents.close()


async def test_a_list_has_every_file_by_its_git_id(repository: Repository) -> None:
    """The list is sorted by path."""
    found = await repository.paths()
    assert found == {path: blob_id(content) for path, content in FILES.items()}
    assert list(found) == sorted(found)


async def test_patterns_select_as_in_a_workflow(repository: Repository) -> None:
    """The last matching pattern decides."""
    assert list(await repository.paths("app/**", "!app/sub/**", "README")) == ["README", "app/a.txt", "app/empty"]
    assert await repository.paths("nothing/**") == {}


async def test_chunks_arrive_in_order_and_end_at_the_limit(repository: Repository) -> None:
    """The last piece may be incomplete; the rest can be read from its offset on."""
    blobs = list((await repository.paths()).values())
    first = await repository.pieces(blobs, 0, 500)
    assert [(piece.size, len(piece.data)) for piece in first] == [(8, 8), (1_000, 492)]
    rest = await repository.pieces(blobs[1:], 492, 10_000)
    assert [(piece.size, len(piece.data)) for piece in rest] == [(1_000, 508), (0, 0), (100, 100)]
    assert first[1].data + rest[0].data == FILES["app/a.txt"]


async def test_a_missing_file_is_an_error_or_ends_the_answer(repository: Repository) -> None:
    """A missing first file is an error; after other files the answer ends before it."""
    blobs = [*(await repository.paths("README")).values(), b"x" * 20]
    assert len(await repository.pieces(blobs, 0, 500)) == 1
    with pytest.raises(Retryable):
        await repository.pieces(blobs[1:], 0, 500)


async def test_an_unknown_revision_or_repository_is_an_error(repository: Repository) -> None:
    """The error has a message."""
    with pytest.raises(WaterflowError):
        await repository.files.listed(Checkout(repository="ops", revision="2" * 40))
    with pytest.raises(Rejected):
        await repository.files.listed(Checkout(repository="other", revision=repository.revision))
