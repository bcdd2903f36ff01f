"""The store of artifacts as files: what a backup copies, and what a check reads.

Rules of this file: a backup lists records and blocks while it holds a shared lock on the directory, so nothing of them is
removed meanwhile (`removable` takes the lock exclusively, and never waits for it). A record is listed before its blocks, and is
written after its blocks, so the copy has all blocks of its records. Content in a bucket is not part of either.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.artifacts.records import decode
from waterflowd.artifacts.store import ArtifactStore, local_blocks_of
from waterflowd.model.ids import RunId


class ArtifactFindings(msgspec.Struct, kw_only=True):
    """What a check has counted."""

    artifacts: int = 0
    blocks: int = 0


@contextlib.contextmanager
def all_kept(root: Path) -> Iterator[None]:
    """Inside the block nothing below the directory is removed, whichever process does it."""
    with _locked(root, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def removable(root: Path) -> Iterator[bool]:
    """Whether something may be removed inside the block: False while a backup reads."""
    with _locked(root, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_locked:
        yield is_locked


@contextlib.contextmanager
def _locked(root: Path, operation: int) -> Iterator[bool]:
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(folder, operation)
            is_locked = True
        except BlockingIOError:
            is_locked = False
        yield is_locked
    finally:
        os.close(folder)


def files_in(root: Path) -> Iterator[Path]:
    """The records, and the blocks that they have. Raises `Stalled` WF304 for a damaged record or table."""
    store = ArtifactStore(root, ArtifactLimits())
    listed: set[Path] = set()
    for run in store.records.runs():
        for path in store.records.paths(run):
            record = decode(path)
            blocks = [store.blocks.path(record.scope, digest) for digest in local_blocks_of(store, record)]
            yield path
            yield from (block for block in blocks if block not in listed)
            listed.update(blocks)


def examine(root: Path) -> ArtifactFindings:
    """Reads every artifact. Raises `Stalled` WF304 for the first that is damaged, with its run and its name."""
    store = ArtifactStore(root, ArtifactLimits())
    found = ArtifactFindings()
    checked: set[tuple[str, bytes]] = set()
    for run in store.records.runs():
        for record in store.records.of_run(run):
            if record.removal is not None:
                continue
            try:
                for digest in local_blocks_of(store, record):
                    if (record.scope, digest) not in checked:
                        store.blocks.get(record.scope, digest, sets_aside=False)
                        checked.add((record.scope, digest))
                store.listing(record)
            except WaterflowError as error:
                raise _damaged(run, record.name, error) from error
            found.artifacts += 1
    found.blocks = len(checked)
    return found


def salvageable(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Every artifact, as a name for people, with its files; without files if any of them is damaged."""
    store = ArtifactStore(root, ArtifactLimits())
    for run in store.records.runs():
        for path in store.records.paths(run):
            name = f"{run}/{path.name}"
            try:
                record = decode(path)
                name = f"{record.name} of {run}"
                digests = list(local_blocks_of(store, record))
                for digest in digests:
                    store.blocks.get(record.scope, digest, sets_aside=False)
            except (WaterflowError, OSError):
                yield name, []
            else:
                yield name, [path, *(store.blocks.path(record.scope, digest) for digest in digests)]


def _damaged(run: RunId, name: str, error: WaterflowError) -> Stalled:
    return Stalled(
        "WF304",
        f'artifact "{name}" of run {run} is damaged: {error.text}; re-run the job that stored it, or restore a backup',
    )
