"""Opens a data directory: the order in which the parts of the store start, and stop.

Lock, format, check in a child process, LMDB, newest record, generation, threads. A failure undoes the steps before it, so
that a second try finds the directory unlocked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lmdb

import waterflowd
from waterflow_agent.errors import Stalled
from waterflowd.artifacts import files as artifact_files
from waterflowd.model.ids import StreamName
from waterflowd.store import check, copying, directory, health, layout
from waterflowd.store import environment as environment_files
from waterflowd.store import log as event_log
from waterflowd.store.ballast import Ballast
from waterflowd.store.codec import Codec
from waterflowd.store.environment import Environment
from waterflowd.store.health import FailureLatch
from waterflowd.store.output_files import OutputFiles
from waterflowd.store.outputs import LmdbOutputLogs
from waterflowd.store.rows import find
from waterflowd.store.sealing import SealKey
from waterflowd.store.writer import GENERATION_KEY, Writer


class Store:
    """An open data directory: its log and its output logs. A context manager that closes itself."""

    def __init__(
        self, log: event_log.LmdbLog, outputs: LmdbOutputLogs, *, environment: Environment, undo: contextlib.ExitStack
    ) -> None:
        self.log = log
        self.outputs = outputs
        self._environment = environment
        self._undo = undo

    def verify(self) -> check.Findings:
        """Reads and checks the whole log. Raises `Stalled` WF304, which names the first bad record."""
        return check.verify(self._environment)

    def close(self) -> None:
        """Commits what was submitted, ends the threads, and unlocks the directory. May be called again."""
        self._undo.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(
    path: Path,
    unions: Mapping[str, Any] | Codec,
    *,
    on_poison: Callable[[Stalled], None] | None = None,
    wait_s: float = directory.LOCK_WAIT_S,
    map_bytes: int = layout.MAP_BYTES,
    ballast_bytes: int = layout.BALLAST_BYTES,
    is_rescue: bool = False,
    seals: Mapping[StreamName, SealKey] = MappingProxyType({}),
) -> Store:
    """Opens a data directory, creating it if necessary. Blocks; call it before the event loop serves requests.

    `unions` are the event unions by kind of stream. `seals` are the keys of streams whose new records are sealed.
    `on_poison` is called once, on the thread that found the error, when the store stops for good: the daemon should exit and
    restart. Raises `Stalled` WF310 when another daemon has locked the directory, WF311 when a newer release wrote it, WF304
    when it is damaged, WF306 when the check could not finish, and the errors of `directory.open_directory`. With `is_rescue`
    it opens the unfinished copy that the caller is making, with a generation that no daemon of the original has used.
    """
    with contextlib.ExitStack() as undo:
        held = directory.open_directory(path, wait_s=wait_s, is_rescue=is_rescue)
        undo.callback(held.close)
        check.check_in_child(held.path)
        environment_path = held.path / layout.ENVIRONMENT_DIRECTORY
        environment_files.make(environment_path)
        if held.format.state is directory.State.EMPTY:
            directory.write_format(held.path, directory.State.DATA)
        environment = Environment(environment_path, map_bytes=map_bytes)
        undo.callback(environment.close)
        last_seq, last_at = event_log.newest(environment)
        ballast = Ballast(held.path, size_bytes=ballast_bytes)
        undo.callback(ballast.release)
        generation = _next_generation(environment, ballast, is_rescue=is_rescue)
        latch = FailureLatch(on_poison)
        writer = Writer(environment, generation, ballast=ballast, latch=latch)
        writer.start(last_seq, last_at)
        undo.callback(writer.close)
        outputs = LmdbOutputLogs(
            environment, writer, files=OutputFiles(held.path / layout.OUTPUT_DIRECTORY), latch=latch
        )
        undo.callback(outputs.close)
        codec = unions if isinstance(unions, Codec) else Codec(unions)
        log = event_log.LmdbLog(environment, writer, codec=codec, latch=latch, generation=generation, seals=seals)
        return Store(log, outputs, environment=environment, undo=undo.pop_all())


def examine(path: Path, seals: Mapping[StreamName, Sequence[SealKey]] = MappingProxyType({})) -> check.Findings:
    """Checks every page, every record and every artifact of a data directory that no daemon uses, or of a backup.

    Changes nothing.

    `seals` are the known keys of streams that may be sealed.

    Raises `Stalled` WF310 when a daemon uses it, WF304 for the first damage, and WF311 to WF314 for any other directory.
    """
    found = directory.admit(path, may_be_backup=True)
    with contextlib.ExitStack() as undo:
        undo.enter_context(directory.held(path))
        if found.state is directory.State.BACKUP:
            copying.check_files(path)
        check.check_in_child(path, is_thorough=True)
        environment = Environment(path / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
        undo.callback(environment.close)
        found_records = check.verify(environment, seals)
        artifacts = artifact_files.examine(path / layout.ARTIFACT_DIRECTORY)
        return found_records._replace(artifacts=artifacts.artifacts)


def _next_generation(environment: Environment, ballast: Ballast, *, is_rescue: bool) -> int:
    """Takes the next generation, durably; releases the ballast if necessary.

    For a rescue, the original's daemon may have used generations that the copy does not know. The wall clock in milliseconds
    is above all of them: each start takes one generation, and no start takes less than a millisecond.
    """
    while True:
        try:
            with environment.begin_write() as transaction:
                meta = environment.database("meta")
                generation = int(find(environment, transaction, "meta", GENERATION_KEY) or 0) + 1
                if is_rescue:
                    generation = max(generation, time.time_ns() // 1_000_000)
                for key, text in ((GENERATION_KEY, str(generation)), (b"release", waterflowd.__version__)):
                    transaction.put(key, layout.seal(key, text.encode()), db=meta)
            return generation
        except lmdb.Error as error:
            if not health.is_disk_full(error, environment.path.parent):
                raise health.poisoned(error) from error
            if not ballast.release():
                raise health.disk_full(environment.path.parent) from error
