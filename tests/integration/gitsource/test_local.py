"""Local repositories made by real Git: ordinary, packed and hostile ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import zlib
from collections.abc import AsyncIterator
from hashlib import sha1
from pathlib import Path

import pytest

from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.checkouts import revision_reader
from waterflowd.gitsource.local import LocalSource
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import DEFAULT_FOLDERS
from waterflowd.reconcile.source import CHANGED_PATHS_MAX, FILE_BYTES_MAX, TreeFile


class Git:
    """The Git command line in one work tree, independent of the configuration of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(path.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", author: str = "Ada") -> str:
        environment = self.environment | {"GIT_AUTHOR_NAME": author}
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, input=stdin, capture_output=True, check=True
        )
        return done.stdout.decode("utf-8", "replace").strip()

    def write(self, name: str, content: str | bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, message: str = "change", author: str = "Ada") -> str:
        self("add", "--all")
        self("commit", "--quiet", "--allow-empty", "--message", message, author=author)
        return self("rev-parse", "HEAD")

    def tree(self, *entries: tuple[str, str, bytes]) -> str:
        """Creates a tree object of (mode, id, name); names and modes that Git would refuse are written directly."""
        body = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(object_id) for mode, object_id, name in entries
        )
        return self.loose(b"tree", body)

    def loose(self, kind: bytes, body: bytes, *, size: int | None = None) -> str:
        content = kind + b" " + str(len(body) if size is None else size).encode() + b"\0" + body
        object_id = sha1(content).hexdigest()
        target = self.path / ".git" / "objects" / object_id[:2] / object_id[2:]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(zlib.compress(content))
        return object_id

    def commit_tree(self, tree: str) -> str:
        commit = self("commit-tree", tree, "-m", "by hand")
        self("update-ref", "refs/heads/main", commit)
        return commit


@pytest.fixture
def git(tmp_path: Path) -> Git:
    (tmp_path / "repository").mkdir()
    git = Git(tmp_path / "repository")
    git("init", "--quiet", "--initial-branch", "main")
    return git


@pytest.fixture
async def source(git: Git) -> AsyncIterator[LocalSource]:
    source = LocalSource("ops", git.path)
    yield source
    await source.close()


def problems(files: tuple[TreeFile, ...]) -> dict[str, str]:
    return {file.path: file.problem.code for file in files if file.problem is not None}


async def test_refs_of_an_empty_repository_name_an_unborn_head(source: LocalSource) -> None:
    """A repository without pushes has a HEAD and no refs."""
    refs = await source.refs()
    assert (refs.head_ref, refs.object_ids) == ("refs/heads/main", {})


@pytest.mark.parametrize("is_packed", [False, True])
async def test_branches_tags_and_files_are_read_loose_and_packed(
    git: Git, is_packed: bool, source: LocalSource
) -> None:
    """This works wherever Git keeps refs and objects. A tag object leads to its commit."""
    git.write("workflows/a.yml", "a: 1\n" * 200)
    git.commit()
    for number in range(5):
        git.write("workflows/a.yml", "a: 1\n" * 200 + str(number))
        git.write(".waterflow/workflows/deep/er/b.yaml", f"b: {number}\n")
        git.write("workflows/notes.txt", "no workflow")
        commit = git.commit("ünïcode")
    git("tag", "--annotate", "v1", "--message", "first")
    git("branch", "feature/x")
    if is_packed:
        git("pack-refs", "--all")
        git("repack", "-a", "-d", "-f", "--quiet", "--depth=10")
    refs = await source.refs()
    assert set(refs.object_ids) == {"refs/heads/main", "refs/heads/feature/x", "refs/tags/v1"}
    assert refs.object_ids["refs/heads/main"] == commit
    revision = await source.revision(refs.object_ids["refs/tags/v1"], None, DEFAULT_FOLDERS)
    assert revision.commit.id == commit
    assert (revision.commit.author, revision.commit.message) == ("Ada", "ünïcode")
    assert [file.path for file in revision.files] == [".waterflow/workflows/deep/er/b.yaml", "workflows/a.yml"]
    contents = await source.blobs([file.blob for file in revision.files])
    assert contents[revision.files[0].blob] == b"b: 4\n"
    assert contents[revision.files[1].blob] == b"a: 1\n" * 200 + b"4"


