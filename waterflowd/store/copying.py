"""Copies data directories: a backup beside a running daemon, and a data directory from a backup.

Rules of this file:

- LMDB copies the log as one snapshot (it reads like any other reader: a daemon keeps running meanwhile). It does so in a
  child process, because a damaged file can kill the process that maps it. Files are copied afterwards. They only grow, and
  none is removed meanwhile (`all_kept`), so they contain at least what the snapshot's events refer to; a file
  that continues where the snapshot has no rows yet is newer than the snapshot and left out.
- `backup.json` lists every file with size and hash. A copy is valid only when `FORMAT` marks it as complete, which is the
  last write; until then every command refuses it (directory.py). Everything else is flushed before.
- Everything is verified: a backup is read again before it is marked complete, and before it is restored.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import lmdb
import msgspec

import waterflowd
from waterflow_agent.clock import Clock, utc_time
from waterflow_agent.errors import Stalled
from waterflowd.artifacts import files as artifact_files
from waterflowd.durability import sync_directory
from waterflowd.model.ids import AttemptId
from waterflowd.store import check, directory, layout, output_files, outputs
from waterflowd.store import environment as environment_files
from waterflowd.store.directory import State
from waterflowd.store.environment import Environment
from waterflowd.store.rows import find
from waterflowd.store.writer import GENERATION_KEY

#: Files to copy besides log and outputs. Mirrors of repositories are left out: they are fetched again.
OTHER_FILES = ("keys/server.key", "clock.json", layout.CLUSTER_FILE)
#: How far this machine's clock may be behind the one that made the backup.
CLOCK_SLACK_MS = 60_000

#: The child's exit code for an error of the system, not of LMDB: most likely a full disk.
_TARGET_FAILED = 4
BLOCK_BYTES = 1 << 20
#: The unit of `st_blocks`, whatever the file system's blocks are.
_STAT_BLOCK_BYTES = 512
DIGEST_BYTES = 32


class CopiedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a backup."""

    path: str
    size_bytes: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `backup.json`."""

    format: int
    release: str
    #: When the snapshot was taken (wall clock, ms).
    made_at: int
    #: Generation of the last daemon that wrote before the snapshot.
    generation: int
    records: int
    streams: int
    files: list[CopiedFile]

    @property
    def size_bytes(self) -> int:
        """Total size of the files."""
        return sum(file.size_bytes for file in self.files)


class Readable(Protocol):
    """A stream of bytes; an empty read is its end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        ...


#: Whether the snapshot records that an attempt was sent to an agent.
Knows = Callable[[Environment, AttemptId], bool]


class Snapshot(NamedTuple):
    """A verified copy of a log, and the files that belong to it."""

    #: When it was taken (wall clock, ms).
    made_at: int
    generation: int
    found: check.Findings
    #: The files of the data directory to copy besides the log. One that is gone by then is no longer needed.
    files: list[Path]

    def manifest(self, files: list[CopiedFile]) -> Manifest:
        """The list of a backup that consists of these files."""
        return Manifest(
            format=layout.FORMAT_VERSION,
            release=waterflowd.__version__,
            made_at=self.made_at,
            generation=self.generation,
            records=self.found.records,
            streams=self.found.streams,
            files=files,
        )


def back_up(source: Path, target: Path, knows: Knows) -> Manifest:
    """Backs up the data directory `source` into the new or empty directory `target`, with or without a running daemon.

    Raises `Stalled`, and leaves nothing in the target: WF311 when the source is not a data directory, WF315 when the target is
    not empty or cannot be written, WF304 when the log is damaged.
    """
    source = data_directory(source)
    with copy_directory(target, source) as made, all_kept(source):
        taken = take_snapshot(source, made, knows)
        log = _hashed(made / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE, made)
        manifest = taken.manifest([log, *_copied(taken.files, source, made)])
        _write(made / layout.MANIFEST_FILE, encode_manifest(manifest))
        sync_directories(made)
        directory.write_format(made, State.BACKUP)
        return manifest


@contextlib.contextmanager
def all_kept(source: Path) -> Iterator[None]:
    """Inside the block no output and no artifact of a data directory is removed, whichever process does it."""
    with (
        output_files.all_kept(source / layout.OUTPUT_DIRECTORY),
        artifact_files.all_kept(source / layout.ARTIFACT_DIRECTORY),
    ):
        yield


