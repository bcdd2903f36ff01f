"""The submodules of a commit: where they are, and the repository of each. Pure, except for reading the tree.

Theory: `.gitmodules` is a file that anyone who may push controls. So an address in it is only compared with those of the
watched repositories, and never opened.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from dulwich.config import ConfigFile, parse_submodules

from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Stalled
from waterflowd.gitsource import urls
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

MODULES_FILE = b".gitmodules"
MODULES_BYTES_MAX = 1 << 20
#: Submodules in submodules.
DEPTH_MAX = 5
#: Submodules of one job.
COUNT_MAX = 200


class Submodule(msgspec.Struct, frozen=True, kw_only=True):
    """One submodule: its path, its commit, and its address as it is written."""

    path: bytes
    commit: str
    url: str


def submodules(entries: Iterable[FileEntry], content: bytes) -> list[Submodule]:
    """The submodules among the files, with the content of `.gitmodules`. Raises `Stalled` WF521 for one without an address."""
    try:
        known = {
            path: url
            for path, url, _ in parse_submodules(ConfigFile.from_file(io.BytesIO(content), expand_includes=False))
        }
    except ValueError as error:
        raise Stalled(codes.SUBMODULE, f".gitmodules: cannot be read: {escape_for_display(str(error))}") from error
    found = []
    for entry in entries:
        if entry.kind is FileKind.SUBMODULE:
            if entry.path not in known:
                text = f"{_text(entry.path)}: the submodule has no address in .gitmodules"
                raise Stalled(codes.SUBMODULE, text)
            url = known[entry.path].decode("utf-8", "replace")
            found.append(Submodule(path=entry.path, commit=entry.blob.hex(), url=url))
    return found


def address(url: str, parent: str) -> tuple[str, str] | None:
    """Host and path of a repository, by which addresses are compared: neither the protocol nor the user matters.

    A relative address is relative to that of the repository with the submodule. None if it is malformed.
    """
    if url.startswith(("./", "../")):
        base = address(parent, "")
        return (
            None if base is None else (base[0], posixpath.normpath(posixpath.join(base[1], url)).removesuffix(".git"))
        )
    try:
        found = urls.parse(url, allow_http=True)
    except Rejected:
        return None
    if isinstance(found, Path):
        return "", str(found).removesuffix("/").removesuffix(".git")
    return found.host.lower(), posixpath.normpath("/" + found.path.strip("/")).removesuffix(".git")


def repository_of(
    submodule: Submodule, parent: RepositorySettings, repositories: Mapping[str, RepositorySettings]
) -> RepositorySettings | None:
    """The watched repository with the address of a submodule of `parent`."""
    wanted = address(submodule.url, parent.url)
    if wanted is None:
        return None
    return next((one for one in repositories.values() if address(one.url, "") == wanted), None)


def _text(path: bytes) -> str:
    return escape_for_display(path.decode("utf-8", "backslashreplace"))