async def test_changes_compare_two_trees_and_ignore_history(git: Git, source: LocalSource) -> None:
    """Added, changed, removed and renamed paths are found in the whole tree, across commits and rewritten history."""
    git.write("a/b/c.txt", "1")
    git.write("kept/d.txt", "1")
    git.write("turns", "file")
    first = await source.revision(git.commit(), None, DEFAULT_FOLDERS)
    assert first.changes.paths == ("a/b/c.txt", "kept/d.txt", "turns")
    git("checkout", "--quiet", "--orphan", "other")
    git("mv", "a/b/c.txt", "a/e.txt")
    git("rm", "--quiet", "--force", "turns")
    git.write("turns/into/folder", "1")
    second = await source.revision(git.commit(), first.commit.tree, DEFAULT_FOLDERS)
    assert second.changes.paths == ("a/b/c.txt", "a/e.txt", "turns", "turns/into/folder")
    assert second.changes.is_complete


async def test_a_change_too_large_to_list_is_incomplete(git: Git, source: LocalSource) -> None:
    """Beyond the limit the list is truncated and marked."""
    for number in range(CHANGED_PATHS_MAX + 1):
        git.write(f"many/{number}", "")
    revision = await source.revision(git.commit(), None, DEFAULT_FOLDERS)
    assert len(revision.changes.paths) == CHANGED_PATHS_MAX
    assert not revision.changes.is_complete


async def test_a_missing_previous_tree_makes_the_changes_unknown(git: Git, source: LocalSource) -> None:
    """After a forced push and a cleanup the changes are unknown, but the commit is read."""
    git.write("workflows/a.yml", "a")
    revision = await source.revision(git.commit(), "e" * 40, DEFAULT_FOLDERS)
    assert [file.path for file in revision.files] == ["workflows/a.yml"]
    assert not revision.changes.is_complete


async def test_links_submodules_and_directories_are_problems_of_one_file(git: Git, source: LocalSource) -> None:
    """Anything but a regular file is never followed, entered or read; other files are not affected."""
    (git.path / "workflows").mkdir()
    (git.path / "workflows" / "link.yml").symlink_to("/etc/passwd")
    (git.path / "workflows" / "folder").symlink_to("/etc")
    git.write("workflows/dir.yml/inner.yml", "x")
    git.write("workflows/good.yml", "x")
    git.commit()
    git("update-index", "--add", "--cacheinfo", f"160000,{'a' * 40},workflows/module.yml")
    git("commit", "--quiet", "--message", "submodule")
    revision = await source.revision(git("rev-parse", "HEAD"), None, DEFAULT_FOLDERS)
    assert problems(revision.files) == {
        "workflows/dir.yml": codes.DIRECTORY,
        "workflows/link.yml": codes.SYMLINK,
        "workflows/module.yml": codes.SUBMODULE,
    }
    assert [file.path for file in revision.files if file.problem is None] == ["workflows/good.yml"]


async def test_a_workflow_folder_that_is_a_link_is_a_problem_and_not_followed(git: Git, source: LocalSource) -> None:
    """The folder itself cannot lead elsewhere either."""
    (git.path / "workflows").symlink_to("/etc")
    revision = await source.revision(git.commit(), None, DEFAULT_FOLDERS)
    assert problems(revision.files) == {"workflows": codes.SYMLINK}


