"""Checkouts with Git LFS: pointers have their contents, from servers with the real protocol (https, ssh) and from disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.gitsource.file_reader import AgentFiles, file_reader
from tests.integration.gitsource.lfs_server import LfsServer, pointer
from tests.integration.gitsource.test_local import Git
from tests.integration.gitsource.test_other_repositories import add_submodule
from tests.integration.remote.git_servers import Https, RemoteRepository, https, sshd
from tests.patience import wait_until
from waterflow_agent.checkout import file_list
from waterflow_agent.errors import Retryable, Stalled, WaterflowError
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.gitsource.history import reader as history_reader
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.model.records import Checkout, CheckoutPart
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

ATTRIBUTES = "*.bin filter=lfs diff=lfs merge=lfs -text\n"


def checkout(revision: str, *, lfs: bool = True, shallow: bool = False, patterns: tuple[str, ...] = ()) -> Checkout:
    part = CheckoutPart(lfs=lfs, shallow=shallow, head="refs/heads/main", patterns=patterns)
    return Checkout(repository="ops", revision=revision, parts=(part,))


def store(git: Git, content: bytes) -> str:
    """Puts a content where Git LFS has it in a repository; returns its pointer."""
    oid = hashlib.sha256(content).hexdigest()
    git.write(f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}", content)
    return pointer(content)


def new_repository(folder: Path) -> Git:
    folder.mkdir()
    git = Git(folder)
    git("init", "--quiet", "--initial-branch=main")
    return git


# A repository on this machine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shallow", [True, False])
async def test_pointers_have_their_contents(ops: Git, agent: AgentFiles, shallow: bool) -> None:
    """Other files and modes are as they were, and Git sees no change, whether it has the program of Git LFS or not."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("a/one.bin", store(ops, b"\0one" * 1_000))
    ops.write("two.bin", store(ops, b"two"))
    (ops.path / "two.bin").chmod(0o755)
    ops.write("plain.bin", "not a pointer\n")
    directory = await agent.check_out(checkout(ops.commit("large files"), shallow=shallow))

    assert (directory / "a/one.bin").read_bytes() == b"\0one" * 1_000
    assert ((directory / "two.bin").read_bytes(), (directory / "two.bin").stat().st_mode & 0o777) == (b"two", 0o755)
    assert (directory / "plain.bin").read_text() == "not a pointer\n"
    assert (directory / "app/version").read_text() == "2\n"
    if shallow:
        job = Git(directory)
        assert (job("diff-index", "--name-only", "HEAD"), job("status", "--porcelain")) == ("", "")
        assert job("show", "HEAD:two.bin") + "\n" == pointer(b"two")
        assert job("fsck", "--full") == ""
        (directory / "two.bin").write_bytes(b"other")
        assert job("status", "--porcelain") == "M two.bin"


async def test_without_lfs_a_file_is_its_pointer(ops: Git, agent: AgentFiles) -> None:
    """The default, as on GitHub."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    directory = await agent.check_out(checkout(ops.commit(), lfs=False))
    assert (directory / "two.bin").read_text() == pointer(b"two")


async def test_a_repository_without_attributes_has_no_pointers(ops: Git, agent: AgentFiles) -> None:
    """A file that only looks like one is an ordinary file."""
    ops.write("two.bin", pointer(b"two"))
    directory = await agent.check_out(checkout(ops.commit()))
    assert (directory / "two.bin").read_text() == pointer(b"two")


async def test_attributes_of_a_folder_count(ops: Git, agent: AgentFiles) -> None:
    """They need not be in the root."""
    ops.write("a/b/.gitattributes", ATTRIBUTES)
    ops.write("a/b/two.bin", store(ops, b"two"))
    directory = await agent.check_out(checkout(ops.commit()))
    assert (directory / "a/b/two.bin").read_bytes() == b"two"


async def test_a_bare_repository_on_this_machine_has_its_own_contents(ops: Git, tmp_path: Path) -> None:
    """They are in `lfs/objects` of the repository, as `git lfs push` to a path leaves them."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    commit = ops.commit()
    ops("clone", "--quiet", "--bare", str(ops.path), str(tmp_path / "bare.git"))
    reader = file_reader(RepositorySettings(name="ops", url=str(tmp_path / "bare.git")), mirrors=tmp_path / "mirrors")
    agent = AgentFiles(reader, tmp_path / "agent")
    with pytest.raises(Stalled, match="does not have the Git LFS object") as error:
        await agent.check_out(checkout(commit))
    assert (error.value.code, "bare.git/lfs/objects" in error.value.text) == (codes.LFS, True)
    shutil.copytree(ops.path / ".git/lfs", tmp_path / "bare.git/lfs")
    assert ((await agent.check_out(checkout(commit))) / "two.bin").read_bytes() == b"two"
    await reader.close()


