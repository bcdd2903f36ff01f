"""What the configuration says about one repository."""

from __future__ import annotations

import re

import msgspec

#: The built-in group of every server.
ALL_SERVERS = "all-servers"
#: Where workflows are looked for when the configuration names no folders.
DEFAULT_FOLDERS = ("workflows/", ".waterflow/workflows/")


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[repositories]]` entry, checked."""

    name: str
    #: As configured: https, ssh, git, or a local path. Without secrets.
    url: str
    #: Patterns of branches (`main`, `release/*`) and of tags (`tags/v*`); none means the branch that HEAD names.
    refs: tuple[str, ...] = ()
    #: Folders in which workflows lie, relative to the root of the tree.
    paths: tuple[str, ...] = DEFAULT_FOLDERS
    #: The refs are read at least this often, whatever the watcher says. The watcher notices a push to a local one at once;
    #: a remote is asked this often.
    interval_ms: int = 30_000
    #: Which groups its workflows may use, as patterns of which `*` is the only special character.
    groups: tuple[str, ...] = ("*",)
    #: Paths of files, for remotes; empty for none. With `user:token` or a token, for https.
    credentials_file: str = ""
    #: The private key, for ssh.
    ssh_key_file: str = ""
    #: The keys of the hosts that are trusted, for ssh.
    known_hosts_file: str = ""
    #: The certificates of the authorities that are trusted, for https; empty for the system's.
    ca_file: str = ""
    #: Takes http too, for a server on this machine.
    allow_http: bool = False
    #: What one fetch may take.
    fetch_timeout_ms: int = 120_000
    fetch_bytes_max: int = 1 << 30

    def may_use(self, group: str) -> bool:
        """Tells whether the repository's workflows may use the group with this name."""
        return any(_is_match(pattern, group) for pattern in self.groups)

    def may_name(self, group: str) -> bool:
        """Tells whether a file may hold the group as it is written there.

        One that only a run decides is asked about when it is known; every server means those of the groups it may use.
        """
        return "${{" in group or group == ALL_SERVERS or self.may_use(group)


def _is_match(pattern: str, group: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), group, re.DOTALL) is not None