async def test_unprintable_names_are_problems_and_are_escaped(git: Git, source: LocalSource) -> None:
    """Newlines, escapes, bidirectional controls, foreign encodings, and names that Git refuses are problems."""
    blob = git("hash-object", "-w", "--stdin", stdin=b"x")
    names = [b"a\nb.yml", b"\x1b[31m.yml", "\u202egnp.yml".encode(), b"\xff\xfe.yml", b"../../etc/x.yml", b"ok.yml"]
    inner = git.tree(*(("100644", blob, name) for name in names), ("100600", blob, b"mode.yml"))
    commit = git.commit_tree(git.tree(("40000", inner, b"workflows")))
    revision = await source.revision(commit, None, DEFAULT_FOLDERS)
    assert problems(revision.files) == {
        "workflows/a\\nb.yml": codes.UNSAFE_NAME,
        "workflows/\\x1b[31m.yml": codes.UNSAFE_NAME,
        "workflows/\\u202egnp.yml": codes.UNSAFE_NAME,
        "workflows/\\xff\\xfe.yml": codes.UNSAFE_NAME,
        "workflows/../../etc/x.yml": codes.UNSAFE_NAME,
        "workflows/mode.yml": codes.UNKNOWN_MODE,
    }
    assert [file.path for file in revision.files if file.problem is None] == ["workflows/ok.yml"]


async def test_a_long_path_is_a_problem(git: Git, source: LocalSource) -> None:
    """The limit is a kilobyte."""
    name = "/".join(["n" * 200] * 6)
    git.write(f"workflows/{name}.yml", "x")
    revision = await source.revision(git.commit(), None, DEFAULT_FOLDERS)
    assert list(problems(revision.files).values()) == [codes.UNSAFE_NAME]


@pytest.mark.parametrize("is_packed", [False, True])
async def test_a_file_beyond_the_limit_is_not_inflated(git: Git, is_packed: bool, source: LocalSource) -> None:
    """Its size is read from its header (loose, packed or delta); a file at the limit is read."""
    git.write("workflows/large.yml", b"#" * (FILE_BYTES_MAX + 1))
    git.write("workflows/larger.yml", b"#" * (FILE_BYTES_MAX + 1) + b"\nmore")
    git.write("workflows/bound.yml", b"#" * FILE_BYTES_MAX)
    commit = git.commit()
    if is_packed:
        git("repack", "-a", "-d", "-f", "--quiet")
    revision = await source.revision(commit, None, DEFAULT_FOLDERS)
    contents = await source.blobs([file.blob for file in revision.files])
    sizes = {file.path: len(contents[file.blob] or b"") for file in revision.files}
    assert sizes == {"workflows/bound.yml": FILE_BYTES_MAX, "workflows/large.yml": 0, "workflows/larger.yml": 0}


async def test_folders_nested_too_deep_stall_the_repository(git: Git, source: LocalSource) -> None:
    """The error names the limit, and a person must act."""
    git.write("workflows/" + "d/" * 11 + "a.yml", "x")
    with pytest.raises(Stalled, match="deeper than 10") as caught:
        await source.revision(git.commit(), None, DEFAULT_FOLDERS)
    assert caught.value.code == codes.LIMIT


async def test_damaged_and_missing_objects_are_retryable(git: Git, source: LocalSource) -> None:
    """A truncated object, a wrong header, a wrong kind and a missing object all give the same error."""
    git.write("workflows/a.yml", "x")
    commit = git.commit()
    tree = git("rev-parse", "HEAD^{tree}")
    lying = git.loose(b"blob", b"short", size=10)
    damaged = git.loose(b"tree", b"100644 no end")
    rubbish = git.loose(b"commit", b"no headers")
    for object_id in (lying, tree, "e" * 40):
        with pytest.raises(Retryable) as caught:
            await source.blobs([object_id])
        assert caught.value.code == codes.OBJECT_UNREADABLE
    for object_id in (tree, rubbish, git.commit_tree(damaged)):
        with pytest.raises(Retryable) as caught:
            await source.revision(object_id, None, DEFAULT_FOLDERS)
        assert caught.value.code == codes.OBJECT_UNREADABLE
    (git.path / ".git/objects" / commit[:2] / commit[2:]).chmod(0o644)
    (git.path / ".git/objects" / commit[:2] / commit[2:]).write_bytes(b"\x78\x9c")
    with pytest.raises(Retryable):
        await source.revision(commit, None, DEFAULT_FOLDERS)


