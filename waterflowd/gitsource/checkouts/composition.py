"""The list of files of a directory that is made of several parts: files of commits in folders, and files of `.git`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Stalled, WaterflowError
from waterflow_agent.wire.messages import FileChunk
from waterflowd.gitsource.history.reader import GitFiles
from waterflowd.model.records import FilesListed
from waterflowd.reconcile import codes

#: The file is not one of the job's, or no longer.
_NOT_LISTED = "WF219"


class Content(msgspec.Struct, frozen=True):
    """A content that is not in the repository: its Git id, and the path of a file that has it."""

    blob: bytes
    path: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a commit, and perhaps its `.git`, in a folder of the job's directory (empty for the directory itself)."""

    path: bytes
    files: FilesListed
    #: The repository whose complete copy has the files; empty for the mirror of the run's own.
    complete: str = ""
    git: GitFiles | None = None


def composed(parts: Sequence[Part]) -> FilesListed:
    """The list of all parts. Raises `Stalled` WF508 if that are too many files or two parts have the same one."""
    entries: dict[bytes, FileEntry] = {}
    for part in parts:
        for entry in _entries(part):
            if entries.setdefault(entry.path, entry) is not entry:
                raise _conflict(entry.path)
    for part in parts:
        for folder in _folders(part.path):
            if folder in entries and entries[folder].kind is not FileKind.SUBMODULE:
                raise _conflict(folder)
    content = file_list.encode(entries[path] for path in sorted(entries))
    if len(entries) > file_list.FILES_MAX or len(content) > file_list.BYTES_MAX:
        text = f"the job's directory has more than {file_list.FILES_MAX:,} files; select some of them in its checkout"
        raise Stalled(codes.LIMIT, text)
    made = {blob: content for part in parts for blob, content in part.files.made.items()}
    made |= {blob: content for part in parts if part.git is not None for blob, content in part.git.contents.items()}
    blobs = frozenset(blob for part in parts for blob in part.files.blobs) | made.keys()
    repositories = {blob: part.complete for part in parts if part.complete for blob in part.files.blobs}
    return FilesListed(content=content, blobs=blobs, repositories=repositories, made=made)


def with_contents(files: FilesListed, contents: Mapping[bytes, Content]) -> FilesListed:
    """The list with other contents for some paths: those of files in Git LFS, whose pointers the commit has."""
    entries = [
        FileEntry(entry.path, entry.kind, contents[entry.path].blob, entry.blob) if entry.path in contents else entry
        for entry in file_list.decode(files.content)
    ]
    return msgspec.structs.replace(
        files,
        content=file_list.encode(entries),
        blobs=frozenset(entry.blob for entry in entries if entry.kind is not FileKind.SUBMODULE),
        made={content.blob: content.path for content in contents.values()},
    )


def _conflict(path: bytes) -> Stalled:
    text = f"two checkouts of the job have the same file: {escape_for_display(os.fsdecode(path))}"
    return Stalled(codes.LIMIT, f"{text}; give them different paths")


def _folders(path: bytes) -> Iterator[bytes]:
    """A folder and those above it."""
    while path:
        yield path
        path = os.path.dirname(path)


def _entries(part: Part) -> Iterator[FileEntry]:
    prefix = part.path + b"/" if part.path else b""
    for entry in file_list.decode(part.files.content):
        yield FileEntry(prefix + entry.path, entry.kind, entry.blob, entry.pointer)
    if part.git is not None:
        for entry in part.git.entries:
            yield FileEntry(prefix + file_list.GIT_DIRECTORY + entry.path, entry.kind, entry.blob)


def made_pieces(listed: FilesListed, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
    """Contents of files that are not in a repository; see `ports.RevisionFiles.pieces`. Blocking."""
    pieces: list[FileChunk] = []
    for blob in blobs:
        try:
            size, part = _read(listed.made[blob], offset, bytes_max)
        except OSError as error:
            if pieces:
                # The agent requests it again as the first one, and then gets the error.
                break
            # Packs were written anew, or a content was removed; the agent begins again with a new list.
            raise WaterflowError(_NOT_LISTED, f"cannot read a file of the checkout: {error.strerror}") from error
        pieces.append(FileChunk(size, part))
        bytes_max -= len(part)
        if bytes_max <= 0 or offset + len(part) < size:
            break
        offset = 0
    return pieces


def _read(source: bytes | str, offset: int, bytes_max: int) -> tuple[int, bytes]:
    """The size of a content, and a part of it."""
    if isinstance(source, bytes):
        return len(source), source[offset : offset + bytes_max]
    with open(source, "rb") as file:
        return os.fstat(file.fileno()).st_size, os.pread(file.fileno(), bytes_max, offset)
