"""`hashFiles` over commits made by real Git."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.integration.gitsource.test_local import Git
from waterflow_agent.errors import Stalled
from waterflowd.gitsource import digests


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with a few files, a link and a submodule entry."""
    work = tmp_path / "work"
    (work / "web").mkdir(parents=True)
    git = Git(work)
    git("init", "--quiet", "--initial-branch=main")
    (work / "web/package-lock.json").write_text("one")
    (work / "package-lock.json").write_text("two")
    (work / "web/gr\u00fc\u00df.txt").write_text("three")
    (work / "link-lock.json").symlink_to("/etc/passwd")
    git("add", "--all")
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module-lock.json")
    git("commit", "--quiet", "--message=first")
    return git


def _ask(git: Git, *calls: str) -> dict[str, str]:
    commit = git("rev-parse", "HEAD").strip()
    return digests.digests(str(git.path / ".git/objects"), commit, calls)


def test_the_digest_is_that_of_the_files_in_the_order_of_their_paths(git: Git) -> None:
    """As on GitHub: SHA-256 over the digests, empty if no file matches; links and submodules are ignored."""
    found = _ask(git, "**/package-lock.json", "nothing/**", "*-lock.json\n!web/**", "**/gr\u00fc\u00df.txt")
    assert found["**/package-lock.json"] == _digest(b"two", b"one")
    assert found["nothing/**"] == ""
    assert found["*-lock.json\n!web/**"] == _digest(b"two")
    assert found["**/gr\u00fc\u00df.txt"] == _digest(b"three")


def test_the_digest_depends_only_on_the_content_of_the_files(git: Git) -> None:
    """Another commit with the same files has the same digest, packed or not."""
    before = _ask(git, "**/package-lock.json")
    (git.path / "other").write_text("x")
    git("add", "--all")
    git("commit", "--quiet", "--message=second")
    git("gc", "--quiet")
    assert _ask(git, "**/package-lock.json") == before
    (git.path / "package-lock.json").write_text("new")
    git("commit", "--quiet", "--all", "--message=third")
    assert _ask(git, "**/package-lock.json") != before


def test_exceeding_a_limit_is_a_clear_error(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are limits for bytes and for files."""
    monkeypatch.setattr(digests, "BYTES_MAX", 4)
    with pytest.raises(Stalled, match="narrow its patterns"):
        _ask(git, "**")
    monkeypatch.setattr(digests, "FILES_MAX", 2)
    with pytest.raises(Stalled, match="more than 2 files"):
        _ask(git, "**")