async def test_a_commit_of_megabytes_is_refused(git: Git, source: LocalSource) -> None:
    """A long message is truncated, but an object beyond the limit is not read at all."""
    tree = git("write-tree")
    commit = git("commit-tree", tree, "-F", "-", stdin=b"m" * (2 << 20))
    with pytest.raises(Stalled, match="larger than"):
        await source.revision(commit, None, DEFAULT_FOLDERS)
    short = await source.revision(git("commit-tree", tree, "-F", "-", stdin=b"m" * 50_000), None, DEFAULT_FOLDERS)
    assert len(short.commit.message) == 1_000


async def test_authors_and_branches_are_text(git: Git, source: LocalSource) -> None:
    """Shell syntax in a branch and HTML in a name are passed on unchanged."""
    author = b'a";`$(id)` "><script>'
    tree = git("write-tree").encode()
    body = b"tree %s\nauthor %s <a@b> 1 +0000\ncommitter c <c@d> 1 +0000\n\nx" % (tree, author.replace(b"<", b"\x1b"))
    git("update-ref", "refs/heads/main", git.loose(b"commit", body))
    git("branch", "x$(id)")
    refs = await source.refs()
    assert "refs/heads/x$(id)" in refs.object_ids
    revision = await source.revision(refs.object_ids["refs/heads/x$(id)"], None, DEFAULT_FOLDERS)
    assert revision.commit.author == 'a";`$(id)` ">\x1bscript>'


async def test_alternates_and_linked_work_trees_are_part_of_a_repository(git: Git, tmp_path: Path) -> None:
    """The repositories are made by `clone --shared` and `worktree add`."""
    git.write("workflows/a.yml", "x")
    commit = git.commit()
    git("clone", "--quiet", "--shared", "--bare", ".", str(tmp_path / "shared.git"))
    git("worktree", "add", "--quiet", "-b", "linked", str(tmp_path / "linked"))
    for name, head in (("shared.git", "refs/heads/main"), ("linked", "refs/heads/linked")):
        source = LocalSource("ops", tmp_path / name)
        assert (await source.refs()).head_ref == head
        assert [file.path for file in (await source.revision(commit, None, DEFAULT_FOLDERS)).files] == [
            "workflows/a.yml"
        ]
        await source.close()


async def test_a_directory_without_a_repository_differs_from_a_missing_one(tmp_path: Path) -> None:
    """The first needs a person; the second may appear later."""
    for path, error, code in (
        (tmp_path, Stalled, codes.NOT_A_REPOSITORY),
        (tmp_path / "none", Retryable, codes.NOT_THERE),
    ):
        source = LocalSource("ops", path)
        with pytest.raises(error) as caught:
            await source.refs()
        assert caught.value.code == code
        await source.close()


async def test_a_repository_of_an_unknown_format_is_refused(git: Git, source: LocalSource) -> None:
    """One example is a repository with SHA-256 objects."""
    git("config", "extensions.objectFormat", "sha256")
    with pytest.raises(Stalled, match="objectformat sha256"):
        await source.refs()


async def test_nothing_is_written(git: Git, source: LocalSource) -> None:
    """Reading leaves no trace in the repository."""
    git.write("workflows/a.yml", "x")
    commit = git.commit()
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in git.path.rglob("*"))
    await source.refs()
    revision = await source.revision(commit, None, DEFAULT_FOLDERS)
    await source.blobs([file.blob for file in revision.files])
    await source.wait_for_change(0.01)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in git.path.rglob("*")) == before