def data_directory(source: Path) -> Path:
    """The absolute path of a data directory that can be backed up. Raises `Stalled` WF311 to WF314."""
    source = _existing(source)
    directory.admit(source)
    return source


def take_snapshot(source: Path, made: Path, knows: Knows) -> Snapshot:
    """Copies the log of the data directory `source` into the directory `made`, verifies it, and lists what belongs to it.

    The caller keeps the files (`all_kept`) until it has copied them. Raises `Stalled` WF311 without a log, WF304
    when it is damaged, WF306 when the check could not finish, WF315 when it cannot be written.
    """
    early = {os.fspath(file) for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY)}
    made_at = Clock().wall_ms()
    _copy_log(source, made)
    found = _verified(made)
    environment = Environment(made / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
    files = []
    try:
        generation = _generation(environment)
        for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY):
            if _is_of_snapshot(file, environment, is_early=os.fspath(file) in early, knows=knows):
                files += [file, file.with_name(file.name + ".index")]
    finally:
        environment.close()
    files += [source / name for name in OTHER_FILES]
    files += artifact_files.files_in(source / layout.ARTIFACT_DIRECTORY)
    return Snapshot(made_at=made_at, generation=generation, found=found, files=files)


@contextlib.contextmanager
def restore_backup(source: Path, target: Path) -> Iterator[Manifest | None]:
    """Copies a backup, or a stopped daemon's data directory, into the new or empty directory `target`, and verifies it.

    The block works as in `restored`. Yields None when the source is a data directory. Raises `Stalled`: WF311 or WF313 when
    the source is not a complete backup, WF304 when it is damaged, WF310 while a daemon uses it, WF315 when the target is not
    empty, WF316 when the clock is behind the backup.
    """
    source = _existing(source)
    is_backup = directory.admit(source, may_be_backup=True).state is State.BACKUP
    manifest = _manifest(source) if is_backup else None

    def copy_in(made: Path) -> Manifest | None:
        if manifest is None:
            _copy_directory(source, made)
            return None
        for file in manifest.files:
            _copy_checked(source, made, file)
        return manifest

    with contextlib.ExitStack() as undo:
        if manifest is None:
            undo.enter_context(directory.held(source))
        else:
            check_clock(manifest)
        yield undo.enter_context(restored(source, target, copy_in))


@contextlib.contextmanager
def restored(source: Path, target: Path, copy_in: Callable[[Path], Manifest | None]) -> Iterator[Manifest | None]:
    """Verifies what `copy_in` writes into the new or empty directory `target`; yields what it returned.

    Inside the block the target can be opened for rescue. It becomes a data directory when the block succeeds; otherwise it is
    emptied. Raises `Stalled` WF315 when the target is not empty, and WF304 when the copy is damaged.
    """
    with copy_directory(target, source) as made:
        manifest = copy_in(made)
        sync_directories(made)
        _verified(made)
        yield manifest
        directory.write_format(made, State.DATA)


@contextlib.contextmanager
def snapshot_directory(source: Path) -> Iterator[Path]:
    """A place in the data directory `source` for a copy of its log, removed afterwards; one that was left behind is replaced.

    A copy in the clear stays on the disk, and under the protection, of the original. Raises `Stalled` WF310 while another
    process uses it, WF315 when it cannot be written or has not enough space.
    """
    place = source / layout.SNAPSHOT_DIRECTORY
    # The child of a killed process may still be copying to the place that it was told.
    made = place / secrets.token_hex(8)
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    if not log.exists():
        raise _no_log(source)
    with contextlib.ExitStack() as undo:
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            undo.enter_context(_held(place))
            undo.callback(shutil.rmtree, place, ignore_errors=True)
            for left in place.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            made.mkdir(mode=0o700)
            hand_over([place, made], source)
            _check_space(made, log.stat().st_blocks * _STAT_BLOCK_BYTES)
        except OSError as error:
            raise Stalled("WF315", f"the snapshot of the log in {place} failed: {error}") from error
        yield made


@contextlib.contextmanager
def _held(place: Path) -> Iterator[None]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Stalled("WF310", f"{place} is in use by another encrypted backup; wait for its end") from None
    finally:
        os.close(descriptor)


