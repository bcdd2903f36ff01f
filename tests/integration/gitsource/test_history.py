"""Checkouts with history: what an agent gets is a repository for real Git, from local repositories and from remotes."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.integration.gitsource.file_reader import AgentFiles, file_reader
from tests.integration.gitsource.test_local import Git
from tests.integration.remote.git_servers import RemoteRepository
from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.gitsource.history import git_files, pack_child, pack_store
from waterflowd.gitsource.history.pack_protocol import PackFailed, PackRequest
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.model.records import Checkout, CheckoutPart
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs


def checkout(revision: str, head: str = "refs/heads/main", path: str = "", *, history: bool = True) -> Checkout:
    """A checkout of `ops`."""
    part = CheckoutPart(history=history, head=head, path=path)
    return Checkout(repository="ops", revision=revision, parts=(part,))


async def test_a_directory_with_history_is_a_clean_repository(ops: Git, agent: AgentFiles) -> None:
    """Branches are those of origin, HEAD is the run's branch, and nothing counts as changed."""
    directory = await agent.check_out(checkout(ops("rev-parse", "HEAD")))
    job = Git(directory)

    assert job("diff-index", "--name-only", "HEAD") == ""
    assert job("status", "--porcelain", "--branch") == "## main...origin/main"
    assert job("log", "--format=%s") == "second\nfirst"
    assert job("describe", "--tags", "--dirty") == "light"
    assert job("describe", "--abbrev=7").startswith("v1.0-1-g")
    assert job("diff", "--name-only", "origin/feature/x") == "app/version"
    assert job("branch", "--all", "--format=%(refname)").splitlines() == [
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/feature/x",
        "refs/remotes/origin/main",
    ]
    assert job("fsck", "--full", "--strict", "--no-dangling") == ""
    (directory / "tool").write_text("changed")
    assert job("status", "--porcelain") == "M tool"
    job.commit("a commit of the job")
    assert job("log", "-1", "--format=%s") == "a commit of the job"


async def test_an_older_commit_of_a_branch_has_its_own_state(ops: Git, agent: AgentFiles) -> None:
    """The branch of origin is where the run's push moved it, whatever was pushed later."""
    first = ops("rev-parse", "HEAD~1")
    job = Git(await agent.check_out(checkout(first)))
    assert (job("rev-parse", "HEAD"), job("rev-parse", "origin/main")) == (first, first)
    assert (job("status", "--porcelain"), (job.path / "app/version").read_text()) == ("", "1\n")


@pytest.mark.parametrize("head", ["refs/tags/v1.0", ""])
async def test_a_tag_or_a_commit_is_a_detached_head(ops: Git, agent: AgentFiles, head: str) -> None:
    """As GitHub's checkout leaves it; other branches are there."""
    commit = ops("rev-parse", "v1.0^{commit}")
    job = Git(await agent.check_out(checkout(commit, head)))
    assert (job("rev-parse", "--abbrev-ref", "HEAD"), job("describe", "--exact-match")) == ("HEAD", "v1.0")
    assert job("rev-parse", "origin/main") == ops("rev-parse", "main")


async def test_the_next_commit_transfers_only_what_is_new(ops: Git, agent: AgentFiles) -> None:
    """The packs that the agent has are not sent again; two packs are one repository."""
    await agent.check_out(checkout(ops("rev-parse", "HEAD")))
    ops.write("app/version", "3\n")
    commit = ops.commit("third")
    job = Git(await agent.check_out(checkout(commit)))
    # The file, a pack, its index, and the refs; what has not changed is cached.
    assert agent.fetched == 4
    assert len(list((job.path / ".git/objects/pack").glob("*.pack"))) == 2
    assert (job("log", "--format=%s"), job("fsck", "--full")) == ("third\nsecond\nfirst", "")


