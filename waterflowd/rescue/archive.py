"""Encrypted backups: one file, which is a tar archive of what a backup's directory holds, encrypted with age.

Rules of this file:

- Nothing of the backup is in the clear outside of the data directory: neither names nor sizes, and no temporary file. Only the
  snapshot of the log is written twice, into the data directory, because it must be verified before it is encrypted.
- The standard tools open it: `age --decrypt -i FILE SRC | tar --extract` makes a backup's directory.
- `FORMAT` is the first member, so that a file of a newer release is refused at once. `backup.json` is the last: it lists all
  others with size and hash, so a reader knows that it has everything that was verified when the backup was created.
- A decrypted file is not necessarily genuine, so only the names that a backup has are read.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec
import pyrage

from waterflow_agent.errors import Stalled
from waterflowd.rescue import encryption
from waterflowd.store import check, copying, directory, layout
from waterflowd.store.copying import CopiedFile, Manifest, Readable
from waterflowd.store.directory import State

#: More than a million files.
MANIFEST_BYTES_MAX = 256 << 20

_LOG = f"{layout.ENVIRONMENT_DIRECTORY}/{layout.LOG_FILE}"
_FORMAT_BYTES_MAX = 64 << 10

#: Takes the content of a member: its name and size.
Keep = Callable[[str, Readable, int], CopiedFile]


class EncryptedBackup(Manifest, frozen=True, kw_only=True):
    """The list of an encrypted backup, and the file that contains it."""

    archive_bytes: int
    #: SHA-256 of the encrypted file, in hexadecimal.
    archive_sha256: str


def back_up(
    source: Path, target: Path, recipients: Sequence[pyrage.x25519.Recipient], knows: copying.Knows
) -> EncryptedBackup:
    """Backs up the data directory `source` into the new encrypted file `target`, with or without a running daemon.

    Raises `Stalled`, and leaves nothing: WF311 when the source is not a data directory, WF304 when its log is damaged, WF310
    during another encrypted backup, WF315 when the target exists or cannot be written, or the data directory has not enough
    space for a snapshot of the log.
    """
    source = copying.data_directory(source)
    target = Path(os.path.abspath(target))
    copying.check_outside(target, source)
    with (
        copying.snapshot_directory(source) as made,
        encryption.encrypt_file(target, recipients) as encrypted,
        copying.all_kept(source),
    ):
        taken = copying.take_snapshot(source, made, knows)
        with tarfile.open(fileobj=encrypted.stream, mode="w|", bufsize=copying.BLOCK_BYTES) as archive:
            writer = _Writer(archive, at_s=taken.made_at // 1000)
            writer.add(layout.FORMAT_FILE, directory.encode_format(directory.current_format(State.BACKUP)))
            files = [writer.add_file(made / _LOG, _LOG)]
            for file in taken.files:
                try:
                    files.append(writer.add_file(file, os.fspath(file.relative_to(source))))
                except FileNotFoundError:
                    continue
            manifest = taken.manifest(files)
            writer.add(layout.MANIFEST_FILE, copying.encode_manifest(manifest))
    return EncryptedBackup(
        **msgspec.structs.asdict(manifest), archive_bytes=encrypted.size_bytes, archive_sha256=encrypted.sha256
    )


def extract(source: Path, identities: Sequence[pyrage.x25519.Identity], made: Path, *, named: str) -> Manifest:
    """Decrypts a backup into the directory `made`, without its `FORMAT` and list, and returns the list.

    Raises `Stalled` WF304 when it is damaged, WF311 when it is not a backup or a newer release made it, WF316 when the clock is
    behind it, WF318 when no identity fits, and `OSError` when the directory cannot be written.
    """

    def keep(name: str, content: Readable, size: int) -> CopiedFile:
        return copying.copy_stream(content, made / name, name, size)

    manifest = _read(source, identities, keep, named=named)
    copying.check_clock(manifest)
    return manifest


def examine(source: Path, identities: Sequence[pyrage.x25519.Identity], *, named: str) -> check.Findings:
    """Checks that an encrypted backup holds exactly what was verified when it was created. Writes nothing.

    Raises what `extract` raises.
    """

    def keep(name: str, content: Readable, size: int) -> CopiedFile:
        return copying.digest_stream(content, name, size)

    manifest = _read(source, identities, keep, named=named)
    return check.Findings(records=manifest.records, streams=manifest.streams)


class _Writer:
    def __init__(self, archive: tarfile.TarFile, *, at_s: int) -> None:
        self._archive = archive
        self._at_s = at_s

    def add(self, name: str, content: bytes) -> None:
        self._archive.addfile(self._member(name, len(content)), io.BytesIO(content))

    def add_file(self, file: Path, name: str) -> CopiedFile:
        """Adds a file's current content. Raises `FileNotFoundError`."""
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            reader = _DigestReader(content)
            try:
                self._archive.addfile(self._member(name, size), reader)
            except OSError as error:
                if reader.has_ended:
                    raise Stalled("WF315", f"{file} became shorter while it was copied; back up again") from error
                raise
        return CopiedFile(path=name, size_bytes=size, digest=reader.digest.hexdigest())

    def _member(self, name: str, size: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, self._at_s
        return member


class _DigestReader(io.RawIOBase):
    """Reads a file and computes the digest of what was read."""

    def __init__(self, content: BinaryIO) -> None:
        super().__init__()
        self._content = content
        self.digest = hashlib.blake2b(digest_size=copying.DIGEST_BYTES)
        self.has_ended = False

    def read(self, size: int = -1, /) -> bytes:
        block = self._content.read(size)
        self.digest.update(block)
        self.has_ended = len(block) < size
        return block


def _read(source: Path, identities: Sequence[pyrage.x25519.Identity], keep: Keep, *, named: str) -> Manifest:
    """Passes all files to `keep`, and returns the list after comparing it with them."""
    if not encryption.is_encrypted(source):
        raise Stalled("WF311", f"{source} is not an encrypted backup: it is not a file that age encrypted")
    found: dict[str, CopiedFile] = {}
    manifest = None
    with encryption.decrypt_file(source, identities, named=named) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=copying.BLOCK_BYTES) as archive:
                for number, member in enumerate(archive):
                    content = _content(source, archive, member, number)
                    if number == 0:
                        _check_format(source, content)
                    elif manifest is not None or member.name in found:
                        raise _unexpected(source, member.name)
                    elif member.name == layout.MANIFEST_FILE:
                        manifest = _decode_manifest(source, content, member.size)
                    else:
                        found[member.name] = keep(member.name, content, member.size)
        except tarfile.TarError as error:
            raise Stalled(
                "WF311", f"{source} is not a backup: it does not contain a backup's archive ({error})"
            ) from error
        # What follows the archive is padding; only its end proves that the file was not cut.
        while stream.read(copying.BLOCK_BYTES):
            pass
    if manifest is None or found != {file.path: file for file in manifest.files}:
        raise Stalled(
            "WF304", f"the encrypted backup {source} is damaged: its files differ from its list; use another one"
        )
    return manifest