async def test_the_event_loop_stays_free_while_a_large_tree_is_read(git: Git, source: LocalSource) -> None:
    """Ten thousand files are listed in a thread."""
    blob = git("hash-object", "-w", "--stdin", stdin=b"x")
    inner = git.tree(*(("100644", blob, f"{number:05}.yml".encode()) for number in range(10_000)))
    commit = git.commit_tree(git.tree(("40000", inner, b"workflows")))
    reading = asyncio.ensure_future(source.revision(commit, None, DEFAULT_FOLDERS))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(reading.result().files) == 10_000
    assert turns > 10


async def test_too_many_files_stall_the_repository(git: Git, source: LocalSource) -> None:
    """With one file beyond the limit the whole listing is refused instead of being truncated silently."""
    blob = git("hash-object", "-w", "--stdin", stdin=b"x")
    inner = git.tree(*(("100644", blob, f"{number:05}.yml".encode()) for number in range(20_001)))
    commit = git.commit_tree(git.tree(("40000", inner, b"workflows")))
    with pytest.raises(Stalled, match="more than 20,000"):
        await source.revision(commit, None, DEFAULT_FOLDERS)


def _wide(git: Git, blob: str, name: bytes) -> str:
    """Creates a tree of 100,000 files in 10,100 folders, from three objects."""
    files = git.tree(*(("100644", blob, b"%02d%s" % (number, name)) for number in range(10)))
    inner = git.tree(*(("40000", files, b"d%02d" % number) for number in range(100)))
    return git.tree(*(("40000", inner, b"d%02d" % number) for number in range(100)))


@pytest.mark.parametrize("folder", [b"src", b"workflows"])
async def test_files_that_are_no_workflows_make_no_difference(git: Git, source: LocalSource, folder: bytes) -> None:
    """100,000 of them, elsewhere or beside the workflow; a file named like a workflow elsewhere does not count either."""
    blob = git.loose(b"blob", b"on: push\njobs: {}\n")
    wide = _wide(git, blob, b".yml" if folder == b"src" else b".txt")
    workflow = ("100644", blob, b"a.yml")
    if folder == b"workflows":
        root = git.tree(("40000", git.tree(workflow, ("40000", wide, b"data")), b"workflows"))
    else:
        root = git.tree(("40000", wide, b"src"), ("40000", git.tree(workflow), b"workflows"))
    commit = git("commit-tree", root, "-m", "wide")

    found = await source.revision(commit, None, DEFAULT_FOLDERS)

    assert [file.path for file in found.files] == ["workflows/a.yml"]


async def test_too_many_folders_are_refused_with_their_limit(
    git: Git, source: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to change; other repositories are not affected."""
    monkeypatch.setattr("waterflowd.gitsource.trees._LISTED_TREES_MAX", 1_000)
    blob = git.loose(b"blob", b"x")
    root = git.tree(("40000", _wide(git, blob, b".txt"), b"workflows"))

    with pytest.raises(Stalled, match=r"more than 1,000 folders below workflows/; let `paths` .*WF508"):
        await source.revision(git("commit-tree", root, "-m", "wide"), None, DEFAULT_FOLDERS)


def test_commits_between_two_commits_follow_first_parents(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, without the older one; None if that is not among them; beyond the limit it says that there are more."""
    first = git.commit("first\n\nwith a body")
    git("checkout", "--quiet", "-b", "side")
    side = git.commit("on a branch", author="Bo")
    git("checkout", "--quiet", "main")
    second = git.commit("second")
    git("merge", "--quiet", "--no-ff", "--message", "merge it", "side")
    merged = git("rev-parse", "HEAD")
    objects = str(git.path / ".git" / "objects")
    found = revision_reader.commits_between(objects, merged, first)
    assert found is not None
    assert ([commit.subject for commit in found[0]], found[1]) == (["merge it", "second"], False)
    assert revision_reader.commits_between(objects, first, first) == ([], False)
    assert revision_reader.commits_between(objects, second, side) is None
    monkeypatch.setattr(revision_reader, "COMMITS_MAX", 1)
    found = revision_reader.commits_between(objects, merged, first)
    assert found is not None
    assert ([commit.id for commit in found[0]], found[1]) == ([merged], True)
