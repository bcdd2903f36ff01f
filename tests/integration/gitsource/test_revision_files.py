"""The files of unusual commits: hostile names, links, modes and sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.gitsource.file_reader import file_reader
from tests.integration.gitsource.test_local import Git
from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.checkouts import commit_files
from waterflowd.model.records import Checkout
from waterflowd.reconcile.settings import RepositorySettings


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """An empty repository."""
    git = Git(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    return git


def _commit(git: Git) -> str:
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message=more")
    return git("rev-parse", "HEAD").strip()


def _listed(git: Git, revision: str, *patterns: str) -> list[FileEntry]:
    found = commit_files.listed(
        str(git.path / ".git/objects"), Checkout(repository="r", revision=revision, patterns=patterns)
    )
    return file_list.decode(found.content)


def _tree(git: Git, *entries: tuple[str, str, str]) -> str:
    """Commits a tree with these raw entries (mode, name, content), some of which Git itself would not create."""
    raw = b""
    for mode, name, content in entries:
        if mode == "40000":
            blob = git("hash-object", "-t", "tree", "-w", "/dev/null").strip()
        else:
            (git.path / ".git/content").write_text(content)
            blob = git("hash-object", "-w", str(git.path / ".git/content")).strip()
        raw += f"{mode} {name}".encode() + b"\0" + bytes.fromhex(blob)
    (git.path / ".git/raw").write_bytes(raw)
    tree = git("hash-object", "-t", "tree", "--literally", "-w", str(git.path / ".git/raw")).strip()
    return git("commit-tree", "-m", "raw", tree).strip()


def test_modes_and_kinds_are_kept(git: Git) -> None:
    """The names include some that are not UTF-8."""
    (git.path / "plain").write_text("1")
    (git.path / "tool").write_text("2")
    (git.path / "tool").chmod(0o755)
    (git.path / "link").symlink_to("plain")
    (git.path / os.fsdecode(b"\xff\n")).write_text("3")
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    (git.path / "module").mkdir()
    found = {entry.path: entry.kind for entry in _listed(git, _commit(git))}
    assert found == {
        b"link": FileKind.LINK,
        b"module": FileKind.SUBMODULE,
        b"plain": FileKind.FILE,
        b"tool": FileKind.EXECUTABLE,
        b"\xff\n": FileKind.FILE,
    }


@pytest.mark.parametrize("name", ["..", ".git", "."])
def test_a_name_that_git_would_not_create_fails_the_checkout(git: Git, name: str) -> None:
    """The patterns do not matter: such a tree is not an accident."""
    commit = _tree(git, ("100644", name, "x"), ("100644", "z", "y"))
    with pytest.raises(Stalled, match="Git would not create"):
        _listed(git, commit)


def test_a_duplicate_name_fails_the_checkout(git: Git) -> None:
    """A link and a folder with one name would redirect the files in the folder."""
    commit = _tree(git, ("120000", "a", "/etc"), ("40000", "a", ""))
    with pytest.raises(Stalled, match="Git would not create"):
        _listed(git, commit)


def test_a_link_that_leads_out_fails_the_checkout_unless_it_is_excluded(git: Git) -> None:
    """The error names the link and what to do."""
    (git.path / "sub").mkdir()
    (git.path / "sub/out").symlink_to("../../etc/passwd")
    (git.path / "sub/in").symlink_to("../sub/out")
    commit = _commit(git)
    with pytest.raises(
        Stalled, match=r"sub/.*: links to .*, outside of the repository; exclude it in the job's checkout"
    ):
        _listed(git, commit)
    assert [entry.path for entry in _listed(git, commit, "**", "!sub/out")] == [b"sub/in"]


def test_too_many_files_are_refused(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the limit and what to do."""
    (git.path / "a").write_text("1")
    (git.path / "b").write_text("2")
    commit = _commit(git)
    monkeypatch.setattr(file_list, "FILES_MAX", 1)
    with pytest.raises(Stalled, match="more than 1 files; select some"):
        _listed(git, commit)


async def test_a_file_beyond_the_limit_is_refused_when_it_is_requested(
    git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files before it are sent."""
    (git.path / "a").write_text("1")
    (git.path / "b").write_text("2" * 100)
    commit = _commit(git)
    monkeypatch.setattr(file_list, "FILE_BYTES_MAX", 50)
    source = file_reader(RepositorySettings(name="r", url=str(git.path)), mirrors=git.path / "mirrors")
    listed = await source.listed(Checkout(repository="r", revision=commit))
    blobs = [entry.blob for entry in file_list.decode(listed.content)]
    assert len(await source.pieces("r", listed, blobs, 0, 1_000)) == 1
    with pytest.raises(Stalled, match="larger than 0 MiB; exclude it"):
        await source.pieces("r", listed, blobs[1:], 0, 1_000)
    await source.close()


async def test_a_missing_repository_is_retryable(git: Git, tmp_path: Path) -> None:
    """The repository is read again once it is back."""
    (git.path / "a").write_text("1")
    commit = _commit(git)
    source = file_reader(RepositorySettings(name="r", url=str(git.path)), mirrors=git.path / "mirrors")
    git_directory = git.path / ".git"
    git_directory.rename(git.path / "away")
    with pytest.raises((Retryable, Stalled)):
        await source.listed(Checkout(repository="r", revision=commit))
    (git.path / "away").rename(git_directory)
    assert (await source.listed(Checkout(repository="r", revision=commit))).blobs
    await source.close()
