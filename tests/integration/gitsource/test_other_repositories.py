"""Checkouts of other repositories, refs and submodules: what a job may read, and what it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gitsource.file_reader import AgentFiles, file_reader
from tests.integration.gitsource.test_local import Git
from tests.integration.remote.git_servers import RemoteRepository
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.wire.messages import Tree, TreePart
from waterflowd.gitsource.checkouts import submodules
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.model.records import Checkout, CheckoutPart
from waterflowd.reconcile.settings import RepositorySettings


class LocalRepositories:
    """Local repositories, and an agent that checks them out for jobs of `app`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, RepositorySettings] = {}
        self._reader: RevisionFileReader | None = None

    def repository(self, name: str, readable_by: tuple[str, ...] = ()) -> Git:
        """Creates a repository with one commit."""
        (self.folder / name).mkdir()
        git = Git(self.folder / name)
        git("init", "--quiet", "--initial-branch=main")
        git.write("name", f"{name}\n")
        git.commit("first")
        self.settings[name] = RepositorySettings(name=name, url=str(git.path), readable_by=readable_by)
        return git

    async def check_out(self, revision: str, *parts: CheckoutPart) -> Path:
        """The directory of a job of `app` with these parts."""
        if self._reader is None:
            self._reader = file_reader(*self.settings.values(), mirrors=self.folder / "mirrors")
        agent = AgentFiles(self._reader, self.folder / "agent")
        return await agent.check_out(Checkout(repository="app", revision=revision, parts=parts))

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[LocalRepositories]:
    world = LocalRepositories(tmp_path)
    yield world
    await world.close()


def part(**fields: Any) -> CheckoutPart:
    return CheckoutPart(**fields)