def _check_space(made: Path, log_bytes: int) -> None:
    disk = os.statvfs(made)
    free = disk.f_bavail * disk.f_frsize
    # A daemon would notice a full disk as well.
    needed = log_bytes + layout.BALLAST_BYTES
    if free < needed:
        raise Stalled(
            "WF315",
            f"an encrypted backup needs {needed >> 20} MiB in {made} for a snapshot of the log, and {free >> 20} MiB are free; "
            "free some space, or make a backup that is not encrypted on another disk and encrypt it there",
        )


@contextlib.contextmanager
def copy_directory(target: Path, source: Path) -> Iterator[Path]:
    """A directory marked as incomplete; emptied again when the block fails. Raises `Stalled` WF315."""
    check_outside(target, source)
    made = directory.make_copy_directory(target)
    try:
        yield made
        hand_over(made.rglob("*"), made)
    except BaseException as error:
        _empty(made)
        if isinstance(error, OSError):
            raise Stalled("WF315", f"the copy to {made} failed: {error}") from error
        raise


def check_outside(target: Path, source: Path) -> None:
    """Raises `Stalled` WF315 when the target of a copy is inside its source."""
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise Stalled("WF315", f"{target} is inside {source}, which must not change; choose a place outside it")


def _empty(made: Path) -> None:
    """Removes what was copied, the mark of incompleteness last."""
    for entry in made.iterdir():
        if entry.is_dir() and entry.name != "lost+found":
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != layout.FORMAT_FILE and entry.is_file():
            entry.unlink(missing_ok=True)
    (made / layout.FORMAT_FILE).unlink(missing_ok=True)


def hand_over(paths: Iterable[Path], parent: Path) -> None:
    """Gives files made by root to the owner of the directory; otherwise the daemon could not open them."""
    owner = parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _existing(source: Path) -> Path:
    """The absolute path of a directory that has a `FORMAT`. Raises `Stalled` WF311."""
    source = Path(os.path.abspath(source))
    if not (source / layout.FORMAT_FILE).exists():
        raise Stalled(
            "WF311", f"{source} is neither a data directory nor a backup: it has no {layout.FORMAT_FILE} file"
        )
    return source


