"""Remotes over https: certificates, tokens, redirects, and responses without a repository."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import Https, RemoteRepository, contents
from tests.integration.remote.test_hostile_remotes import fetch_children
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflowd.reconcile import codes

SECRET = "ghp_0123456789abcdefSECRET"


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RemoteRepository]:
    remote = RemoteRepository(tmp_path)
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    yield remote
    await remote.close()


@pytest.fixture
def server(remote: RemoteRepository) -> Iterator[Https]:
    with git_servers.https(remote.root) as server:
        remote.settings = msgspec.structs.replace(remote.settings, url=server.url(), ca_file=str(server.authority))
        yield server


async def test_an_untrusted_certificate_is_refused(remote: RemoteRepository, server: Https) -> None:
    """The message says how to add a certificate authority."""
    with pytest.raises(Stalled, match=r"certificate of localhost:.* not trusted.*ca-file") as caught:
        await remote.open(ca_file="").refs()
    assert caught.value.code == codes.ACCESS
    assert server.seen == []


async def test_a_certificate_for_another_name_is_refused(remote: RemoteRepository, server: Https) -> None:
    """The certificate is valid for localhost, but not for the address."""
    with pytest.raises(Stalled, match="not trusted") as caught:
        await remote.open(url=server.url().replace("localhost", "127.0.0.1")).refs()
    assert caught.value.code == codes.ACCESS


async def test_a_connection_closed_during_the_handshake_is_retried(remote: RemoteRepository) -> None:
    """It is not reported as a problem of the certificate."""

    def go_away(connection: socket.socket) -> None:
        connection.recv(1)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4_096):
            pass

    with git_servers.serving(go_away) as port, pytest.raises(Retryable, match="closed the connection") as caught:
        await remote.open(url=f"https://localhost:{port}/ops.git").refs()
    assert caught.value.code == codes.NOT_THERE


@pytest.mark.parametrize(
    ("login", "text"),
    [("ada:" + SECRET, f"ada:{SECRET}\n"), (f"x-access-token:{SECRET}", SECRET)],
)
async def test_the_token_file_is_read_for_each_fetch(
    remote: RemoteRepository, server: Https, login: str, text: str
) -> None:
    """The token works with or without a user name, and a new one takes effect at once."""
    server.login = login
    file = remote.root / "token"
    file.write_text("wrong")
    file.chmod(0o600)
    source = remote.open(credentials_file=str(file))
    with pytest.raises(Stalled, match="rejects the token") as caught:
        await source.refs()
    assert caught.value.code == codes.ACCESS
    file.write_text(text)
    assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_a_token_in_the_environment_overrides_the_file(remote: RemoteRepository, server: Https) -> None:
    """The name of the variable is derived from the repository's."""
    server.login = f"x-access-token:{SECRET}"
    remote.environment["WATERFLOWD_GIT_TOKEN_OPS_A_B"] = SECRET
    file = remote.root / "token"
    file.write_text("wrong")
    file.chmod(0o600)
    await remote.open(name="ops-a.b", credentials_file=str(file)).refs()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_a_token_file_that_others_can_read_is_refused(remote: RemoteRepository, server: Https, mode: int) -> None:
    """The message contains the command that fixes it, but not the content of the file."""
    file = remote.root / "token"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(Stalled, match="can be read by other users; next: chmod 600") as caught:
        await remote.open(credentials_file=str(file)).refs()
    assert caught.value.code == codes.ACCESS
    assert SECRET not in str(caught.value)
    assert server.seen == []


async def test_a_missing_token_is_reported(remote: RemoteRepository, server: Https) -> None:
    """The message differs from that for a wrong token."""
    server.login = "ada:x"
    with pytest.raises(Stalled, match="requires a token, and none is configured"):
        await remote.open().refs()