def _content(source: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, number: int) -> Readable:
    path = PurePosixPath(member.name)
    is_known = member.name in (_LOG, layout.MANIFEST_FILE, *copying.OTHER_FILES) or (
        path.parts[:1] in ((layout.OUTPUT_DIRECTORY,), (layout.ARTIFACT_DIRECTORY,))
        and len(path.parts) > 1
        and ".." not in path.parts
    )
    content = archive.extractfile(member) if member.isreg() else None
    if number == 0 and member.name != layout.FORMAT_FILE:
        raise Stalled("WF311", f"{source} is not a backup: it does not begin with {layout.FORMAT_FILE}")
    if content is None or (number > 0 and not is_known):
        raise _unexpected(source, member.name)
    return content


def _check_format(source: Path, content: Readable) -> None:
    found = directory.decode_format(content.read(_FORMAT_BYTES_MAX), source)
    if found.state is not State.BACKUP:
        raise Stalled("WF311", f"{source} is not a backup: it is marked as {found.state.value}")


def _decode_manifest(source: Path, content: Readable, size: int) -> Manifest:
    if size > MANIFEST_BYTES_MAX:
        raise _unexpected(source, f"a list of {size} bytes")
    try:
        return msgspec.json.decode(content.read(size), type=Manifest)
    except msgspec.DecodeError as error:
        raise Stalled(
            "WF304", f"the encrypted backup {source} is damaged: cannot read {layout.MANIFEST_FILE} ({error})"
        ) from error


def _unexpected(source: Path, name: str) -> Stalled:
    return Stalled("WF304", f"the encrypted backup {source} is damaged: it contains {name!r}; use another backup")
