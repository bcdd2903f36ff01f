"""What the configuration says about one repository."""

from __future__ import annotations

import msgspec

#: Where workflows are looked for when the configuration names no folders.
DEFAULT_FOLDERS = ("workflows/", ".waterflow/workflows/")


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[repositories]]` entry, checked."""

    name: str
    #: As configured; a local path in this version.
    url: str
    #: Patterns of branches (`main`, `release/*`) and of tags (`tags/v*`); none means the branch that HEAD names.
    refs: tuple[str, ...] = ()
    #: Folders in which workflows lie, relative to the root of the tree.
    paths: tuple[str, ...] = DEFAULT_FOLDERS
    #: The refs are read at least this often, whatever the watcher says. The watcher notices a push at once.
    interval_ms: int = 30_000
    #: Which groups its workflows may use, as patterns of which `*` is the only special character.
    groups: tuple[str, ...] = ("*",)
