"""Checkouts with a single commit: a repository for real Git, with nothing of the commits before it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from tests.integration.gitsource.file_reader import AgentFiles, file_reader
from tests.integration.gitsource.test_local import Git
from tests.integration.remote.git_servers import RemoteRepository
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.gitsource.history import pack_child, pack_store
from waterflowd.gitsource.history.pack_protocol import PackFailed, PackRequest
from waterflowd.model.records import Checkout, CheckoutPart
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings


def checkout(revision: str, head: str = "refs/heads/main", path: str = "", ref: str = "") -> Checkout:
    """A shallow checkout of `ops`."""
    part = CheckoutPart(shallow=True, head=head, path=path, ref=ref)
    return Checkout(repository="ops", revision=revision, parts=(part,))


def packs(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.pack"))


async def test_a_shallow_directory_is_a_clean_repository_with_one_commit(ops: Git, agent: AgentFiles) -> None:
    """What scripts ask Git for is that of the true commit, and Git finds nothing missing."""
    head = ops("rev-parse", "HEAD")
    directory = await agent.check_out(checkout(head))
    job = Git(directory)

    assert (job("rev-parse", "HEAD"), job("rev-parse", "--is-shallow-repository")) == (head, "true")
    assert job("log", "--all", "--format=%H %s %an") == f"{head} second Ada"
    assert job("rev-parse", "HEAD^{tree}") == ops("rev-parse", "HEAD^{tree}")
    assert job("describe", "--always") == head[:7]
    assert job("status", "--porcelain", "--branch") == "## main...origin/main"
    assert (job("diff"), job("diff-index", "--name-only", "HEAD")) == ("", "")
    assert job("for-each-ref", "--format=%(refname)").splitlines() == ["refs/heads/main", "refs/remotes/origin/main"]
    assert job("fsck", "--full", "--strict") == ""
    (directory / "app/version").write_text("3\n")
    assert job("diff", "--shortstat") == "1 file changed, 1 insertion(+), 1 deletion(-)"
    job.commit("a commit of the job")
    assert job("log", "--format=%s").splitlines() == ["a commit of the job", "second"]


async def test_a_first_commit_is_not_shallow(ops: Git, agent: AgentFiles) -> None:
    """It has no parents that could be missing."""
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD~1"))))
    assert (job("rev-parse", "--is-shallow-repository"), job("fsck", "--full")) == ("false", "")


async def test_a_merge_is_one_commit(ops: Git, agent: AgentFiles) -> None:
    """None of its parents is needed."""
    ops("checkout", "--quiet", "feature/x")
    ops.write("side", "1\n")
    ops.commit("side")
    ops("merge", "--quiet", "--no-edit", "main")
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"), "refs/heads/feature/x")))
    assert (job("rev-list", "--count", "HEAD"), job("fsck", "--full"), job("status", "--porcelain")) == ("1", "", "")
    assert job("rev-parse", "--abbrev-ref", "HEAD") == "feature/x"


@pytest.mark.parametrize(("head", "tags"), [("refs/tags/v1.0", "v1.0"), ("", "")])
async def test_the_tag_of_a_run_is_the_only_one(ops: Git, agent: AgentFiles, head: str, tags: str) -> None:
    """HEAD is detached; a commit alone has no name."""
    job = Git(await agent.check_out(checkout(ops("rev-parse", "v1.0^{commit}"), head)))
    assert (job("rev-parse", "--abbrev-ref", "HEAD"), job("tag"), job("for-each-ref", "--format=%(refname)")) == (
        "HEAD",
        tags,
        head,
    )
    if tags:
        assert job("describe", "--tags") == "v1.0"


async def test_submodules_and_modes_are_those_of_the_commit(ops: Git, agent: AgentFiles) -> None:
    """Git compares them with the commit, and finds no difference."""
    ops("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    (ops.path / "module").mkdir()
    ops("commit", "--quiet", "--message", "a submodule")
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"))))
    assert (job("status", "--porcelain"), job("fsck", "--full")) == ("", "")
    assert job("ls-files", "--stage", "module").startswith("160000")


async def test_the_next_commit_transfers_only_what_changed(ops: Git, agent: AgentFiles) -> None:
    """The directory has its own commit alone, although the server has packs of both."""
    await agent.check_out(checkout(ops("rev-parse", "HEAD")))
    ops.write("app/version", "3\n")
    third = ops.commit("third")
    job = Git(await agent.check_out(checkout(third)))
    # The file, a pack, its index, the commit, the packed refs, and what is shallow.
    assert agent.fetched == 6
    assert len(packs(job.path / ".git/objects/pack")) == 2
    assert (job("log", "--all", "--format=%s"), job("status", "--porcelain")) == ("third", "")
    job("fsck", "--full", "--strict")
    commits = job("cat-file", "--batch-all-objects", "--batch-check=%(objecttype)").splitlines().count("commit")
    assert commits == 1


async def test_an_earlier_commit_is_packed_already(ops: Git, agent: AgentFiles, tmp_path: Path) -> None:
    """A re-run needs nothing new, nor does a commit with the same files."""
    first, second = ops("rev-parse", "HEAD~1"), ops("rev-parse", "HEAD")
    for revision in (first, second):
        await agent.check_out(checkout(revision))
    before = packs(tmp_path / "mirrors/shallow-packs/ops")
    ops("revert", "--no-edit", "HEAD")
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"))))
    assert packs(tmp_path / "mirrors/shallow-packs/ops") == before
    assert (job("log", "--format=%s"), (job.path / "app/version").read_text()) == ('Revert "second"', "1\n")


async def test_many_checkouts_of_a_commit_pack_it_once(ops: Git, reader: RevisionFileReader, tmp_path: Path) -> None:
    """Also after a restart of the daemon."""
    head = ops("rev-parse", "HEAD")
    await asyncio.gather(*(reader.listed(checkout(head, path=path)) for path in ("", "a", "b")))
    directory = tmp_path / "mirrors/shallow-packs/ops"
    names = packs(directory)
    assert len(names) == 1
    again = file_reader(RepositorySettings(name="ops", url=str(ops.path)), mirrors=tmp_path / "mirrors")
    await again.listed(checkout(head))
    await again.close()
    assert packs(directory) == names
    # Histories are elsewhere, and nobody has asked for one.
    assert not (tmp_path / "mirrors/packs").exists()


async def test_packs_that_have_outgrown_the_tree_are_written_anew(
    ops: Git, reader: RevisionFileReader, agent: AgentFiles, tmp_path: Path
) -> None:
    """A shallow checkout gets all packs, so what old commits leave in them is bounded."""
    directory = tmp_path / "mirrors/shallow-packs/ops"
    sizes = []
    for number in range(12):
        ops.write("app/version", f"{number}\n" * 20)
        await reader.listed(checkout(ops.commit(str(number))))
        sizes.append(len(packs(directory)))
    assert max(sizes) < 8
    assert any(after < before for before, after in itertools.pairwise(sizes))
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"))))
    assert (job("log", "--format=%s"), job("status", "--porcelain")) == ("11", "")


async def test_history_and_a_single_commit_share_nothing(ops: Git, agent: AgentFiles) -> None:
    """Two directories of one job, each with its own repository."""
    head = ops("rev-parse", "HEAD")
    parts = (
        CheckoutPart(shallow=True, head="refs/heads/main"),
        CheckoutPart(history=True, head="refs/heads/main", path="all"),
    )
    directory = await agent.check_out(Checkout(repository="ops", revision=head, parts=parts))
    assert Git(directory)("log", "--format=%s") == "second"
    assert Git(directory / "all")("log", "--format=%s").splitlines() == ["second", "first"]
    assert Git(directory)("status", "--porcelain") == "?? all/"


async def test_another_ref_has_its_own_commit(ops: Git, agent: AgentFiles) -> None:
    """`ref` of the checkout, in place of the run's commit."""
    job = Git(await agent.check_out(checkout(ops("rev-parse", "HEAD"), ref="feature/x")))
    assert job("log", "--all", "--format=%s") == "first"
    assert job("status", "--porcelain", "--branch") == "## feature/x...origin/feature/x"


