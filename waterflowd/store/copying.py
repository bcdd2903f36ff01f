"""Copies of a data directory: a backup beside a running daemon, and a data directory out of a backup.

Rules of this file:

- The log is copied by LMDB in a child process, as one snapshot (a reader like any other: a daemon goes on meanwhile), and
  because a damaged file can end whoever maps it. Files are copied after it. They only grow, so they hold at least what the
  snapshot's events speak of; a file that goes on where the snapshot has no rows yet is of later, and left out.
- `backup.json` names every file with size and hash. A copy counts only once `FORMAT` says that it is whole, and that is its
  last write; until then every command refuses it (directory.py). Everything is flushed before.
- Nothing is believed: a backup is read again before it counts, and before it is restored.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lmdb
import msgspec

import waterflowd
from waterflow_agent.errors import Stalled
from waterflowd.model.ids import AttemptId
from waterflowd.store import check, directory, layout, output_files, outputs
from waterflowd.store import environment as environment_files
from waterflowd.store.directory import State
from waterflowd.store.environment import Environment
from waterflowd.store.rows import find
from waterflowd.store.writer import GENERATION_KEY

#: What stands in a data directory besides log and outputs and belongs into a copy; mirrors of repositories are fetched again.
OTHER_FILES = ("keys/server.key", "clock.json")
#: A clock that stands a little behind the one that made the backup is no wrong clock.
CLOCK_SLACK_MS = 60_000

#: The child's exit code when the system, and not LMDB, has refused: no space, most likely.
_TARGET_FAILED = 4
_BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 32


class CopiedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a backup."""

    path: str
    size_bytes: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `backup.json` says."""

    format: int
    release: str
    #: The wall clock's milliseconds when the snapshot was taken.
    made_at: int
    #: Of the daemon that wrote last before the snapshot.
    generation: int
    records: int
    streams: int
    files: list[CopiedFile]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


#: Tells whether the snapshot knows that an attempt was sent to an agent.
Knows = Callable[[Environment, AttemptId], bool]


def back_up(source: Path, target: Path, knows: Knows) -> Manifest:
    """Makes a backup of the data directory `source` in the new or empty directory `target`, whether a daemon runs or not.

    Raises `Stalled`: WF311 for a source that is none, WF315 for a target with something in it, WF304 when the log is damaged,
    WF302 when the target's disk is full. Then nothing is left in the target.
    """
    source = _existing(source)
    directory.admit(source)
    with copy_directory(target, source) as made:
        early = {os.fspath(file) for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY)}
        made_at = _wall_ms()
        _copy_log(source, made)
        found = _verified(made)
        environment = Environment(made / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
        try:
            generation = _generation(environment)
            files = [_hashed(made / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE, made)]
            for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY):
                if _is_of_snapshot(file, environment, is_early=os.fspath(file) in early, knows=knows):
                    files += _copied([file, file.with_name(file.name + ".index")], source, made)
        finally:
            environment.close()
        files += _copied([source / name for name in OTHER_FILES], source, made)
        manifest = Manifest(
            format=layout.FORMAT_VERSION,
            release=waterflowd.__version__,
            made_at=made_at,
            generation=generation,
            records=found.records,
            streams=found.streams,
            files=files,
        )
        _write(made / layout.MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest)))
        sync_directories(made)
        directory.write_format(made, State.BACKUP)
        return manifest


@contextlib.contextmanager
def restore_backup(source: Path, target: Path) -> Iterator[Manifest | None]:
    """Copies a backup, or a stopped daemon's data directory, into the new or empty directory `target`, and verifies it.

    Inside of the block the target can be opened for rescue; it becomes a data directory when the block is left in order, else
    nothing is left in it. Gives None for a plain data directory. Raises `Stalled`: WF311, WF313 for a source that is no whole
    backup, WF304 for a damaged one, WF310 while a daemon is in it, WF315 for a target with something in it, WF316 when the
    clock is behind the backup.
    """
    source = _existing(source)
    is_backup = directory.admit(source, may_be_backup=True).state is State.BACKUP
    manifest = _manifest(source) if is_backup else None
    with contextlib.ExitStack() as undo:
        if manifest is None:
            undo.enter_context(directory.held(source))
        else:
            _check_clock(manifest)
        made = undo.enter_context(copy_directory(target, source))
        if manifest is None:
            _copy_directory(source, made)
        else:
            for file in manifest.files:
                _copy_checked(source, made, file)
        sync_directories(made)
        _verified(made)
        yield manifest
        directory.write_format(made, State.DATA)


@contextlib.contextmanager
def copy_directory(target: Path, source: Path) -> Iterator[Path]:
    """An incomplete directory; emptied again when the block fails. Raises `Stalled` WF302 and WF315."""
    whole = Path(os.path.realpath(target))
    if whole.is_relative_to(os.path.realpath(source)):
        raise Stalled("WF315", f"{target} lies in {source}, which is not to be changed; name a directory beside it")
    made = directory.make_copy_directory(target)
    try:
        yield made
        hand_over(made.rglob("*"), made)
    except BaseException as error:
        _empty(made)
        if isinstance(error, OSError):
            raise Stalled("WF315", f"the copy to {made} failed: {error}") from error
        raise


def _empty(made: Path) -> None:
    """Takes away what was made, the mark of incompleteness last."""
    for entry in made.iterdir():
        if entry.is_dir() and entry.name != "lost+found":
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != layout.FORMAT_FILE and entry.is_file():
            entry.unlink(missing_ok=True)
    (made / layout.FORMAT_FILE).unlink(missing_ok=True)


def hand_over(made: Iterable[Path], place: Path) -> None:
    """What root has made belongs to whom the directory belongs, or the daemon could not open it."""
    owner = place.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in made:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _existing(source: Path) -> Path:
    """The whole path of a directory that has a `FORMAT`. Raises `Stalled` WF311."""
    source = Path(os.path.abspath(source))
    if not (source / layout.FORMAT_FILE).exists():
        raise Stalled("WF311", f"{source} is neither a data directory nor a backup: it has no {layout.FORMAT_FILE}")
    return source


def _copy_log(source: Path, made: Path) -> None:
    """Raises `Stalled` WF304 when the log cannot be read, WF306 when the child was ended."""
    if not (source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists():
        raise Stalled("WF311", f"{source} holds no log yet: no daemon has ever run in it")
    directory.make_directory(made / layout.ENVIRONMENT_DIRECTORY)
    arguments = [os.fspath(place / layout.ENVIRONMENT_DIRECTORY) for place in (source, made)]
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
    """Whether an output log was there when the snapshot was taken, or holds what its events speak of."""
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
    """Copies those of the files that are there, with what they hold at this moment."""
    found = []
    for file in files:
        path = file.relative_to(source)
        with contextlib.suppress(FileNotFoundError):
            found.append(copy(file, made / path, os.fspath(path)))
    return found


def copy(file: Path, target: Path, path: str, *, size_bytes: int | None = None) -> CopiedFile:
    """Copies what a file holds now, or its first `size_bytes`, durably but for its name; `path` is how the list names it."""
    with file.open("rb") as content:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        size = left = os.fstat(content.fileno()).st_size if size_bytes is None else size_bytes
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            while left and (block := content.read(min(left, _BLOCK_BYTES))):
                digest.update(block)
                copy.write(block)
                left -= len(block)
            copy.flush()
            os.fsync(descriptor)
    return CopiedFile(path=path, size_bytes=size - left, digest=digest.hexdigest())


def _copy_checked(source: Path, made: Path, wanted: CopiedFile) -> None:
    """Copies a file of a backup. Raises `Stalled` WF304 when it is not what the backup's list says."""
    place = Path(wanted.path)
    if place.is_absolute() or ".." in place.parts:
        raise Stalled("WF304", f"the backup {source} is damaged: its list names {wanted.path!r}; use another backup")
    try:
        found = copy(source / place, made / place, wanted.path)
    except FileNotFoundError:
        raise _not_as_written(source, wanted.path) from None
    if found != wanted:
        raise _not_as_written(source, wanted.path)