async def test_a_secret_is_in_no_argument_environment_or_message(
    remote: RemoteRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """The process of a hanging fetch is inspected, then its error and the log."""
    caplog.set_level(logging.DEBUG)
    is_asked, is_looked_at = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hang(connection: socket.socket) -> None:
        loop.call_soon_threadsafe(is_asked.set)
        is_looked_at.wait(PATIENCE_S)

    remote.environment["WATERFLOWD_GIT_TOKEN_OPS"] = SECRET
    with git_servers.serving(hang) as port:
        source = remote.open(url=f"https://localhost:{port}/ops.git")
        asking = asyncio.ensure_future(source.refs())
        async with asyncio.timeout(PATIENCE_S):
            await is_asked.wait()
        [child] = fetch_children()
        assert b"fetch_child" in git_servers.shown_of(child)
        assert SECRET.encode() not in git_servers.shown_of(child)
        is_looked_at.set()
        with pytest.raises(Retryable) as caught:
            await asking
    texts = [str(caught.value), repr(caught.value.__cause__), caplog.text, *_files(remote.root / "mirrors")]
    assert not [text for text in texts if SECRET in text]


async def test_a_token_that_the_server_repeats_is_masked(remote: RemoteRepository, server: Https) -> None:
    """The rest of the server's message is shown."""
    message = f"ERR your token is {SECRET}\n".encode()
    packet = f"{len(message) + 4:04x}".encode() + message
    server.edit = lambda path, body: packet if path.endswith("/git-upload-pack") else body
    remote.environment["WATERFLOWD_GIT_TOKEN_OPS"] = SECRET
    with pytest.raises(Retryable, match=r"your token is \*\*\*"):
        await remote.open().refs()


def _files(root: Path) -> list[str]:
    return [path.read_bytes().decode("latin-1") for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("status", "error", "code", "words"),
    [
        (403, Stalled, codes.ACCESS, "denies access"),
        (404, Stalled, codes.NOT_A_REPOSITORY, "no such repository"),
        (429, Retryable, codes.NOT_THERE, "temporarily unavailable"),
        (500, Retryable, codes.NOT_THERE, "temporarily unavailable"),
        (204, Stalled, codes.NOT_A_REPOSITORY, "status 204"),
        (200, Stalled, codes.NOT_A_REPOSITORY, "content type"),
    ],
)
async def test_each_status_has_a_clear_message(
    remote: RemoteRepository, server: Https, status: int, error: type[Exception], code: str, words: str
) -> None:
    """Temporary failures are retried, the others need a person."""
    server.instead = (status, {"Content-Type": "text/html"})
    with pytest.raises(error, match=words) as caught:
        await remote.open().refs()
    assert getattr(caught.value, "code", None) == code


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1:1/ops.git", "http://169.254.169.254/latest", "https://localhost/ops.git", "ext::sh"]
)
async def test_a_redirect_to_another_origin_is_not_followed(
    remote: RemoteRepository, server: Https, target: str
) -> None:
    """If host, port or scheme differ, the message names the other origin, and no token is sent there."""
    server.instead = (302, {"Location": f"{target}/info/refs?service=git-upload-pack"})
    remote.environment["WATERFLOWD_GIT_TOKEN_OPS"] = SECRET
    with pytest.raises(Stalled) as caught:
        await remote.open().refs()
    assert caught.value.code in (codes.URL_REFUSED, codes.NOT_A_REPOSITORY)
    assert len(server.seen) == 1 or target.startswith("ext")


async def test_a_redirect_within_the_origin_is_followed(remote: RemoteRepository, server: Https) -> None:
    """One example is a renamed repository."""
    remote.work.bare.rename(remote.root / "new.git")
    server.moved = ("/ops.git/", "/new.git/")
    source = remote.open()
    assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_a_redirect_loop_ends(remote: RemoteRepository, server: Https) -> None:
    """The fetch fails with an error."""
    server.instead = (302, {"Location": "/ops.git/info/refs?service=git-upload-pack"})
    with pytest.raises(Stalled, match="redirects too often"):
        await remote.open().refs()


async def test_plain_http_needs_allow_http_and_a_local_server(remote: RemoteRepository) -> None:
    """Without the key, the configuration is refused; for another machine, the error comes once its address is known."""
    with git_servers.https(remote.root, is_plain=True) as server:
        url = server.url().replace("https:", "http:")
        with pytest.raises(Rejected, match="use https"):
            remote.open(url=url)
        source = remote.open(url=url, allow_http=True)
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}
    with pytest.raises(Stalled, match="not on this machine") as caught:
        await remote.open(url="http://192.0.2.1/ops.git", allow_http=True).refs()
    assert caught.value.code == codes.URL_REFUSED
