"""Loads the credentials for a remote: from files that only the daemon's user can read, or the daemon's environment.

Rules of this file: credentials are read for each fetch, so a new token takes effect at once. An error names the file or the
variable, and never its content.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Stalled
from waterflowd.gitsource.remote.fetch_protocol import HttpCredentials, RemoteCredentials
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

#: Followed by the repository's name in capitals, with `_` for everything but letters and digits.
VARIABLE_PREFIX = "WATERFLOWD_GIT_TOKEN_"
#: The user name for a token without one; GitHub, GitLab and Gitea accept any.
_TOKEN_USER = "x-access-token"
_SECRET_BYTES_MAX = 16 << 10


def variable(name: str) -> str:
    """The environment variable that may hold the token of the repository."""
    return VARIABLE_PREFIX + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def load(settings: RepositorySettings, url: RemoteUrl, environment: Mapping[str, str]) -> RemoteCredentials:
    """The credentials of the repository. Blocks on files; raises `Stalled` WF507 for one that cannot be used."""
    if settings.ca_file:
        _check_readable(settings.ca_file, "ca-file")
    if url.scheme == "ssh":
        _check_private(settings.ssh_key_file, "ssh-key-file")
        _check_readable(settings.known_hosts_file, "known-hosts-file")
    return RemoteCredentials(
        login=_login(settings, environment) if url.scheme in ("https", "http") else None,
        ca_file=settings.ca_file,
        ssh_key_file=settings.ssh_key_file,
        known_hosts_file=settings.known_hosts_file,
    )


def _login(settings: RepositorySettings, environment: Mapping[str, str]) -> HttpCredentials | None:
    name = variable(settings.name)
    if environment.get(name):
        return _parse(environment[name], f"the environment variable {name}")
    if settings.credentials_file:
        path = settings.credentials_file
        _check_private(path, "credentials-file")
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(_SECRET_BYTES_MAX)
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable("credentials-file", path, "cannot be read as UTF-8 text") from error
        return _parse(text, f"credentials-file {escape_for_display(path)}")
    return None


def _parse(text: str, source: str) -> HttpCredentials:
    line = text.strip()
    if not line or not line.isprintable():
        raise Stalled(codes.ACCESS, f"{source} does not hold a token; expected one line with a token or user:token")
    user, colon, secret = line.partition(":")
    return (
        HttpCredentials(user=user, secret=secret)
        if colon and user
        else HttpCredentials(user=_TOKEN_USER, secret=line.lstrip(":"))
    )


def _check_private(path: str, key: str) -> None:
    """Refuses a file that other users can read; for the daemon's own file that includes its group, as in ssh."""
    status = _status(path, key)
    is_own = status.st_uid == os.geteuid()
    if status.st_mode & (0o077 if is_own else 0o007):
        raise _unusable(key, path, f"can be read by other users; next: chmod 600 {escape_for_display(path)}")
    _check_readable(path, key)


def _check_readable(path: str, key: str) -> None:
    _status(path, key)
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _unusable(key, path, "is not readable by the daemon's user")


def _status(path: str, key: str) -> os.stat_result:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(key, path, "is not a regular file")
    return status


def _unusable(key: str, path: str, problem: str) -> Stalled:
    return Stalled(codes.ACCESS, f"{key} {escape_for_display(path)} {problem}")