async def test_a_content_that_is_another_one_is_refused(ops: Git, agent: AgentFiles) -> None:
    """Nothing of it reaches an agent."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    oid = hashlib.sha256(b"two").hexdigest()
    for content, words in ((b"owt", "another content"), (b"tw", "another size"), (b"twoo", "another size")):
        ops.write(f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}", content)
        with pytest.raises(Stalled, match=f"two.bin: the Git LFS object {oid[:12]} that was fetched has {words}"):
            await agent.check_out(checkout(ops.commit()))


async def test_files_beyond_the_limits_are_refused_by_name(
    ops: Git, reader: RevisionFileReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too large, and all together; patterns of the job can exclude them."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("a/one.bin", pointer(b"one").replace("size 3", f"size {6 << 30}"))
    commit = ops.commit()
    with pytest.raises(Stalled, match=r"a/one.bin: the file in Git LFS has 6.0 GiB, more than 5.0 GiB") as error:
        await reader.listed(checkout(commit))
    assert error.value.code == codes.LFS
    await reader.listed(checkout(commit, patterns=("**", "!a/**")))
    ops.write("a/one.bin", store(ops, b"1" * 600))
    ops.write("two.bin", store(ops, b"2" * 601))
    small = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=1_000)
    other = file_reader(small, mirrors=tmp_path / "mirrors")
    words = "have 1,201 bytes, more than 1,000; the largest is two.bin with 601; raise fetch-max-bytes"
    with pytest.raises(Stalled, match=words):
        await other.listed(checkout(ops.commit()))
    await other.close()


async def test_contents_that_were_not_needed_for_the_longest_time_are_removed(ops: Git, tmp_path: Path) -> None:
    """Twice the bytes of one checkout are kept, also across restarts; what was removed is fetched again."""
    ops.write(".gitattributes", ATTRIBUTES)
    settings = RepositorySettings(name="ops", url=str(ops.path), fetch_bytes_max=1_000)
    commits = []
    for number in range(4):
        ops.write("one.bin", store(ops, b"%d" % number * 900))
        commits.append(ops.commit())
        reader = file_reader(settings, mirrors=tmp_path / "mirrors")
        await reader.listed(checkout(commits[-1]))
        await reader.close()
        kept = sum(path.stat().st_size for path in (tmp_path / "mirrors/lfs/ops").iterdir())
        assert kept == min(number + 1, 2) * 900
    reader = file_reader(settings, mirrors=tmp_path / "mirrors")
    first = await AgentFiles(reader, tmp_path / "agent").check_out(checkout(commits[0]))
    assert (first / "one.bin").read_bytes() == b"0" * 900
    await reader.close()


async def test_an_agent_that_needs_a_removed_content_begins_again(
    ops: Git, reader: RevisionFileReader, tmp_path: Path
) -> None:
    """The code is the one after which agents ask for a new list."""
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    listed = await reader.listed(checkout(ops.commit()))
    [blob] = listed.made
    shutil.rmtree(tmp_path / "mirrors/lfs")
    with pytest.raises(WaterflowError, match="cannot read a file of the checkout") as error:
        await reader.pieces("ops", listed, [blob], 0, 1_000)
    assert error.value.code == "WF219"


async def test_what_was_made_of_a_repository_is_removed_with_it(
    ops: Git, reader: RevisionFileReader, tmp_path: Path
) -> None:
    """Packs, shallow packs and contents; those of other repositories stay."""
    mirrors = tmp_path / "mirrors"
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    commit = ops.commit()
    await reader.listed(checkout(commit, shallow=True))
    part = CheckoutPart(history=True, head="refs/heads/main")
    await reader.listed(Checkout(repository="ops", revision=commit, parts=(part,)))
    (mirrors / "lfs/other").mkdir()
    assert sorted(str(path.relative_to(mirrors)) for path in mirrors.glob("*/ops")) == [
        "lfs/ops",
        "packs/ops",
        "shallow-packs/ops",
    ]
    await RepositoryOpener(mirrors, {}).remove(RepositorySettings(name="ops", url=str(ops.path)))
    assert (list(mirrors.glob("*/ops")), (mirrors / "lfs/other").is_dir()) == ([], True)


# Submodules ---------------------------------------------------------------------------------------------------------------


async def test_submodules_have_their_contents(ops: Git, tmp_path: Path) -> None:
    """Each from its own repository, also those in submodules; without `lfs` they have pointers."""
    library, inner = new_repository(tmp_path / "library"), new_repository(tmp_path / "inner")
    for git, content in ((ops, b"ops"), (library, b"library"), (inner, b"inner")):
        git.write(".gitattributes", ATTRIBUTES)
        git.write("model.bin", store(git, content))
        git.commit()
    add_submodule(library, "inner", "../inner", inner("rev-parse", "HEAD"))
    commit = add_submodule(ops, "lib", "../library", library("rev-parse", "HEAD"))
    reader = file_reader(
        *(
            RepositorySettings(name=git.path.name, url=str(git.path), readable_by=("ops",))
            for git in (ops, library, inner)
        ),
        mirrors=tmp_path / "mirrors",
    )
    agent = AgentFiles(reader, tmp_path / "agent")
    for lfs in (True, False):
        part = CheckoutPart(lfs=lfs, submodules=True, path="src")
        directory = await agent.check_out(Checkout(repository="ops", revision=commit, parts=(part,)))
        for path, content in (("", b"ops"), ("lib/", b"library"), ("lib/inner/", b"inner")):
            expected = content if lfs else pointer(content).encode()
            assert (directory / f"src/{path}model.bin").read_bytes() == expected

    inner.write("model.bin", pointer(b"nowhere"))
    add_submodule(library, "inner", "../inner", inner.commit())
    commit = add_submodule(ops, "lib", "../library", library("rev-parse", "HEAD"))
    part = CheckoutPart(lfs=True, submodules=True, path="src")
    words = (
        "src/lib/inner/model.bin: the repository does not have the Git LFS object .* below .*/inner/.git/lfs/objects"
    )
    with pytest.raises(Stalled, match=words):
        await agent.check_out(Checkout(repository="ops", revision=commit, parts=(part,)))
    await reader.close()


async def test_a_submodule_has_its_own_server_and_credentials(plain: Served, ops: Git, tmp_path: Path) -> None:
    """The contents come from the address of the submodule's repository, and those of the job's from its own."""
    plain.lfs.add(b"theirs")
    inner = await plain.push(b"theirs")
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("0.bin", store(ops, b"ours"))
    ops.commit()
    commit = add_submodule(ops, "lib", plain.remote.settings.url, inner)
    reader = file_reader(
        RepositorySettings(name="app", url=str(ops.path)),
        msgspec.structs.replace(plain.remote.settings, readable_by=("app",)),
        mirrors=tmp_path / "mirrors",
        environment=plain.remote.environment,
    )
    part = CheckoutPart(lfs=True, submodules=True)
    agent = AgentFiles(reader, tmp_path / "agent")
    directory = await agent.check_out(Checkout(repository="app", revision=commit, parts=(part,)))
    assert ((directory / "0.bin").read_bytes(), (directory / "lib/0.bin").read_bytes()) == (b"ours", b"theirs")
    assert plain.lfs.fetched == [hashlib.sha256(b"theirs").hexdigest()]
    await reader.close()


# Servers ------------------------------------------------------------------------------------------------------------------


class Served:
    """A repository on an https server that has Git LFS, and an agent."""

    def __init__(self, remote: RemoteRepository, server: Https, folder: Path) -> None:
        self.remote = remote
        self.server = server
        self.lfs = server.lfs = LfsServer()
        self.contents = folder / "mirrors/lfs/ops"
        self._folder = folder
        self._reader: RevisionFileReader | None = None

    @property
    def reader(self) -> RevisionFileReader:
        if self._reader is None:
            self._reader = file_reader(
                self.remote.settings, mirrors=self._folder / "mirrors", environment=self.remote.environment
            )
        return self._reader

    async def push(self, *contents: bytes) -> str:
        """A commit with a large file for each content, whose pointers the server may know."""
        files = {f"{number}.bin": pointer(content) for number, content in enumerate(contents)}
        commit = self.remote.work.pushed({".gitattributes": ATTRIBUTES, **files})
        await self.remote.open().refs()
        return commit

    async def check_out(self, commit: str, *, shallow: bool = False) -> Path:
        return await AgentFiles(self.reader, self._folder / "agent").check_out(checkout(commit, shallow=shallow))

    async def close(self) -> None:
        """The next call opens the repository again."""
        if self._reader is not None:
            await self._reader.close()
            self._reader = None


@contextlib.contextmanager
def http_storage(root: Path) -> Iterator[tuple[LfsServer, str]]:
    """A second server, which only has contents."""
    root.mkdir()
    with https(root, is_plain=True) as server:
        server.lfs = LfsServer()
        server.lfs.token = ""
        yield server.lfs, f"http://localhost:{server.port}"


@pytest.fixture
async def served(remote: RemoteRepository, tmp_path: Path) -> AsyncIterator[Served]:
    """With a certificate of its own, and a token."""
    with https(tmp_path) as server:
        server.login = "ada:geheim"
        remote.environment["WATERFLOWD_GIT_TOKEN_OPS"] = "ada:geheim"
        remote.settings = msgspec.structs.replace(
            remote.settings, url=server.url(), ca_file=str(server.authority), interval_ms=100
        )
        served = Served(remote, server, tmp_path)
        yield served
        await served.close()


@pytest.fixture
async def plain(remote: RemoteRepository, tmp_path: Path) -> AsyncIterator[Served]:
    """Without TLS, so that a second server needs no certificate."""
    with https(tmp_path, is_plain=True) as server:
        server.login = "ada:geheim"
        remote.environment["WATERFLOWD_GIT_TOKEN_OPS"] = "ada:geheim"
        url = f"http://localhost:{server.port}/ops.git"
        remote.settings = msgspec.structs.replace(remote.settings, url=url, allow_http=True)
        served = Served(remote, server, tmp_path)
        yield served
        await served.close()


async def test_contents_come_from_the_server_with_the_credentials_of_the_repository(served: Served) -> None:
    """The batch API says where they are; each is fetched once, and the next commit fetches only what is new."""
    for content in (b"one", b"two" * 100_000, b"three"):
        served.lfs.add(content)
    first = await served.push(b"one", b"two" * 100_000)
    directory = await served.check_out(first, shallow=True)
    assert [(directory / f"{number}.bin").read_bytes() for number in (0, 1)] == [b"one", b"two" * 100_000]
    assert (Git(directory)("status", "--porcelain"), Git(directory)("rev-parse", "HEAD")) == ("", first)
    assert all(headers["X-Lfs-Token"] == "t0ken" for headers in served.lfs.headers)

    await served.check_out(first)
    second = await served.push(b"one", b"three")
    directory = await served.check_out(second)
    assert (directory / "1.bin").read_bytes() == b"three"
    ids = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two" * 100_000, b"three")]
    assert [sorted(batch) for batch in served.lfs.batches] == [sorted(ids[:2]), ids[2:]]
    assert sorted(served.lfs.fetched) == sorted(ids)


async def test_many_checkouts_fetch_a_content_once(served: Served) -> None:
    """They wait for the first one."""
    served.lfs.add(b"one")
    commit = await served.push(b"one")
    await asyncio.gather(*(served.reader.listed(checkout(commit)) for _ in range(5)))
    assert len(served.lfs.fetched) == 1


async def test_many_files_are_asked_for_in_batches(served: Served) -> None:
    """Of a hundred, as Git LFS itself does."""
    contents = [b"%d" % number for number in range(130)]
    for content in contents:
        served.lfs.add(content)
    directory = await served.check_out(await served.push(*contents))
    assert [len(batch) for batch in served.lfs.batches] == [100, 30]
    assert (directory / "129.bin").read_bytes() == b"129"


@pytest.mark.parametrize("is_redirected", [False, True])
async def test_a_storage_service_gets_no_credentials(plain: Served, tmp_path: Path, is_redirected: bool) -> None:
    """Contents may be on another server; the token is for the repository's own, and the action's header for its address."""
    with http_storage(tmp_path / "storage") as (storage, address):
        for content in (b"one", b"two"):
            plain.lfs.add(content)
            storage.add(content)
        if is_redirected:
            plain.lfs.moved_to = address
        else:
            plain.lfs.storage = address
        directory = await plain.check_out(await plain.push(b"one", b"two"))
        assert [(directory / f"{number}.bin").read_bytes() for number in (0, 1)] == [b"one", b"two"]
        assert len(storage.headers) == 2
        for headers in storage.headers:
            assert "Authorization" not in headers
            assert ("X-Lfs-Token" in headers) is not is_redirected


async def test_an_address_that_is_not_https_is_refused(served: Served, tmp_path: Path) -> None:
    """The content and the header of the action would be readable on the way."""
    served.lfs.add(b"one")
    with http_storage(tmp_path / "storage") as (storage, address):
        served.lfs.storage = address
        with pytest.raises(Stalled, match="names an address that is not used") as error:
            await served.check_out(await served.push(b"one"))
        assert (error.value.code, storage.headers, "lfs-objects" in error.value.text) == (codes.URL_REFUSED, [], False)


async def test_the_file_lfsconfig_is_not_followed(served: Served) -> None:
    """Anybody who may push could send the token to another server with it."""
    served.lfs.add(b"one")
    served.remote.work.pushed({".lfsconfig": "[lfs]\n\turl = https://evil.example.org/lfs\n"})
    directory = await served.check_out(await served.push(b"one"))
    assert (directory / "0.bin").read_bytes() == b"one"


async def test_an_answer_with_null_for_what_is_left_out_is_understood(served: Served) -> None:
    """Some servers write every field."""
    served.lfs.add(b"one")
    served.lfs.token = ""
    oid = hashlib.sha256(b"one").hexdigest()
    action = {"href": f"{served.server.url('lfs-objects')}/{oid}", "header": None, "expires_at": None}
    item = {"oid": oid, "size": 3, "actions": {"download": action, "upload": None}, "error": None}
    served.lfs.instead = (200, json.dumps({"transfer": None, "objects": [item]}).encode())
    assert ((await served.check_out(await served.push(b"one"))) / "0.bin").read_bytes() == b"one"


async def test_a_content_that_the_server_does_not_have_is_named(served: Served) -> None:
    """By the path of its file, with what the server says."""
    served.lfs.add(b"one")
    oid = hashlib.sha256(b"two").hexdigest()
    words = f"1.bin: localhost:.* does not have the Git LFS object {oid[:12]}: Object does not exist"
    with pytest.raises(Stalled, match=words) as error:
        await served.check_out(await served.push(b"one", b"two"))
    assert error.value.code == codes.LFS


@pytest.mark.parametrize(
    ("status", "content", "kind", "code", "words"),
    [
        (404, b"", Stalled, codes.LFS, "has no Git LFS for this repository"),
        (403, b"", Stalled, codes.ACCESS, "denies access to Git LFS"),
        (503, b"", Retryable, codes.NOT_THERE, "temporarily unavailable"),
        (200, b"<html>", Stalled, codes.LFS, "does not answer as a Git LFS server"),
        (200, b'{"transfer": "tus", "objects": []}', Stalled, codes.LFS, "does not offer the transfer"),
        (200, b'{"objects": []}', Stalled, codes.LFS, "does not have the Git LFS object"),
        (200, b'{"objects": [7]}', Stalled, codes.LFS, "does not answer as a Git LFS server"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_an_error(
    served: Served, status: int, content: bytes, kind: type[WaterflowError], code: str, words: str
) -> None:
    """Each with its own sentence."""
    served.lfs.instead = (status, content)
    with pytest.raises(kind, match=words) as error:
        await served.check_out(await served.push(b"one"))
    assert error.value.code == code


async def test_a_rejected_token_is_an_error_without_the_token(served: Served) -> None:
    """The files were fetched before, so that only Git LFS asks for it."""
    commit = await served.push(b"one")
    served.server.login = "ada:new"
    with pytest.raises(Stalled, match="rejects the token for Git LFS") as error:
        await served.check_out(commit)
    assert (error.value.code, "geheim" in error.value.text) == (codes.ACCESS, False)


async def test_what_was_fetched_before_a_failure_is_not_fetched_again(served: Served) -> None:
    """The next attempt continues with the rest."""
    there = [b"%d" % number for number in range(99)]
    for content in (*there, b"one"):
        served.lfs.add(content)
    # The last one by its path, 99.bin, is the only one of the second batch.
    commit = await served.push(*there, b"two", b"one")
    with pytest.raises(Stalled, match="does not have the Git LFS object"):
        await served.check_out(commit)
    assert len(served.lfs.fetched) == 100
    served.lfs.add(b"two")
    await served.check_out(commit)
    assert (len(served.lfs.fetched), served.lfs.batches[-1]) == (101, [hashlib.sha256(b"two").hexdigest()])


LONG = bytes(range(256)) * 20_000


async def fail_after(served: Served, count: int) -> str:
    """A commit with a content whose fetch was cut off after so many bytes."""
    served.lfs.add(LONG)
    commit = await served.push(LONG)
    served.lfs.cut_after = count
    with pytest.raises(Retryable):
        await served.check_out(commit)
    served.lfs.cut_after = None
    return commit


async def test_a_fetch_continues_in_the_middle_of_a_content(served: Served) -> None:
    """Nothing of it can be seen before, and what has arrived is not fetched again."""
    commit = await fail_after(served, 3_000_000)
    [partial] = served.contents.iterdir()
    begun = partial.stat().st_size
    assert (partial.name.startswith("tmp_"), 0 < begun <= 3_000_000) == (True, True)
    directory = await served.check_out(commit)
    assert (directory / "0.bin").read_bytes() == LONG
    assert served.lfs.headers[-1]["Range"] == f"bytes={begun}-"


async def test_a_server_that_cannot_continue_sends_everything(served: Served) -> None:
    """It answers as if nothing had been fetched."""
    commit = await fail_after(served, 3_000_000)
    served.lfs.has_ranges = False
    assert ((await served.check_out(commit)) / "0.bin").read_bytes() == LONG


@pytest.mark.parametrize("size", [10, len(LONG), len(LONG) + 1])
async def test_a_part_that_was_damaged_is_fetched_again(served: Served, size: int) -> None:
    """A power cut can do this. The server may answer that nothing is left (416)."""
    commit = await fail_after(served, 1_000)
    [partial] = served.contents.iterdir()
    partial.write_bytes(b"x" * size)
    assert ((await served.check_out(commit)) / "0.bin").read_bytes() == LONG


async def test_parts_of_other_contents_are_kept_as_long_as_there_is_room(served: Served) -> None:
    """They count as contents do, and go first."""
    settings = served.remote.settings
    first = await fail_after(served, 3_000_000)
    [partial] = served.contents.iterdir()
    served.lfs.add(b"two")
    await served.check_out(await served.push(b"two"))
    assert partial.exists()
    await served.close()
    served.remote.settings = msgspec.structs.replace(settings, fetch_bytes_max=1 << 20)
    served.lfs.add(b"three")
    await served.check_out(await served.push(b"three"))
    assert (partial.exists(), len(list(served.contents.iterdir()))) == (False, 2)
    with pytest.raises(Stalled, match="raise fetch-max-bytes"):
        await served.check_out(first)


async def test_contents_that_do_not_fit_on_the_disk_are_not_fetched(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, because somebody may free some space."""
    served.lfs.add(LONG)
    commit = await served.push(LONG)
    disk = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=2 * len(LONG) - 1))
        with pytest.raises(Retryable, match=r"disk has only 9.8 MiB left, and 4.9 MiB of contents need 9.8 MiB; free"):
            await served.check_out(commit)
    assert served.lfs.batches == []
    assert ((await served.check_out(commit)) / "0.bin").read_bytes() == LONG