async def test_a_shallow_repository_on_this_machine_is_enough(ops: Git, tmp_path: Path) -> None:
    """Its commit has parents that do not exist."""
    ops("clone", "--quiet", "--bare", "--depth=1", f"file://{ops.path}", str(tmp_path / "shallow"))
    reader = file_reader(RepositorySettings(name="ops", url=str(tmp_path / "shallow")), mirrors=tmp_path / "mirrors")
    job = Git(await AgentFiles(reader, tmp_path / "agent").check_out(checkout(ops("rev-parse", "HEAD"))))
    assert (job("log", "--format=%s"), job("fsck", "--full")) == ("second", "")
    await reader.close()


async def test_a_commit_beyond_the_limit_is_refused(ops: Git, tmp_path: Path) -> None:
    """The error names the limit, the setting, and what to do without it."""
    ops.write("large", bytes(range(256)) * 8)
    settings = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=300)
    reader = file_reader(settings, mirrors=tmp_path / "mirrors")
    with pytest.raises(Stalled, match="the commit has more than 300 bytes; raise fetch-max-bytes, or use") as error:
        await reader.listed(checkout(ops.commit("large")))
    assert error.value.code == codes.LIMIT
    await reader.close()


async def test_the_limit_is_that_of_one_commit(ops: Git, tmp_path: Path) -> None:
    """Commits that are small enough never reach it together."""
    settings = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=1_000)
    reader = file_reader(settings, mirrors=tmp_path / "mirrors")
    for number in range(10):
        ops.write("app/version", f"{number}\n")
        await reader.listed(checkout(ops.commit(str(number))))
    await reader.close()


