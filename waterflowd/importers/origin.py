"""The files that are imported: read through a function of the caller, decoded within limits.

Rules of this file: paths are relative to the root of the source's repository, and nothing outside of it is read. Text is
UTF-8; anything else is refused with a sentence, since a guessed encoding would change scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: As for workflow files: more than people write, and little enough to be compiled.
SOURCE_BYTES_MAX = 1 << 20
#: Files that one file may include, with those that these include.
INCLUDES_MAX = 100


class Unreadable(Exception):
    """A file cannot be imported; the text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is imported, and where."""

    #: Returns the content of a file below the root, cut behind `SOURCE_BYTES_MAX`; None if there is no such regular file.
    read: Callable[[str], bytes | None]
    #: The group of servers for jobs whose source does not name one.
    group: str
    #: The directory of the result from the root, such as `.waterflow`; workflows refer to other files by it.
    prefix: str = ".waterflow"
    #: The time zone of schedules whose source uses that of its server; None if the user did not name one.
    timezone: str | None = None

    def target(self, path: str) -> str:
        """Return the path from the root of a file of the result."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def text(self, path: str) -> str:
        """Return the text of a file; raises Unreadable."""
        content = self.read(path)
        if content is None:
            raise Unreadable("the file does not exist, is not a regular file, or is outside of the directory")
        return decoded(content)


def decoded(content: bytes) -> str:
    """Return the text of a file's content, with line feeds only; raises Unreadable."""
    if len(content) > SOURCE_BYTES_MAX:
        raise Unreadable(f"the file is larger than {SOURCE_BYTES_MAX >> 20} MiB; split it")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:4]:
        raise Unreadable("the file is UTF-16 or UTF-32, expected UTF-8; save it as UTF-8")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise Unreadable(f"line {line}: byte 0x{byte:02x} is not valid UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise Unreadable("the file is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def joined(base: str, path: str) -> str | None:
    """Return a path that a file in the directory `base` refers to, from the root; None if it leads out of the root."""
    found: list[str] = []
    for part in [*base.split("/"), *path.split("/")]:
        if part == ".." and not found:
            return None
        if part == "..":
            found.pop()
        elif part not in ("", "."):
            found.append(part)
    return "/".join(found)


def folder_of(path: str) -> str:
    """Return the directory of a path; empty for the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def stem_of(path: str) -> str:
    """Return the name of a file without its ending, as a name for a workflow file."""
    name = name_of(path)
    for ending in (".yml", ".yaml", ".xml", ".ini", ".cron", ".crontab", ".txt"):
        name = name.removesuffix(ending)
    return slug(name)


def slug(text: str, default: str = "imported") -> str:
    """Return a name with letters, digits, `_` and `-` only, that begins with a letter or `_`, as the ids of jobs need it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in text[:80])
    while "--" in kept:
        kept = kept.replace("--", "-")
    kept = kept.strip("-")
    if not kept:
        return default
    return kept if kept[0].isalpha() or kept[0] == "_" else f"_{kept}"


class Names:
    """Names that are used once each, compared without case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """Return the name, or the name with a number if it is taken."""
        name, number = wanted, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{wanted}-{number}"
        self._taken.add(name.lower())
        return name
