"""What a repository that is added through the API may be, and which files with credentials it may use.

Theory: an admin who adds a repository chooses both the server and the credentials that are sent to it. So the files are only
those that somebody with access to the host has put into one directory for this purpose: with any path, the API could send a
secrets file of the daemon to a server of its caller. For the same reason only https and ssh are remotes, and local paths must
be listed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd.gitsource import repository_opener
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

#: Fields of `RepositorySettings` that name files.
_FILES = ("credentials_file", "ssh_key_file", "known_hosts_file", "ca_file")
_TABLE = "[added-repositories] of waterflowd.toml"


class AddedRepositoryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[added-repositories]` of the configuration."""

    credentials_dir: str = "/etc/waterflow/credentials"
    local_paths: tuple[str, ...] = ()
    loopback: bool = False

    def admitted(self, settings: RepositorySettings) -> RepositorySettings:
        """The settings with absolute paths. Raises `Rejected` WF502 for what may only be in the configuration."""
        files = {key: self._file(key, getattr(settings, key)) for key in _FILES}
        found = msgspec.structs.replace(settings, **files, allow_loopback=self.loopback, allow_http=False)
        url = repository_opener.check(found)
        if isinstance(url, Path):
            self._check_local(found, url)
        elif url.scheme == "git":
            raise _refused("url", f"url {quote(found.url)}: through the API only https and ssh are possible")
        # What the configuration permits is looked up again when it is used.
        return msgspec.structs.replace(found, allow_loopback=True)

    def _file(self, key: str, value: str) -> str:
        if not value:
            return ""
        directory = os.path.normpath(self.credentials_dir)
        path = os.path.normpath(os.path.join(directory, value))
        if not value.isprintable() or not _is_below(path, [directory]):
            text = f"{key}: {quote(value)} is not below {directory}, where credentials for the API are"
            raise _refused(key, f"{text} (credentials-dir in {_TABLE})")
        return path

    def _check_local(self, settings: RepositorySettings, path: Path) -> None:
        # Links are followed, because who may write below a listed path could lead to any other repository.
        allowed = [os.path.realpath(allowed) for allowed in self.local_paths]
        if not _is_below(os.path.realpath(path), allowed):
            text = f"url {quote(settings.url)} is a path on the daemon's host that is not below local-paths in {_TABLE}"
            raise _refused("url", f"{text}; use https or ssh, or list it there")


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(os.path.commonpath((path, directory)) == directory and path != directory for directory in directories)


def _refused(where: str, text: str) -> Rejected:
    return Rejected(codes.URL_REFUSED, text, where=where.replace("_", "-"), status=422)
