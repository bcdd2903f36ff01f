"""What a repository that is added through the API may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.gitsource.added_limits import AddedRepositoryLimits
from waterflowd.reconcile.settings import RepositorySettings

KEYS = "/etc/waterflow/credentials"


def admitted(url: str, limits: AddedRepositoryLimits | None = None, **files: str) -> RepositorySettings:
    settings = RepositorySettings(name="web", url=url, allow_http=True, **files)  # type: ignore[arg-type]
    return (limits or AddedRepositoryLimits()).admitted(settings)


def test_files_are_named_relative_to_their_directory() -> None:
    """A name is enough; the path is recorded."""
    found = admitted("ssh://git@example.org/x.git", ssh_key_file="web.key", known_hosts_file=f"{KEYS}/sub/hosts")
    assert (found.ssh_key_file, found.known_hosts_file) == (f"{KEYS}/web.key", f"{KEYS}/sub/hosts")


@pytest.mark.parametrize("path", ["/etc/shadow", "../secrets.toml", f"{KEYS}/../audit.key", f"{KEYS}x/y", "a\nb", "."])
def test_a_file_elsewhere_is_refused(path: str) -> None:
    """Otherwise the API could send it to the caller's server."""
    with pytest.raises(Rejected, match="is not below"):
        admitted("https://example.org/x.git", credentials_file=path)


def test_a_local_repository_must_be_below_a_listed_path(tmp_path: Path) -> None:
    """Links are followed before that is decided."""
    allowed, elsewhere = tmp_path / "git", tmp_path / "other"
    (allowed / "real.git").mkdir(parents=True)
    elsewhere.mkdir()
    (allowed / "link.git").symlink_to(elsewhere)
    limits = AddedRepositoryLimits(local_paths=(str(allowed),))
    assert admitted(str(allowed / "real.git"), limits).url == str(allowed / "real.git")
    for path in (allowed / "link.git", elsewhere, allowed, allowed / ".." / "other", tmp_path / "gitx"):
        with pytest.raises(Rejected, match="local-paths"):
            admitted(str(path), limits)
    with pytest.raises(Rejected, match="local-paths"):
        admitted(str(allowed / "real.git"))


def test_a_remote_on_this_machine_needs_a_setting() -> None:
    """http, which only tests need, is never possible."""
    with pytest.raises(Rejected, match="loopback = true"):
        admitted("https://[::1]/x.git")
    assert admitted("https://127.0.0.1/x.git", AddedRepositoryLimits(loopback=True)).allow_loopback
    with pytest.raises(Rejected, match="use https"):
        admitted("http://127.0.0.1/x.git", AddedRepositoryLimits(loopback=True))
