"""Which repository urls are opened: local paths, and nothing that reaches a transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflowd.errors import Rejected
from waterflowd.gitsource import urls
from waterflowd.reconcile import codes


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/ops.git",
        "http://169.254.169.254/",
        "http://[::1]:8080/",
        "ssh://git@example.org/ops.git",
        "git://example.org/ops.git",
        "git@example.org:ops.git",
        "example.org:ops.git",
    ],
)
def test_remote_urls_are_known_and_not_built_yet(url: str) -> None:
    """The sentence says so, and names what works."""
    with pytest.raises(Rejected, match="known, not built yet") as caught:
        urls.local_path(url)
    assert (caught.value.code, caught.value.where) == (codes.URL_NOT_BUILT, "url")


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch /tmp/pwn",
        "fd::17",
        "file:///etc",
        "FILE:///etc",
        "gopher://example.org/",
        "--upload-pack=touch /tmp/pwn",
        "-oProxyCommand=x",
        "",
        "/srv/ops\n.git",
        "/srv/ops\x00.git",
        "relative/ops.git",
    ],
)
def test_dangerous_and_meaningless_urls_are_refused(url: str) -> None:
    """Programs, options and control characters go nowhere."""
    with pytest.raises(Rejected) as caught:
        urls.local_path(url)
    assert caught.value.code == codes.URL_REFUSED


def test_a_password_is_not_repeated() -> None:
    """An error message ends up in logs."""
    with pytest.raises(Rejected) as caught:
        urls.local_path("https://ada:geheim@example.org/ops.git")
    assert "geheim" not in str(caught.value)


def test_local_paths_are_taken(tmp_path: Path) -> None:
    """Absolute ones as they are, relative ones from where the configuration lies."""
    assert urls.local_path("/srv/git/a b.git") == Path("/srv/git/a b.git")
    assert urls.local_path("../ops.git", tmp_path) == tmp_path / ".." / "ops.git"
