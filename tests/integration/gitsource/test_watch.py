"""The watcher: pushes by real Git are noticed, edits are not, and replaced directories are watched again."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflowd.gitsource import mounts
from waterflowd.gitsource.local import LocalSource
from waterflowd.gitsource.watch import DirectoryWatch

#: How long a test waits to show that nothing happens.
QUIET_S = 0.3


def git(path: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(path.parent),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }
    done = subprocess.run(["git", *arguments], cwd=path, env=environment, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A clone with one commit that is pushed to a bare repository beside it."""
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", "ops.git")
    git(tmp_path, "clone", "--quiet", "ops.git", "work")
    commit(tmp_path / "work")
    git(tmp_path / "work", "push", "--quiet", "origin", "HEAD:main")
    return tmp_path / "work"


def commit(work: Path) -> str:
    git(work, "commit", "--quiet", "--allow-empty", "--message", "change")
    return git(work, "rev-parse", "HEAD")


@pytest.fixture
async def source(work: Path) -> AsyncIterator[LocalSource]:
    source = LocalSource("ops", work.parent / "ops.git")
    yield source
    await source.close()


async def armed(source: LocalSource) -> None:
    """Waits for the hint that follows arming, and for silence after it."""
    assert await source.wait_for_change(PATIENCE_S)
    while await source.wait_for_change(QUIET_S):
        pass
    assert source.watch_status().is_watching


async def becomes(source: LocalSource, ref: str, expected: str) -> None:
    """Waits for hints until the ref has the expected object id."""
    async with asyncio.timeout(PATIENCE_S):
        while (await source.refs()).object_ids.get(ref) != expected:
            assert await source.wait_for_change(PATIENCE_S), "no hint came"


async def test_arming_reports_a_change(source: LocalSource) -> None:
    """Changes before the watch was armed are thus not missed."""
    assert source.watch_status().code == "starting"
    assert await source.wait_for_change(PATIENCE_S)
    assert source.watch_status().is_watching


@pytest.mark.parametrize("branch", ["main", "feature/a/b"])
async def test_a_push_is_noticed(source: LocalSource, work: Path, branch: str) -> None:
    """The push may go to an existing branch, or to one in new folders."""
    await armed(source)
    pushed = commit(work)
    git(work, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    await becomes(source, f"refs/heads/{branch}", pushed)


async def test_pushes_after_packing_are_noticed(source: LocalSource, work: Path) -> None:
    """`git gc` moves refs into one file and removes folders; the next push creates them again."""
    pushed = commit(work)
    git(work, "push", "--quiet", "origin", "HEAD:refs/heads/feature/a")
    await armed(source)
    git(work.parent / "ops.git", "pack-refs", "--all")
    await armed_again(source)
    for branch in ("main", "feature/a", "feature/b"):
        pushed = commit(work)
        git(work, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
        await becomes(source, f"refs/heads/{branch}", pushed)


async def armed_again(source: LocalSource) -> None:
    while await source.wait_for_change(QUIET_S):
        pass


async def test_another_default_branch_is_noticed(source: LocalSource, work: Path) -> None:
    """HEAD is watched like the refs."""
    await armed(source)
    git(work.parent / "ops.git", "symbolic-ref", "HEAD", "refs/heads/trunk")
    assert await source.wait_for_change(PATIENCE_S)
    assert (await source.refs()).head_ref == "refs/heads/trunk"


async def test_a_commit_in_a_work_tree_is_noticed_and_an_edit_is_not(tmp_path: Path) -> None:
    """The repository is not bare."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "plain")
    source = LocalSource("ops", tmp_path / "plain")
    await armed(source)
    (tmp_path / "plain" / "file.txt").write_text("x")
    (tmp_path / "plain" / "folder").mkdir()
    git(tmp_path / "plain", "add", "--all")
    assert not await source.wait_for_change(QUIET_S)
    await becomes(source, "refs/heads/main", commit(tmp_path / "plain"))
    await source.close()


async def test_a_recreated_repository_is_watched_again(source: LocalSource, work: Path) -> None:
    """The old watch is dead, but the next push to the new repository is noticed."""
    await armed(source)
    shutil.rmtree(work.parent / "ops.git")
    assert await source.wait_for_change(PATIENCE_S)
    git(work.parent, "init", "--quiet", "--bare", "--initial-branch", "main", "ops.git")
    await armed_again(source)
    pushed = commit(work)
    git(work, "push", "--quiet", "origin", "HEAD:main")
    await becomes(source, "refs/heads/main", pushed)


async def test_a_changed_link_is_watched_again(work: Path) -> None:
    """The configured path is a symbolic link that then points elsewhere."""
    link = work.parent / "current"
    link.symlink_to("ops.git")
    source = LocalSource("ops", link)
    await armed(source)
    git(work.parent, "clone", "--quiet", "--bare", "ops.git", "other.git")
    (work.parent / "next").symlink_to("other.git")
    (work.parent / "next").rename(link)
    await armed_again(source)
    pushed = commit(work)
    git(work, "push", "--quiet", "../other.git", "HEAD:main")
    await becomes(source, "refs/heads/main", pushed)
    await source.close()


async def test_a_repository_that_is_created_later_is_noticed(tmp_path: Path) -> None:
    """At first not even its parent folder exists."""
    source = LocalSource("ops", tmp_path / "later" / "ops.git")
    assert await source.wait_for_change(PATIENCE_S)
    (tmp_path / "later").mkdir()
    git(tmp_path / "later", "init", "--quiet", "--bare", "--initial-branch", "main", "ops.git")
    async with asyncio.timeout(PATIENCE_S):
        while not (tmp_path / "later" / "ops.git" / "refs").is_dir() or not await source.wait_for_change(PATIENCE_S):
            pass
    assert (await source.refs()).head_ref == "refs/heads/main"
    await source.close()


async def test_missing_inotify_watches_are_reported(work: Path) -> None:
    """The condition has a code and names the setting; the refs are polled."""

    def refuse(paths: list[str]) -> DirectoryWatch:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = LocalSource("ops", work.parent / "ops.git", refuse)
    assert await source.wait_for_change(PATIENCE_S)
    watching = source.watch_status()
    assert (watching.is_watching, watching.code) == (False, "watch-failed")
    assert "fs.inotify.max_user_watches" in watching.text
    assert "refs/heads/main" in (await source.refs()).object_ids
    await source.close()


async def test_closing_ends_the_threads(work: Path) -> None:
    """`close` may be called twice."""
    source = LocalSource("closing", work.parent / "ops.git")
    await source.refs()
    await armed(source)
    await source.close()
    await source.close()
    for thread in threading.enumerate():
        if thread.name in ("git closing", "watch ops.git"):
            await asyncio.to_thread(thread.join, PATIENCE_S)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/srv/git/ops.git", "nfs4"),
        ("/srv/gitlab", "ext4"),
        ("/mnt/with space/x", "cifs"),
        ("/over/x", "tmpfs"),
        ("/", "ext4"),
    ],
)
def test_a_path_belongs_to_its_longest_and_latest_mount(path: str, expected: str) -> None:
    """The last entry for the longest mount point counts; spaces in the table are escaped."""
    table = "\n".join(
        [
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
            "40 22 0:40 / /srv/git rw - nfs4 server:/git rw",
            "41 22 0:41 / /mnt/with\\040space rw - cifs //server/share rw",
            "42 22 0:42 / /over rw - ext4 /dev/vdb rw",
            "43 22 0:43 / /over rw - tmpfs tmpfs rw",
            "rubbish",
        ]
    )
    assert mounts.file_system_type(path, table) == expected