def check_files(source: Path) -> None:
    """Raises `Stalled` WF304 when a file of the backup `source` is not what its list says."""
    for wanted in _manifest(source).files:
        try:
            found = _hashed(source / wanted.path, source)
        except FileNotFoundError:
            found = None
        if found != wanted:
            raise _not_as_written(source, wanted.path)


def _not_as_written(source: Path, path: str) -> Stalled:
    return Stalled("WF304", f"the backup {source} is damaged: {path} is missing or not what was written; use another")


def _copy_directory(source: Path, made: Path) -> None:
    """Copies what counts of a data directory that no daemon is in."""
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    # Sparse or not, LMDB's file is copied by its bytes; what is behind the last page is never read.
    if not _copied([log], source, made):
        raise Stalled("WF311", f"{source} holds no log yet: no daemon has ever run in it")
    for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY):
        _copied([file, file.with_name(file.name + ".index")], source, made)
    _copied([source / name for name in OTHER_FILES], source, made)


def _hashed(file: Path, made: Path) -> CopiedFile:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    size = 0
    with file.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return CopiedFile(path=os.fspath(file.relative_to(made)), size_bytes=size, digest=digest.hexdigest())


def _manifest(source: Path) -> Manifest:
    try:
        return msgspec.json.decode((source / layout.MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Stalled(
            "WF304", f"the backup {source} is damaged: {layout.MANIFEST_FILE} cannot be read ({error}); use another"
        ) from error


def _check_clock(manifest: Manifest) -> None:
    """Generations are counted from the clock: one that is behind could give a number that agents know already."""
    if _wall_ms() + CLOCK_SLACK_MS < manifest.made_at:
        made = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(manifest.made_at / 1000))
        raise Stalled("WF316", f"the backup was made at {made}, and this machine's clock is behind that; set it first")


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def sync_directories(made: Path) -> None:
    """Makes the names of all files durable."""
    for place, _, _ in os.walk(made):
        directory.sync_directory(Path(place))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> int:
    """The child: `python -m waterflowd.store.copying SOURCE TARGET`, two environments; says on stdout what is wrong."""
    source, target = sys.argv[1:3]
    try:
        with lmdb.open(
            source, map_size=1 << 20, readonly=True, create=False, max_dbs=1, lib_version=layout.LMDB_ENGINE
        ) as environment:
            environment.copy(target, compact=True)
    except lmdb.Error as error:
        # LMDB's own codes are negative and speak of the file; the others are the system's.
        print(f"LMDB says {error}")
        return _TARGET_FAILED if error.code > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