async def test_a_fetch_delays_neither_other_repositories_nor_what_was_fetched_before(
    plain: Served, ops: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs takes the place of others only for a moment."""
    monkeypatch.setattr(history_reader, "_AT_ONCE", 1)
    monkeypatch.setattr(history_reader, "_SLOT_S", 0.05)
    plain.lfs.add(b"one")
    plain.lfs.add(b"two")
    first = await plain.push(b"one")
    ops.write(".gitattributes", ATTRIBUTES)
    ops.write("two.bin", store(ops, b"two"))
    local = RepositorySettings(name="local", url=str(ops.path))
    reader = file_reader(
        plain.remote.settings, local, mirrors=tmp_path / "mirrors", environment=plain.remote.environment
    )
    await reader.listed(checkout(first))
    second = await plain.push(b"one", b"two")
    plain.lfs.may_send.clear()
    slow = asyncio.create_task(reader.listed(checkout(second)))
    await asyncio.to_thread(wait_until, lambda: plain.lfs.waiting, "the fetch to hang")

    part = CheckoutPart(lfs=True)
    other = await reader.listed(Checkout(repository="local", revision=ops.commit(), parts=(part,)))
    again = await reader.listed(checkout(first, patterns=("**",)))

    assert (len(other.made), len(again.made), slow.done()) == (1, 1, False)
    plain.lfs.may_send.set()
    assert len((await slow).made) == 2
    await reader.close()


async def test_ssh_says_where_the_contents_are(served: Served, tmp_path: Path) -> None:
    """`git-lfs-authenticate` names an https server and a token for it, as at GitHub and GitLab."""
    served.lfs.add(b"one")
    served.server.login = "ada:geheim"
    remote = served.remote
    with sshd(tmp_path / "ssh") as ssh:
        authorization = served.server.authorization()
        answer = (
            f'{{"href": "https://localhost:{served.server.port}/ops.git/info/lfs",'
            f' "header": {{"Authorization": "{authorization}"}}, "expires_in": 600}}'
        )
        script = tmp_path / "session"
        script.write_text(
            "#!/bin/sh\n"
            f'case "$SSH_ORIGINAL_COMMAND" in\n'
            f"git-lfs-authenticate*) echo \"$SSH_ORIGINAL_COMMAND\" > {tmp_path}/asked; echo '{answer}' ;;\n"
            '*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;\nesac\n'
        )
        script.chmod(0o755)
        keys = ssh.directory / "authorized_keys"
        keys.write_text(f'command="{script}" {keys.read_text()}')
        remote.settings = msgspec.structs.replace(
            remote.settings,
            url=ssh.url(remote.work.bare),
            ssh_key_file=str(ssh.key),
            known_hosts_file=str(ssh.known_hosts),
        )
        directory = await served.check_out(await served.push(b"one"))
        assert (directory / "0.bin").read_bytes() == b"one"
        assert (tmp_path / "asked").read_text() == f"git-lfs-authenticate {remote.work.bare} download\n"

        script.write_text(
            '#!/bin/sh\ncase "$SSH_ORIGINAL_COMMAND" in git-lfs*) echo "no such command" >&2; exit 127;; esac\n'
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        with pytest.raises(Stalled, match=r"git-lfs-authenticate failed: .*no such command"):
            await served.check_out(await served.push(b"two"))


async def test_the_git_protocol_has_no_git_lfs(remote: RemoteRepository, tmp_path: Path) -> None:
    """The sentence says which protocols have it."""
    commit = remote.work.pushed({".gitattributes": ATTRIBUTES, "0.bin": pointer(b"one")})
    with remote.served():
        await remote.open().refs()
        reader = file_reader(remote.settings, mirrors=tmp_path / "mirrors")
        with pytest.raises(Stalled, match="git:// has no Git LFS; use https or ssh"):
            await reader.listed(checkout(commit))
        await reader.close()


def test_a_list_with_a_pointer_of_another_length_is_refused() -> None:
    """An agent trusts no id that it would write into an index."""
    entry = file_list.FileEntry(b"a", file_list.FileKind.FILE, b"1" * 20, b"2" * 20)
    assert file_list.decode(file_list.encode([entry])) == [entry]
    with pytest.raises(WaterflowError, match="not allowed"):
        file_list.decode(file_list.encode([msgspec.structs.replace(entry, pointer=b"2")]))
