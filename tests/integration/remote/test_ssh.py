"""Remotes over ssh, with a real sshd: host keys, the daemon's key, and the error messages."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import RemoteRepository, Sshd, contents
from tests.ports import Ports
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.reconcile import codes


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RemoteRepository]:
    remote = RemoteRepository(tmp_path)
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    yield remote
    await remote.close()


@pytest.fixture
def sshd(remote: RemoteRepository) -> Iterator[Sshd]:
    with git_servers.sshd(remote.root / "ssh") as sshd:
        remote.settings = msgspec.structs.replace(
            remote.settings,
            url=sshd.url(remote.work.bare),
            ssh_key_file=str(sshd.key),
            known_hosts_file=str(sshd.known_hosts),
        )
        yield sshd


async def test_a_changed_host_key_is_reported_with_the_known_one(remote: RemoteRepository, sshd: Sshd) -> None:
    """The message has both fingerprints, the line, and what to do; nothing is fetched."""
    other = git_servers.make_key(sshd.directory / "other")
    sshd.trust(other)
    with pytest.raises(Stalled) as caught:
        await remote.open().refs()
    assert caught.value.code == codes.HOST_KEY
    for part in (git_servers.fingerprint(sshd.host_key), git_servers.fingerprint(other), "line 1", "confirms"):
        assert part in caught.value.text
    assert f"offered ssh-ed25519 {git_servers.fingerprint(sshd.host_key)}" in caught.value.text
    assert len(caught.value.text) < 500 + len(str(sshd.known_hosts))


async def test_an_unknown_host_is_not_trusted(remote: RemoteRepository, sshd: Sshd) -> None:
    """There is no prompt and no changed file; the message contains the command."""
    sshd.known_hosts.write_text("")
    with pytest.raises(Stalled, match=r"is unknown: offered ssh-ed25519 SHA256:.*ssh-keyscan -p") as caught:
        await remote.open().refs()
    assert caught.value.code == codes.HOST_KEY
    assert sshd.known_hosts.read_text() == ""


async def test_hashed_host_names_are_found(remote: RemoteRepository, sshd: Sshd) -> None:
    """`ssh-keygen -H` was run on the file."""
    sshd.hash_names()
    source = remote.open()
    assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_a_key_that_the_server_refuses_is_named(remote: RemoteRepository, sshd: Sshd) -> None:
    """None of the user's other keys or agents is tried instead."""
    stranger = git_servers.make_key(sshd.directory / "stranger")
    with pytest.raises(Stalled, match=r"does not accept the key in ssh-key-file .*stranger") as caught:
        await remote.open(ssh_key_file=str(stranger)).refs()
    assert caught.value.code == codes.ACCESS


async def test_a_key_that_others_can_read_is_refused(remote: RemoteRepository, sshd: Sshd) -> None:
    """It is refused before ssh is started."""
    sshd.key.chmod(0o644)
    with pytest.raises(Stalled, match="chmod 600") as caught:
        await remote.open().refs()
    assert caught.value.code == codes.ACCESS


async def test_a_path_without_a_repository_is_reported(remote: RemoteRepository, sshd: Sshd) -> None:
    """The report follows a successful authentication."""
    with pytest.raises(Stalled, match=r"has no accessible repository at .*none.git") as caught:
        await remote.open(url=sshd.url(remote.root / "none.git")).refs()
    assert caught.value.code == codes.NOT_A_REPOSITORY


async def test_a_closed_port_is_retried(remote: RemoteRepository, sshd: Sshd) -> None:
    """The failure may be temporary."""
    with Ports(1) as held, pytest.raises(Retryable, match=r"cannot reach .* by ssh: .*refused") as caught:
        await remote.open(url=f"ssh://{sshd.user}@127.0.0.1:{held.numbers[0]}/ops.git").refs()
    assert caught.value.code == codes.NOT_THERE


@pytest.mark.parametrize("name", ["it's $(touch pwned) here.git", "a b;c.git", "%h.git"])
async def test_a_path_is_data_for_the_remote_shell(remote: RemoteRepository, sshd: Sshd, name: str) -> None:
    """Quotes, blanks and commands in it are part of the name."""
    renamed = remote.root / name
    os.rename(remote.work.bare, renamed)
    source = remote.open(url=sshd.url(renamed).replace("%", "%25"))
    assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}
    assert not list(remote.root.rglob("pwned"))


async def test_files_with_blanks_in_their_names_are_found(remote: RemoteRepository, sshd: Sshd) -> None:
    """ssh splits its options at blanks, and expands percent signs."""
    folder = remote.root / "my %h files"
    folder.mkdir()
    for name in (sshd.key, sshd.known_hosts):
        os.rename(name, folder / name.name)
    source = remote.open(ssh_key_file=str(folder / sshd.key.name), known_hosts_file=str(folder / sshd.known_hosts.name))
    await source.refs()
