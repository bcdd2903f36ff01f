"""What a cache entry consists of: the content of artifacts (`waterflow_agent.artifacts.content`) with a list of its own. Pure.

Rules of this file: unlike an artifact, an entry has folders, links, permissions and times, because the programs that filled the
folder will look at them. Each path is relative to the line of `path` that selected it, so that it can be restored in another
directory. Anyone who can run steps may have made a list, so it is checked: no path leads out of its line's folder, neither by
its name nor through a link of the list.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import msgspec

from waterflow_agent.artifacts import content, patterns
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected

LINES_MAX = 1_000


class EntryKind(Enum):
    """What a path is."""

    FILE = 0
    FOLDER = 1
    LINK = 2


class EntryPath(msgspec.Struct, frozen=True, array_like=True):
    """A file, folder or link of an entry."""

    #: Position of the line that selected it.
    line: Annotated[int, msgspec.Meta(ge=0, lt=LINES_MAX)]
    #: Relative to where the search of the line begins, with slashes; empty for that place itself.
    path: str
    kind: EntryKind
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] = 0
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)] = 0
    modified_ns: Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)] = 0
    #: Of a link.
    target: str = ""


def version_of(path: str) -> bytes:
    """Identifies the lines of `path`: an entry that was saved with other lines does not fit."""
    return hashlib.sha256("\n".join(patterns.lines(path)).encode("utf-8", "surrogateescape")).digest()


def check_path(path: EntryPath) -> None:
    """Raises `Rejected` WF763 for a path that an entry cannot contain."""
    if path.path:
        content.check_path(path.path)
    if path.kind is EntryKind.LINK:
        try:
            is_valid = 0 < len(path.target.encode()) <= content.PATH_BYTES_MAX and "\0" not in path.target
        except UnicodeEncodeError:
            is_valid = False
        if not is_valid:
            shown = escape_for_display(path.path, 200)
            raise Rejected("WF763", f'a cache cannot contain the link "{shown}": its target is not UTF-8 text')


def encode(paths: Sequence[EntryPath]) -> bytes:
    """The list as a blob. Raises `Rejected` WF763 if it is too large."""
    encoded = msgspec.msgpack.encode(paths)
    if len(encoded) > content.LISTING_BYTES_MAX:
        raise Rejected("WF763", f"the paths of the cache have more than {content.LISTING_BYTES_MAX} bytes")
    return zlib.compress(encoded, 6)


def decode(blob: bytes, count: int, size: int, lines: int) -> list[EntryPath]:
    """The list of an entry. Raises `Rejected` WF762 for one that is damaged or does not fit, and WF763."""
    decompressor = zlib.decompressobj()
    try:
        encoded = decompressor.decompress(blob, content.LISTING_BYTES_MAX)
        # The number is checked before anything is decoded, so a small blob cannot become many objects.
        paths: list[EntryPath] = msgspec.msgpack.decode(
            encoded, type=Annotated[list[EntryPath], msgspec.Meta(max_length=count)]
        )
    except (zlib.error, msgspec.MsgspecError) as error:
        raise Rejected("WF762", f"the cache's list of files is damaged: {error}") from None
    for path in paths:
        check_path(path)
    _check_places(paths)
    if not (
        decompressor.eof
        and len(paths) == count
        and sum(path.size for path in paths if path.kind is EntryKind.FILE) == size
        and all(path.line < lines for path in paths)
    ):
        raise Rejected("WF762", "the cache's list of files does not fit its content")
    return paths


def _check_places(paths: Sequence[EntryPath]) -> None:
    """Each place occurs once, and only folders contain others."""
    kinds = {(path.line, path.path): path.kind for path in paths}
    if len(kinds) != len(paths):
        raise Rejected("WF762", "the cache's list of files is damaged: a path occurs twice")
    for line, path in kinds:
        above = path
        while above:
            above = above.rpartition("/")[0]
            if (above or path) and kinds.get((line, above), EntryKind.FOLDER) is not EntryKind.FOLDER:
                raise Rejected("WF762", "the cache's list of files is damaged: a path leads through a file or a link")