async def test_packs_survive_a_restart_and_are_written_once(
    ops: Git, reader: RevisionFileReader, agent: AgentFiles, tmp_path: Path
) -> None:
    """Leftovers of a process that was killed are removed when the next pack is written."""
    head = ops("rev-parse", "HEAD")
    await asyncio.gather(*(reader.listed(checkout(head, path=path)) for path in ("", "a", "b")))
    packs = tmp_path / "mirrors/packs/ops"
    names = sorted(path.name for path in packs.iterdir())
    assert [name.rpartition(".")[2] for name in names] == ["idx", "pack", "json"]
    (packs / "tmp_pack").write_bytes(b"half")

    again = file_reader(RepositorySettings(name="ops", url=str(ops.path)), mirrors=tmp_path / "mirrors")
    await again.listed(checkout(head))
    assert sorted(path.name for path in packs.iterdir() if path.name != "tmp_pack") == names
    commit = ops.commit("third")
    await again.listed(checkout(commit))
    assert not (packs / "tmp_pack").exists()
    await again.close()


async def test_a_repository_that_is_removed_and_added_again_has_its_history(ops: Git, tmp_path: Path) -> None:
    """Its packs went with it; the daemon, which was not restarted, writes them again."""
    settings = RepositorySettings(name="ops", url=str(ops.path))
    mirrors = tmp_path / "mirrors"
    reader = file_reader(settings, mirrors=mirrors)
    agent = AgentFiles(reader, tmp_path / "agent")
    head = ops("rev-parse", "HEAD")
    await reader.listed(checkout(head, path="before"))

    await RepositoryOpener(mirrors, {}).remove(settings)

    job = Git(await agent.check_out(checkout(head)))
    assert job("log", "--format=%s") == "second\nfirst"
    await reader.close()


async def test_another_repository_under_the_name_has_its_own_packs(ops: Git, tmp_path: Path) -> None:
    """Commits of the earlier one are no longer sent."""
    mirrors = tmp_path / "mirrors"
    reader = file_reader(RepositorySettings(name="ops", url=str(ops.path)), mirrors=mirrors)
    await reader.listed(checkout(ops("rev-parse", "HEAD")))
    await reader.close()
    (tmp_path / "new").mkdir()
    other = Git(tmp_path / "new")
    other("init", "--quiet", "--initial-branch=main")
    commit = other.commit("other")
    reader = file_reader(RepositorySettings(name="ops", url=str(other.path)), mirrors=mirrors)
    job = Git(await AgentFiles(reader, tmp_path / "agent").check_out(checkout(commit)))
    assert job("rev-list", "--all", "--count") == "1"
    assert job("count-objects", "-v").splitlines()[2] == "in-pack: 2"
    await reader.close()


async def test_a_shallow_repository_stays_shallow(ops: Git, tmp_path: Path) -> None:
    """Commits that the daemon does not have are not missing."""
    (tmp_path / "shallow").mkdir()
    ops("clone", "--quiet", "--bare", "--depth=1", f"file://{ops.path}", str(tmp_path / "shallow"))
    reader = file_reader(RepositorySettings(name="ops", url=str(tmp_path / "shallow")), mirrors=tmp_path / "mirrors")
    job = Git(await AgentFiles(reader, tmp_path / "agent").check_out(checkout(ops("rev-parse", "HEAD"))))
    assert (job("log", "--format=%s"), job("fsck", "--full")) == ("second", "")
    await reader.close()


async def test_a_path_gets_the_files(ops: Git, agent: AgentFiles) -> None:
    """With and without history."""
    head = ops("rev-parse", "HEAD")
    plain = await agent.check_out(checkout(head, path="a/b", history=False))
    assert sorted(path.name for path in (plain / "a/b").iterdir()) == ["app", "link", "tool"]
    with_history = await agent.check_out(checkout(head, path="a/b"))
    assert [path.name for path in with_history.iterdir()] == ["a"]
    assert Git(with_history / "a/b")("status", "--porcelain") == ""


async def test_a_commit_that_is_gone_is_an_error_with_its_id(ops: Git, reader: RevisionFileReader) -> None:
    """The commit was removed between the push and the run."""
    with pytest.raises(WaterflowError, match="bbbbbbbbbbbb"):
        await reader.listed(checkout("b" * 40))