def _copy_log(source: Path, made: Path) -> None:
    """Raises `Stalled` WF304 when the log cannot be read, WF306 when the child was killed."""
    if not (source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists():
        raise _no_log(source)
    directory.make_directory(made / layout.ENVIRONMENT_DIRECTORY)
    arguments = [os.fspath(path / layout.ENVIRONMENT_DIRECTORY) for path in (source, made)]
    child = subprocess.run(
        [sys.executable, "-P", "-m", "waterflowd.store.copying", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if child.returncode == _TARGET_FAILED:
        raise Stalled("WF315", f"the copy to {made} failed: {child.stdout.decode(errors='replace').strip()}")
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    check.judge(log, child)
    hand_over([log.with_name("lock.mdb")], source)
    environment_files.flush(made / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE)


def _verified(made: Path) -> check.Findings:
    check.check_in_child(made, is_thorough=True)
    environment = Environment(made / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
    try:
        return check.verify(environment)
    finally:
        environment.close()


def _generation(environment: Environment) -> int:
    with environment.reading() as transaction:
        return int(find(environment, transaction, "meta", GENERATION_KEY) or 0)


def _is_of_snapshot(file: Path, environment: Environment, *, is_early: bool, knows: Knows) -> bool:
    """Whether an output log existed before the snapshot, or the snapshot's events refer to it."""
    try:
        base = output_files.base_of(file)
    except FileNotFoundError:
        return False
    name = output_files.name_of(file)
    if is_early or base is None or name is None:
        return is_early
    if base == 0:
        return knows(environment, name)
    with environment.reading() as transaction:
        return base <= outputs.rows_end(environment, transaction, outputs.log_prefix(name))


def _copied(files: list[Path], source: Path, made: Path) -> list[CopiedFile]:
    """Copies the files that exist, with their current content."""
    found = []
    for file in files:
        path = file.relative_to(source)
        with contextlib.suppress(FileNotFoundError):
            found.append(copy(file, made / path, os.fspath(path)))
    return found


def copy(file: Path, target: Path, path: str, *, size_bytes: int | None = None) -> CopiedFile:
    """Copies a file's current content, or its first `size_bytes`, and flushes it. `path` is its name in the list."""
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size if size_bytes is None else size_bytes
        return copy_stream(content, target, path, size)


def copy_stream(content: Readable, target: Path, path: str, size_bytes: int) -> CopiedFile:
    """Copies at most `size_bytes` of a stream into the new file `target`, and flushes it."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        copied = digest_stream(content, path, size_bytes, written.write)
        written.flush()
        os.fsync(descriptor)
    return copied


def digest_stream(
    content: Readable, path: str, size_bytes: int, write: Callable[[bytes], object] | None = None
) -> CopiedFile:
    """Size and digest of the stream's next bytes, at most `size_bytes`, each block of which is passed to `write`."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    left = size_bytes
    while left and (block := content.read(min(left, BLOCK_BYTES))):
        digest.update(block)
        if write is not None:
            write(block)
        left -= len(block)
    return CopiedFile(path=path, size_bytes=size_bytes - left, digest=digest.hexdigest())


def _copy_checked(source: Path, made: Path, listed: CopiedFile) -> None:
    """Copies a file of a backup. Raises `Stalled` WF304 when it differs from the backup's list."""
    path = Path(listed.path)
    if path.is_absolute() or ".." in path.parts:
        raise Stalled("WF304", f"the backup {source} is damaged: its list contains {listed.path!r}; use another backup")
    try:
        found = copy(source / path, made / path, listed.path)
    except FileNotFoundError:
        raise _damaged_file(source, listed.path) from None
    if found != listed:
        raise _damaged_file(source, listed.path)


def check_files(source: Path) -> None:
    """Raises `Stalled` WF304 when a file of the backup `source` differs from its list."""
    for listed in _manifest(source).files:
        try:
            found = _hashed(source / listed.path, source)
        except FileNotFoundError:
            found = None
        if found != listed:
            raise _damaged_file(source, listed.path)


def _damaged_file(source: Path, path: str) -> Stalled:
    return Stalled("WF304", f"the backup {source} is damaged: {path} is missing or has changed; use another backup")


def _no_log(source: Path) -> Stalled:
    return Stalled("WF311", f"{source} has no log: no daemon has run in it yet")


def _copy_directory(source: Path, made: Path) -> None:
    """Copies the data of a data directory that no daemon uses."""
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    # LMDB's file is copied byte by byte, even if it is sparse; nothing after the last page is ever read.
    if not _copied([log], source, made):
        raise _no_log(source)
    for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY):
        _copied([file, file.with_name(file.name + ".index")], source, made)
    _copied([source / name for name in OTHER_FILES], source, made)
    _copied(list(artifact_files.files_in(source / layout.ARTIFACT_DIRECTORY)), source, made)


def _hashed(file: Path, made: Path) -> CopiedFile:
    with file.open("rb") as content:
        return digest_stream(content, os.fspath(file.relative_to(made)), os.fstat(content.fileno()).st_size)


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of `backup.json`, for people as well."""
    return msgspec.json.format(msgspec.json.encode(manifest))


def _manifest(source: Path) -> Manifest:
    try:
        return msgspec.json.decode((source / layout.MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Stalled(
            "WF304", f"the backup {source} is damaged: cannot read {layout.MANIFEST_FILE} ({error}); use another backup"
        ) from error


def check_clock(manifest: Manifest) -> None:
    """Raises `Stalled` WF316 when the clock is behind the backup.

    A restored log takes its generation from the clock: a clock that is behind could repeat one that agents know.
    """
    if Clock().wall_ms() + CLOCK_SLACK_MS < manifest.made_at:
        made = utc_time(manifest.made_at)
        raise Stalled(
            "WF316", f"the backup was made at {made}, but this machine's clock is behind; set the clock first"
        )


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def sync_directories(made: Path) -> None:
    """Makes the names of all files durable."""
    for path, _, _ in os.walk(made):
        sync_directory(Path(path))


def main() -> int:
    """The child: `python -m waterflowd.store.copying SOURCE TARGET`, two environments; prints what is wrong."""
    source, target = sys.argv[1:3]
    # LMDB maps the pages that are used now, if it is not told more: what a daemon adds before the copy begins would be missing.
    size = max(layout.MAP_BYTES, 2 * (Path(source) / layout.LOG_FILE).stat().st_size)
    try:
        with lmdb.open(
            source, map_size=size, readonly=True, create=False, max_dbs=1, lib_version=layout.LMDB_ENGINE
        ) as environment:
            environment.copy(target, compact=True)
    except lmdb.Error as error:
        # LMDB's own codes are negative and concern the file; positive ones come from the system.
        print(f"LMDB says {error}")
        return _TARGET_FAILED if error.code > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