def test_too_many_objects_are_refused(ops: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is bounded as the size is."""
    monkeypatch.setattr(pack_child, "OBJECTS_MAX", 3)
    request = PackRequest(
        objects=str(ops.path / ".git/objects"),
        target=str(tmp_path),
        revision=ops("rev-parse", "HEAD"),
        is_shallow=True,
        wants=(ops("rev-parse", "HEAD^{tree}"),),
        bytes_max=1 << 20,
        time_s=60,
    )
    failed = pack_child.respond(request)
    assert isinstance(failed, PackFailed)
    assert (failed.code, "more than 3 objects" in failed.text, failed.is_retryable) == (codes.LIMIT, True, False)


async def test_a_damaged_commit_is_an_error(ops: Git, reader: RevisionFileReader) -> None:
    """The object is named."""
    blob = ops("rev-parse", "HEAD:app/version")
    (ops.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Retryable, match=f"object {blob[:12]}"):
        await reader.listed(checkout(ops("rev-parse", "HEAD")))


async def test_the_mirror_of_the_watched_refs_is_enough_for_a_remote(remote: RemoteRepository, tmp_path: Path) -> None:
    """No history is fetched for it, so it works while the remote is away."""
    remote.work.pushed({"a": "1\n"})
    second = remote.work.pushed({"a": "2\n"})
    with remote.served():
        await remote.open().refs()
    reader = file_reader(remote.settings, mirrors=tmp_path / "mirrors")
    agent = AgentFiles(reader, tmp_path / "agent")
    job = Git(await agent.check_out(checkout(second)))
    assert (job("log", "--all", "--format=%H"), job("fsck", "--full"), job("status", "--porcelain")) == (second, "", "")
    assert job("remote", "get-url", "origin") == remote.settings.url
    assert not (tmp_path / "mirrors/complete").exists()
    await reader.close()


def test_the_state_of_an_older_version_can_be_read() -> None:
    """The field that it lacks has a default."""
    state = msgspec.json.decode(b'{"url": "u", "tips": ["1"]}', type=pack_store.PackState)
    assert (state.tips, state.first_bytes) == (("1",), 0)
