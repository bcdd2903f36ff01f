"""URLs that are never opened, and local paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.gitsource import urls
from waterflowd.reconcile import codes


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
    """They name programs, contain options or control characters, or have no valid form."""
    with pytest.raises(Rejected) as caught:
        urls.local_path(url)
    assert caught.value.code == codes.URL_REFUSED


def test_a_remote_is_not_a_local_path() -> None:
    """`local_path` raises an error."""
    with pytest.raises(Rejected, match="not a local path"):
        urls.local_path("https://git.example.org/ops.git")


def test_local_paths_are_accepted(tmp_path: Path) -> None:
    """Relative ones are relative to the configuration file."""
    assert urls.local_path("/srv/git/a b.git") == Path("/srv/git/a b.git")
    assert urls.local_path("../ops.git", tmp_path) == tmp_path / ".." / "ops.git"
