"""The configuration of one repository."""

from __future__ import annotations

import re

import msgspec

#: The built-in group of every server.
ALL_SERVERS = "all-servers"
#: The patterns of groups if there are none.
ANY_GROUP = ("*",)
#: What a repository may be called.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: The shortest and the longest interval and timeout; the longest one is a year.
INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 31_536_000_000
#: The size that one fetch may be limited to: 1 MiB to 1 TiB.
FETCH_BYTES = range(1 << 20, (1 << 40) + 1)
#: The folders with workflows if the configuration names none.
DEFAULT_FOLDERS = ("workflows/", ".waterflow/workflows/")


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[repositories]]` entry, checked, or a repository that was added through the API.

    The latter are in the event log, so fields are never removed, and new ones have defaults.
    """

    name: str
    #: As configured: https, ssh, git, or a local path. Without secrets.
    url: str
    #: Patterns of branches (`main`, `release/*`) and tags (`tags/v*`); empty means the branch of HEAD.
    refs: tuple[str, ...] = ()
    #: Folders with workflows, relative to the root of the tree.
    paths: tuple[str, ...] = DEFAULT_FOLDERS
    #: How often the refs are read at least. A push to a local repository is noticed at once; a remote is fetched this often.
    interval_ms: int = 30_000
    #: The groups that its workflows may use, as patterns with `*` as the only special character.
    groups: tuple[str, ...] = ANY_GROUP
    #: The names of the secrets that its webhooks may be signed with, and that no workflow can read.
    webhook_keys: tuple[str, ...] = ()
    #: The repositories whose jobs may read this one's files, as patterns with `*` as the only special character.
    readable_by: tuple[str, ...] = ()
    #: File with a token or `user:token`, for https; empty for none.
    credentials_file: str = ""
    #: File with the private key, for ssh.
    ssh_key_file: str = ""
    #: File with the trusted host keys, for ssh.
    known_hosts_file: str = ""
    #: File with the trusted certificate authorities, for https; empty for the system's.
    ca_file: str = ""
    #: Allows http, for a server on this machine.
    allow_http: bool = False
    #: Limits of one fetch.
    fetch_timeout_ms: int = 120_000
    fetch_bytes_max: int = 1 << 30
    #: Whether the remote may be on this machine: what is added through the API must not reach its other services.
    allow_loopback: bool = True

    def may_use(self, group: str) -> bool:
        """Whether the repository's workflows may use the group with this name."""
        return any(is_match(pattern, group) for pattern in self.groups)

    def is_readable_by(self, repository: str) -> bool:
        """Whether jobs of a repository may read the files of this one."""
        return repository == self.name or any(is_match(pattern, repository) for pattern in self.readable_by)

    def may_name(self, group: str) -> bool:
        """Whether a file may contain the group as it is written there.

        A group from an expression is checked when its value is known; `all-servers` means the servers of the allowed groups.
        """
        return "${{" in group or group == ALL_SERVERS or self.may_use(group)


def is_match(pattern: str, name: str) -> bool:
    """Whether a pattern of the configuration matches the whole name; `*` is its only special character."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
