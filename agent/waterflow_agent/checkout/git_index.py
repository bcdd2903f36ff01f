"""Completes the `.git` of a work tree: its empty directories, and the index. Blocking.

Theory: Git compares the size and time of each file with those in the index, and reads only files that differ. Without an index
every file would count as deleted, and an index without sizes and times would make commands that do not refresh it first
(`git diff-index`) report every file as changed. So the index is written when all files have been. The configuration that the
daemon sends tells Git to compare only sizes and times in seconds, which survive the copy for another user.

Git reads a file that is as new as the index, and would take a file in Git LFS for a changed pointer where the program of Git
LFS is not installed. So such files are older.

The format is version 2 of Git's index: a header, entries sorted by path, and the SHA-1 of everything before it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from waterflow_agent.checkout.file_list import FileEntry, FileKind, git_root

_HEADER = struct.Struct(">4sII")
#: Times in seconds and nanoseconds (changed, modified), device, inode, mode, user, group, size, object id, flags.
_ENTRY = struct.Struct(">10I20sH")
_MODES = {
    FileKind.FILE: 0o100644,
    FileKind.EXECUTABLE: 0o100755,
    FileKind.LINK: 0o120000,
    FileKind.SUBMODULE: 0o160000,
}
_WORD = 0xFFFF_FFFF
#: By how much files in Git LFS are older than the index; Git compares seconds.
_OLDER_S = 2
#: The flags hold the length of the path, up to this one.
_LENGTH_MAX = 0xFFF
#: Git needs the first two to recognize a repository.
_DIRECTORIES = ("objects/info", "refs/heads", "refs/tags", "info")


def complete(root: Path, files: Mapping[bytes, FileEntry], folders: Iterable[str]) -> None:
    """Completes every `.git` below `root`, whose files have all been written. Raises `OSError`.

    `folders` are those of the parts of the checkout. What is in another part or in a submodule is not part of an index.
    """
    roots = {found for entry in files.values() if (found := _root_of(entry)) is not None}
    if not roots:
        return
    others = {os.fsencode(folder) + b"/" for folder in folders if folder}
    others |= {entry.path + b"/" for entry in files.values() if entry.kind is FileKind.SUBMODULE}
    for prefix in roots:
        foreign = tuple(other for other in others if other != prefix and other.startswith(prefix))
        tracked = [
            entry
            for path, entry in files.items()
            if entry.kind is not FileKind.GIT and path.startswith(prefix) and not (foreign and path.startswith(foreign))
        ]
        _complete(os.path.join(os.fsencode(root), prefix), prefix, tracked)


def _root_of(entry: FileEntry) -> bytes | None:
    return git_root(entry.path) if entry.kind is FileKind.GIT else None


def _complete(directory: bytes, prefix: bytes, tracked: Sequence[FileEntry]) -> None:
    git = os.path.join(directory, b".git")
    for name in _DIRECTORIES:
        os.makedirs(os.path.join(git, name.encode()), exist_ok=True)
    for entry in tracked:
        if entry.pointer:
            os.utime(directory + entry.path.removeprefix(prefix), (before := time.time() - _OLDER_S, before))
    entries = [
        _entry(entry, entry.path.removeprefix(prefix), os.lstat(directory + entry.path.removeprefix(prefix)))
        for entry in sorted(tracked, key=lambda entry: entry.path)
        # The commit of a submodule may be unknown.
        if entry.blob
    ]
    content = _HEADER.pack(b"DIRC", 2, len(entries)) + b"".join(entries)
    with open(os.path.join(git, b"index"), "wb") as file:
        file.write(content)
        file.write(hashlib.sha1(content, usedforsecurity=False).digest())


def _entry(entry: FileEntry, path: bytes, status: os.stat_result) -> bytes:
    is_submodule = entry.kind is FileKind.SUBMODULE
    fixed = _ENTRY.pack(
        int(status.st_ctime) & _WORD,
        status.st_ctime_ns % 1_000_000_000,
        int(status.st_mtime) & _WORD,
        status.st_mtime_ns % 1_000_000_000,
        status.st_dev & _WORD,
        status.st_ino & _WORD,
        _MODES[entry.kind],
        status.st_uid & _WORD,
        status.st_gid & _WORD,
        0 if is_submodule else status.st_size & _WORD,
        entry.pointer or entry.blob,
        min(len(path), _LENGTH_MAX),
    )
    # At least one zero byte, up to a multiple of eight.
    return fixed + path + bytes(8 - (len(fixed) + len(path)) % 8)