def names(directory: Path) -> list[str]:
    """The files below a directory, without those of `.git`."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(directory).parts
    )


def add_submodule(git: Git, path: str, url: str, commit: str) -> str:
    """Commits a submodule; returns the commit."""
    for key, value in (("path", path), ("url", url)):
        git("config", "--file", ".gitmodules", f"submodule.{path}.{key}", value)
    git("add", ".gitmodules")
    git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git("commit", "--quiet", "--message", "a submodule")
    return git("rev-parse", "HEAD")


# Other repositories ---------------------------------------------------------------------------------------------------------


async def test_another_repository_is_read_if_it_allows_it(world: LocalRepositories) -> None:
    """Both are work trees of their own, and neither counts the files of the other."""
    app, tools = world.repository("app"), world.repository("tools", readable_by=("app",))
    directory = await world.check_out(
        app("rev-parse", "HEAD"), part(history=True), part(repository="tools", path="x/tools", history=True)
    )
    assert names(directory) == ["name", "x/tools/name"]
    assert (directory / "x/tools/name").read_text() == "tools\n"
    inner = Git(directory / "x/tools")
    assert (inner("rev-parse", "HEAD"), inner("status", "--porcelain")) == (tools("rev-parse", "HEAD"), "")
    assert Git(directory)("status", "--porcelain") == "?? x/"


@pytest.mark.parametrize("readable_by", [(), ("other", "ap", "*x")])
async def test_a_repository_that_does_not_allow_it_is_refused_like_an_unknown_one(
    world: LocalRepositories, readable_by: tuple[str, ...]
) -> None:
    """The messages differ only in the name, so they do not tell whether it exists."""
    head = world.repository("app")("rev-parse", "HEAD")
    world.repository("secret", readable_by=readable_by)
    texts = []
    for name in ("secret", "nothing"):
        with pytest.raises(Rejected) as error:
            await world.check_out(head, part(repository=name, path="x"))
        texts.append(error.value.text.replace(name, "NAME"))
    assert texts[0] == texts[1]
    assert 'readable by jobs of "app"; add readable-by = ["app"]' in texts[0]


async def test_a_repository_is_found_by_owner_and_name(tmp_path: Path) -> None:
    """As a ported file has it; the case does not matter."""
    remote = RemoteRepository(tmp_path)
    commit = remote.work.pushed({"a": "1\n"})
    (tmp_path / "local").mkdir()
    world = LocalRepositories(tmp_path / "local")
    head = world.repository("app")("rev-parse", "HEAD")
    with remote.served():
        url = remote.settings.url
        world.settings["mirror"] = RepositorySettings(name="mirror", url=url, readable_by=("*",))
        directory = await world.check_out(head, part(repository="OPS", path="x", history=True))
    assert Git(directory / "x")("rev-parse", "HEAD") == commit
    await world.close()
    await remote.close()


async def test_files_of_two_checkouts_cannot_be_the_same(world: LocalRepositories) -> None:
    """Nothing is overwritten."""
    head = world.repository("app")("rev-parse", "HEAD")
    world.repository("tools", readable_by=("*",))
    with pytest.raises(Stalled, match="two checkouts of the job have the same file: name"):
        await world.check_out(head, part(), part(repository="tools"))
    with pytest.raises(Stalled, match="two checkouts of the job have the same file: name"):
        await world.check_out(head, part(), part(repository="tools", path="name/x"))


# Refs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "content", "head"),
    [
        ("old", "1\n", "old"),
        ("refs/heads/old", "1\n", "old"),
        ("v1", "1\n", "HEAD"),
        ("refs/tags/v1", "1\n", "HEAD"),
        ("main", "2\n", "main"),
    ],
)
async def test_a_ref_is_a_branch_or_a_tag(world: LocalRepositories, ref: str, content: str, head: str) -> None:
    """A branch is checked out, a tag is a detached HEAD; an annotated tag is the commit that it names."""
    app = world.repository("app")
    app.write("version", "1\n")
    app.commit("one")
    app("branch", "old")
    app("tag", "--annotate", "v1", "--message", "one")
    app.write("version", "2\n")
    revision = app.commit("two")
    directory = await world.check_out(revision, part(ref=ref, history=True, head="refs/heads/main"))
    assert (directory / "version").read_text() == content
    job = Git(directory)
    assert (job("rev-parse", "--abbrev-ref", "HEAD"), job("status", "--porcelain")) == (head, "")


async def test_a_commit_is_a_ref(world: LocalRepositories) -> None:
    """It need not be the newest of a branch."""
    app = world.repository("app")
    first = app("rev-parse", "HEAD")
    app.write("name", "changed\n")
    directory = await world.check_out(app.commit("two"), part(ref=first))
    assert (directory / "name").read_text() == "app\n"


@pytest.mark.parametrize("ref", ["nothing", "1" * 40, "refs/heads/nothing", "HEAD~1", "$(x)"])
async def test_an_unknown_ref_is_an_error_with_its_name(world: LocalRepositories, ref: str) -> None:
    """The message names the repository."""
    head = world.repository("app")("rev-parse", "HEAD")
    with pytest.raises(Rejected) as error:
        await world.check_out(head, part(ref=ref))
    assert error.value.text == f'repository "app" has no branch, tag or commit "{ref}"'


# Submodules -----------------------------------------------------------------------------------------------------------------


async def test_submodules_have_the_files_of_their_commits(world: LocalRepositories) -> None:
    """Nested ones too; a relative address is relative to that of the repository. Git takes the directory for unchanged."""
    app, lib, base = world.repository("app"), world.repository("lib", ("app",)), world.repository("base", ("app",))
    base_commit = base("rev-parse", "HEAD")
    base.write("name", "newer\n")
    base.commit("not used")
    lib_commit = add_submodule(lib, "deps/base", str(base.path), base_commit)
    revision = add_submodule(app, "lib", "../lib", lib_commit)
    directory = await world.check_out(revision, part(submodules=True, history=True, path="src"))
    assert [name for name in names(directory) if not name.endswith(".gitmodules")] == [
        "src/lib/deps/base/name",
        "src/lib/name",
        "src/name",
    ]
    assert (directory / "src/lib/deps/base/name").read_text() == "base\n"
    assert Git(directory / "src")("status", "--porcelain") == ""

    without = await world.check_out(revision, part(path="src"))
    assert names(without) == ["src/.gitmodules", "src/name"]


@pytest.mark.parametrize(
    ("url", "readable_by"),
    [("https://example.org/x.git", ()), ("../lib", ()), ("/etc", ("*",)), ("ext::sh -c x", ("*",))],
)
async def test_a_submodule_of_a_repository_that_is_not_readable_is_an_error(
    world: LocalRepositories, url: str, readable_by: tuple[str, ...]
) -> None:
    """Its address is never opened."""
    app, lib = world.repository("app"), world.repository("lib", readable_by)
    revision = add_submodule(app, "lib", url, lib("rev-parse", "HEAD"))
    with pytest.raises(Rejected, match=r"submodule lib: no repository with the address .* readable by jobs of"):
        await world.check_out(revision, part(submodules=True))


async def test_a_commit_of_a_submodule_that_is_missing_is_an_error(world: LocalRepositories) -> None:
    """Somebody has not pushed it."""
    app = world.repository("app")
    world.repository("lib", ("app",))
    revision = add_submodule(app, "lib", "../lib", "2" * 40)
    with pytest.raises(Rejected, match='repository "lib" has no branch, tag or commit "2222'):
        await world.check_out(revision, part(submodules=True))


async def test_submodules_that_contain_each_other_are_bounded(
    world: LocalRepositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the limits."""
    monkeypatch.setattr(submodules, "DEPTH_MAX", 1)
    app, lib, base = world.repository("app"), world.repository("lib", ("app",)), world.repository("base", ("app",))
    lib_commit = add_submodule(lib, "base", "../base", base("rev-parse", "HEAD"))
    revision = add_submodule(app, "lib", "../lib", lib_commit)
    with pytest.raises(Stalled, match="submodule lib/base: a job can have 200 submodules, nested 1 levels deep"):
        await world.check_out(revision, part(submodules=True))


async def test_a_file_of_submodules_cannot_include_others(world: LocalRepositories, tmp_path: Path) -> None:
    """The configuration of Git can include files; this one is written by anyone who may push."""
    app, lib = world.repository("app"), world.repository("lib", ("app",))
    outside = tmp_path / "outside"
    outside.write_text('[submodule "lib"]\n\tpath = lib\n\turl = ../lib\n')
    app.write(".gitmodules", f"[include]\n\tpath = {outside}\n")
    app("add", "--all")
    app("update-index", "--add", "--cacheinfo", f"160000,{lib('rev-parse', 'HEAD')},lib")
    app("commit", "--quiet", "--message", "a submodule")
    with pytest.raises(Stalled, match="lib: the submodule has no address"):
        await world.check_out(app("rev-parse", "HEAD"), part(submodules=True))


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("https://example.org/acme/x.git", "git@example.org:acme/x"),
        ("ssh://git@example.org/acme/x", "https://Example.org/acme/x/"),
        ("../x", "https://example.org/acme/x.git"),
        ("./y", "https://example.org/acme/app/y"),
    ],
)
def test_addresses_are_compared_without_protocol_and_user(url: str, other: str) -> None:
    """Submodules often name ssh where the daemon uses https."""
    assert submodules.address(url, "https://example.org/acme/app.git") == submodules.address(other, "")


def test_the_parts_of_a_wire_message_and_of_a_checkout_have_the_same_fields() -> None:
    """One is converted to the other by name."""
    assert TreePart.__struct_fields__ == CheckoutPart.__struct_fields__
    assert Tree("r", "1", []).parts == ()
