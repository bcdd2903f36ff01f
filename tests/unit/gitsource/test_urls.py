"""Parsing and refusing the URLs of repositories."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.gitsource import repository_opener, urls
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://git.example.org/a/ops.git", ("https", "git.example.org", 443, "", "/a/ops.git")),
        ("HTTPS://git.example.org:8443/ops%20x", ("https", "git.example.org", 8443, "", "/ops%20x")),
        ("ssh://git@git.example.org:2222/srv/a%20b.git", ("ssh", "git.example.org", 2222, "git", "/srv/a b.git")),
        ("git+ssh://git.example.org/~ada/ops", ("ssh", "git.example.org", 22, "", "/~ada/ops")),
        ("git@git.example.org:ada/ops.git", ("ssh", "git.example.org", 22, "git", "ada/ops.git")),
        ("git.example.org:/srv/ops.git", ("ssh", "git.example.org", 22, "", "/srv/ops.git")),
        ("git@[2001:db8::1]:ops.git", ("ssh", "2001:db8::1", 22, "git", "ops.git")),
        ("git://[2001:db8::1]:9419/ops.git", ("git", "2001:db8::1", 9419, "", "/ops.git")),
    ],
)
def test_the_url_of_a_remote_is_parsed(url: str, parts: tuple[str, str, int, str, str]) -> None:
    """The result is the same as in Git."""
    found = urls.parse(url)
    assert isinstance(found, RemoteUrl)
    assert (found.scheme, found.host, found.port, found.user, found.path) == parts


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///ops.git",
        "https://host",
        "https://host/",
        "https://host/ops.git?x=y",
        "https://host/ops.git#x",
        "https://host:0/ops.git",
        "https://host:99999/ops.git",
        "https://host:x/ops.git",
        "https://ho st/ops.git",
        "https://[::1/ops.git",
        "http://host/ops.git",
        "ssh://-oProxyCommand=x/ops.git",
        "ssh://-l@host/ops.git",
        "ssh://a b@host/ops.git",
        "ssh://host/%0aops.git",
        "-oProxyCommand=x:ops.git",
        "git@-oProxyCommand=x:ops.git",
        "git@host:-x",
        "git@host:",
        "host:/",
        "rsync://host/ops.git",
        "ext::sh -c touch% /tmp/x",
        "file:///etc",
        "git@@host:x",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    """The cases are options, control characters, missing parts, and unknown schemes."""
    with pytest.raises(Rejected) as caught:
        urls.parse(url)
    assert (caught.value.code, caught.value.where) == (codes.URL_REFUSED, "url")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("https://ada:geheim@host/ops.git", "credentials-file"),
        ("https://geheim@host/ops.git", "credentials-file"),
        ("http://ada:geheim@host/ops.git", "credentials-file"),
        ("git://ada:geheim@host/ops.git", "credentials-file"),
        ("ssh://ada:geheim@host/ops.git", "ssh-key-file"),
        ("ada:geheim@host:ops.git", "ssh-key-file"),
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str, hint: str) -> None:
    """The message says where it belongs."""
    with pytest.raises(Rejected, match=hint) as caught:
        urls.parse(url)
    assert "geheim" not in str(caught.value)


def settings(url: str, **more: str) -> RepositorySettings:
    return RepositorySettings(name="ops", url=url, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (settings("git@host:ops.git"), "ssh-keygen"),
        (settings("git@host:ops.git", ssh_key_file="/k"), "ssh-keyscan"),
        (settings("https://host/ops.git", ssh_key_file="/k"), "is only for ssh"),
        (settings("git://host/ops.git", credentials_file="/k"), "is only for https"),
        (settings("https://169.254.169.254/latest"), "link-local"),
        (settings("https://[fd00:ec2::254]/latest"), "metadata"),
    ],
)
def test_a_missing_key_of_a_remote_is_reported(values: RepositorySettings, hint: str) -> None:
    """The message contains the command that creates the file."""
    with pytest.raises(Rejected, match=hint) as caught:
        repository_opener.check(values)
    assert caught.value.code == codes.URL_REFUSED
