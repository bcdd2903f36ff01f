"""A repository that agents check out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gitsource.file_reader import AgentFiles, file_reader
from tests.integration.gitsource.test_local import Git
from tests.integration.remote.git_servers import RemoteRepository
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.reconcile.settings import RepositorySettings


@pytest.fixture
def ops(tmp_path: Path) -> Git:
    """A repository with two commits, a branch and two tags."""
    (tmp_path / "ops").mkdir()
    git = Git(tmp_path / "ops")
    git("init", "--quiet", "--initial-branch=main")
    git.write("app/version", "1\n")
    git.write("tool", "#!/bin/sh\n")
    (git.path / "tool").chmod(0o755)
    (git.path / "link").symlink_to("app/version")
    git.commit("first")
    git("tag", "--annotate", "v1.0", "--message", "one")
    git("branch", "feature/x")
    git.write("app/version", "2\n")
    git.commit("second")
    git("tag", "light")
    return git


@pytest.fixture
async def reader(ops: Git, tmp_path: Path) -> AsyncIterator[RevisionFileReader]:
    reader = file_reader(RepositorySettings(name="ops", url=str(ops.path)), mirrors=tmp_path / "mirrors")
    yield reader
    await reader.close()


@pytest.fixture
def agent(reader: RevisionFileReader, tmp_path: Path) -> AgentFiles:
    return AgentFiles(reader, tmp_path / "agent")


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RemoteRepository]:
    remote = RemoteRepository(tmp_path)
    yield remote
    await remote.close()