async def test_a_history_beyond_the_limit_is_refused(ops: Git, tmp_path: Path) -> None:
    """The error names the limit and the setting."""
    settings = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=500)
    reader = file_reader(settings, mirrors=tmp_path / "mirrors")
    with pytest.raises(Stalled, match="more than 500 bytes; raise fetch-max-bytes") as error:
        await reader.listed(checkout(ops("rev-parse", "HEAD")))
    assert error.value.code == codes.LIMIT
    await reader.close()


async def test_packs_that_have_grown_too_large_are_written_anew(ops: Git, tmp_path: Path) -> None:
    """The limit is for the history, and not for the packs of a few commits each, which take more."""
    settings = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=6_000)
    reader = file_reader(settings, mirrors=tmp_path / "mirrors")
    await reader.listed(checkout(ops("rev-parse", "HEAD")))
    counts = set()
    for number in range(8):
        await reader.listed(checkout(ops.commit(str(number))))
        counts.add(len(list((tmp_path / "mirrors/packs/ops").glob("*.pack"))))
    assert min(counts) == 1 < max(counts) < 8
    await reader.close()


async def test_more_branches_than_are_remembered_are_packed_once(
    ops: Git, reader: RevisionFileReader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise every checkout would write another pack."""
    monkeypatch.setattr(pack_store, "_TIPS_MAX", 2)
    head = ops("rev-parse", "HEAD")
    await reader.listed(checkout(head))
    written = (tmp_path / "mirrors/packs/ops/waterflow.json").stat().st_mtime_ns

    await reader.listed(checkout(head, path="b"))

    assert (tmp_path / "mirrors/packs/ops/waterflow.json").stat().st_mtime_ns == written


async def test_many_branches_are_refused(ops: Git, reader: RevisionFileReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do."""
    monkeypatch.setattr(git_files, "REFS_MAX", 3)
    with pytest.raises(Stalled, match="has 4 branches and tags"):
        await reader.listed(checkout(ops("rev-parse", "HEAD")))


async def test_a_damaged_history_is_an_error(ops: Git, reader: RevisionFileReader) -> None:
    """The object is named."""
    blob = ops("rev-parse", "HEAD~1:app/version")
    (ops.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Retryable, match=f"object {blob[:12]} of the history is missing"):
        await reader.listed(checkout(ops("rev-parse", "HEAD")))


def test_a_pack_that_is_too_large_for_agents_is_split(
    ops: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is a pack of its own; an object that is too large alone is an error."""
    monkeypatch.setattr(file_list, "FILE_BYTES_MAX", 400)
    target = tmp_path / "packs"
    target.mkdir()
    request = PackRequest(
        objects=str(ops.path / ".git/objects"),
        target=str(target),
        revision=ops("rev-parse", "HEAD"),
        wants=(),
        bytes_max=1 << 20,
        time_s=60,
    )
    packed = pack_child.PackWriter(request).run()
    assert len(packed.files) > 2
    assert all(file.size <= 400 for file in packed.files if file.name.endswith(".pack"))
    for file in packed.files:
        if file.name.endswith(".idx"):
            subprocess.run(["git", "verify-pack", str(target / file.name)], check=True)
    monkeypatch.setattr(file_list, "FILE_BYTES_MAX", 50)
    failed = pack_child.respond(request)
    assert isinstance(failed, PackFailed)
    assert (failed.code, failed.is_retryable) == (codes.LIMIT, False)


async def test_old_packs_are_replaced_when_they_are_many(
    ops: Git, reader: RevisionFileReader, agent: AgentFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An agent that still needs one of them is told so, and begins again."""
    monkeypatch.setattr(pack_store, "_FILES_MAX", 2)
    old = await reader.listed(checkout(ops("rev-parse", "HEAD")))
    for number in range(3):
        await reader.listed(checkout(ops.commit(str(number))))
    assert len(list((tmp_path / "mirrors/packs/ops").glob("*.pack"))) == 2
    blob = next(blob for blob, made in old.made.items() if isinstance(made, str))
    with pytest.raises(WaterflowError, match="cannot read a file of the checkout") as error:
        await reader.pieces("ops", old, [blob], 0, 1_000)
    assert error.value.code == "WF219"
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"))))
    assert job("log", "--format=%s").splitlines() == ["2", "1", "0", "second", "first"]


# Remotes ----------------------------------------------------------------------------------------------------------------


async def test_the_history_of_a_remote_is_fetched_when_it_is_needed(remote: RemoteRepository, tmp_path: Path) -> None:
    """The mirror of the watched refs still has no history; other branches and tags are part of it."""
    first = remote.work.pushed({"a": "1\n"})
    remote.work.git("tag", "v1")
    remote.work.push("refs/tags/*:refs/tags/*")
    remote.work.push("HEAD:refs/heads/other")
    second = remote.work.pushed({"a": "2\n"})
    with remote.served():
        source = remote.open()
        await source.refs()
        reader = file_reader(remote.settings, mirrors=tmp_path / "mirrors")
        agent = AgentFiles(reader, tmp_path / "agent")
        job = Git(await agent.check_out(checkout(second)))
        assert job("describe", "--tags").startswith("v1-1-g")
        assert job("rev-parse", "origin/other") == first
        third = remote.work.pushed({"a": "3\n"})
        await source.refs()
        assert Git(await agent.check_out(checkout(third)))("log", "--format=%H").splitlines() == [third, second, first]
    # The remote is away: what was fetched is still there.
    assert Git(await agent.check_out(checkout(third)))("rev-list", "--count", "HEAD") == "3"
    await reader.close()


async def test_a_commit_that_was_pushed_away_is_an_error(remote: RemoteRepository, tmp_path: Path) -> None:
    """Its files are still in the mirror, and its history no longer anywhere."""
    old = remote.work.pushed({"a": "1\n"})
    with remote.served():
        await remote.open().refs()
        remote.work.git("commit", "--quiet", "--amend", "--message", "another")
        remote.work.push("+HEAD:refs/heads/main")
        reader = file_reader(remote.settings, mirrors=tmp_path / "mirrors")
        with pytest.raises(Stalled, match=f"{old[:12]} is no longer in any branch or tag"):
            await reader.listed(checkout(old))
    await reader.close()


# The list ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [b".git", b".git/", b"config", b".git/../x", b".git/a//b", b"../.git/config", b".git/.git/config", b"a.git/x"],
)
def test_a_file_of_git_elsewhere_is_refused(path: bytes) -> None:
    """Only paths below one `.git` are such files."""
    with pytest.raises(Rejected, match="a path that is not allowed"):
        file_list.decode(file_list.encode([FileEntry(path, FileKind.GIT, b"1" * 20)]))


def test_names_of_refs_that_git_refuses_are_left_out() -> None:
    """A hostile remote may advertise any name."""
    names = ("refs/heads/a..b", "refs/heads/x\ny", "refs/heads/good", "refs/heads/.lock", "refs/tags/-")
    refs = Refs(head_ref=None, object_ids=dict.fromkeys(names, "1" * 40) | {"refs/heads/bad": "not an id"})
    assert sorted(git_files.usable_refs(refs)) == ["refs/heads/good", "refs/tags/-"]


def test_a_url_with_quotes_is_a_value() -> None:
    """It cannot add lines to the configuration."""
    files = git_files.git_files(
        url='https://x/"\n[core]\nfsmonitor=evil',
        ref="",
        revision="1" * 40,
        refs=Refs(head_ref=None, object_ids={}),
        shallow=(),
    )
    assert b'url = "https://x/\\"[core]fsmonitor=evil"\n' in files["config"]


def test_the_state_of_packs_can_be_read_again() -> None:
    """The file of an older version without a field is readable too."""
    state = pack_store.PackState(url="u", tips=("1",))
    assert msgspec.json.decode(msgspec.json.encode(state), type=pack_store.PackState) == state
