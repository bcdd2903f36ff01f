"""Single files of a commit made by real Git, as encrypted secrets are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.gitsource.test_local import Git
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import FILE_BYTES_MAX


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with a file in a folder."""
    work = tmp_path / "work"
    (work / "secrets").mkdir(parents=True)
    git = Git(work)
    git("init", "--quiet", "--initial-branch=main")
    (work / "secrets/a.age").write_bytes(b"one\0")
    return git


def _commit(git: Git) -> str:
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message=change")
    return git("rev-parse", "HEAD").strip()


async def _files(git: Git, commit: str, *paths: str) -> dict[str, bytes]:
    opener = RepositoryOpener(git.path.parent / "mirrors", {})
    return await opener.files(RepositorySettings(name="ops", url=str(git.path)), commit, paths)


async def test_files_are_read_at_the_commit(git: Git) -> None:
    """Objects may be loose or packed; missing files and paths that lead outside the commit are omitted."""
    first = _commit(git)
    (git.path / "secrets/a.age").write_bytes(b"two")
    (git.path / "secrets/b.age").write_bytes(b"b")
    second = _commit(git)
    for _ in range(2):
        assert await _files(git, first, "secrets/a.age", "secrets/b.age") == {"secrets/a.age": b"one\0"}
        assert await _files(git, second, "secrets/a.age", "secrets/b.age") == {
            "secrets/a.age": b"two",
            "secrets/b.age": b"b",
        }
        git("gc", "--quiet")
    assert (
        await _files(git, second, "../work/secrets/a.age", "/etc/passwd", ".git/config", "secrets/../a.age", "") == {}
    )


@pytest.mark.parametrize("what", ["a link", "a link in the way", "a submodule", "a folder"])
async def test_anything_but_a_regular_file_is_an_error(git: Git, what: str) -> None:
    """Nothing outside the commit is read, and no secret is missing without a reason."""
    path = git.path / "secrets/x.age"
    match what:
        case "a link":
            path.symlink_to("/etc/passwd")
        case "a link in the way":
            (git.path / "other").symlink_to("/etc")
        case "a folder":
            path.mkdir()
            (path / "inside").write_text("x")
    if what == "a submodule":
        git("add", "--all")
        git("update-index", "--add", "--cacheinfo", f"160000,{'a' * 40},secrets/x.age")
        git("commit", "--quiet", "--message=submodule")
        commit = git("rev-parse", "HEAD").strip()
    else:
        commit = _commit(git)
    requested = "other/passwd" if what == "a link in the way" else "secrets/x.age"
    with pytest.raises(Stalled) as raised:
        await _files(git, commit, requested)
    assert requested.partition("/")[0] in raised.value.text


async def test_a_file_beyond_the_limit_is_an_error(git: Git) -> None:
    """The file is not inflated any further."""
    (git.path / "secrets/a.age").write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    with pytest.raises(Stalled, match=r"secrets/a\.age is larger") as raised:
        await _files(git, _commit(git), "secrets/a.age")
    assert raised.value.code == codes.LIMIT


async def test_a_missing_commit_is_retryable(git: Git) -> None:
    """This happens after a forced push and a cleanup, or before a mirror is filled."""
    _commit(git)
    with pytest.raises(Retryable):
        await _files(git, "1" * 40, "secrets/a.age")
