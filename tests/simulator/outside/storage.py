"""Storage: the daemon's log and output logs, and an agent's journal.

Rules of this file: a process may be killed at a write, just before or just after it has become durable; a disk may be
full for a while; a power cut loses what the journal had not flushed. Reads never fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from tests.simulator.environment import Environment
from tests.simulator.loop import Killed, Process
from tests.simulator.outside.disk import Disk, Segment
from waterflow_agent.errors import Retryable
from waterflow_agent.state import journal
from waterflow_agent.state.ledger import records as ledger_records
from waterflowd.model.records import Batch, OutputAppend
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs

#: Number of records after which a journal starts a new segment.
SEGMENT_RECORDS = 30


class Log(MemoryLog):
    """`ports.Journal` of one daemon process, over a memory log that outlives it."""

    def __init__(self, environment: Environment, process: Process, memory: MemoryLog) -> None:
        # Both objects share one log: what either of them writes, both have.
        self.__dict__ = memory.__dict__
        self._outside = (environment, process)

    def append(self, batch: Batch) -> Awaitable[int]:
        """Makes the batch durable some milliseconds later, or never."""
        return self._append(batch)

    async def _append(self, batch: Batch) -> int:
        environment, process = self._outside
        environment.observer.before_commit()
        await _commit_time(environment)
        if environment.is_daemon_disk_full:
            raise Retryable("WF302", "no space left for the log", after_s=1.0)
        if environment.chance.happens("commit: killed before"):
            environment.kill_daemon(process, "before a commit")
            await environment.never()
        sequence = self.append_blocking(batch)
        environment.observer.committed(batch)
        if environment.chance.happens("commit: killed after"):
            environment.kill_daemon(process, "after a commit")
            await environment.never()
        return sequence


class OutputLogs(MemoryOutputLogs):
    """`ports.LocalOutputLogs` of one daemon process; `memory` outlives it."""

    def __init__(self, environment: Environment, process: Process, memory: MemoryOutputLogs) -> None:
        super().__init__()
        self._environment = environment
        self._process = process
        self._logs = memory._logs

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Makes the output durable some milliseconds later, or never."""
        return self._append(pieces)

    async def _append(self, pieces: Sequence[OutputAppend]) -> list[int]:
        environment = self._environment
        await _commit_time(environment)
        if environment.is_daemon_disk_full:
            raise Retryable("WF302", "no space left for output", after_s=1.0)
        if environment.chance.happens("output: killed before"):
            environment.kill_daemon(self._process, "before an append of output")
            await environment.never()
        sizes = await super().append(pieces)
        if environment.chance.happens("output: killed after"):
            environment.kill_daemon(self._process, "after an append of output")
            await environment.never()
        return sizes


async def _commit_time(environment: Environment) -> None:
    chance = environment.chance
    await environment.sleep(
        chance.dice.uniform(0.2, 2.5) if chance.happens("commit slow") else chance.delay_s(0.0005, 0.01)
    )


class Journal(journal.Journal):
    """An agent's journal: the real records in memory, flushed and lost as on a disk."""

    def __init__(self, environment: Environment, process: Process, disk: Disk) -> None:
        self._environment = environment
        self._process = process
        self._disk = disk

    @property
    def is_large(self) -> bool:
        """Returns true early, so that segments change often."""
        return len(self._disk.segments[-1].frames) > SEGMENT_RECORDS

    def read(self) -> tuple[str, list[ledger_records.LedgerRecord | ledger_records.ReleasedRecord]]:
        """Returns the boot id and the facts; a snapshot replaces everything before it."""
        boot_id = ""
        facts: list[ledger_records.LedgerRecord | ledger_records.ReleasedRecord] = []
        for segment in self._disk.segments:
            for frame in segment.frames:
                record = journal._decoder.decode(frame)
                if isinstance(record, ledger_records.SnapshotRecord):
                    boot_id, facts = record.boot_id, list(record.records)
                else:
                    facts.append(record)
        return boot_id, facts

    def begin(self, boot_id: str, facts: list[ledger_records.LedgerRecord]) -> None:
        """Starts a new segment."""
        self._check("a segment")
        snapshot = ledger_records.SnapshotRecord(ledger_records.VERSION, boot_id, facts)
        self._disk.segments.append(Segment(journal._encoder.encode(snapshot)))

    def append(self, facts: Sequence[ledger_records.LedgerRecord | ledger_records.ReleasedRecord]) -> None:
        """Adds records to the newest segment."""
        if not facts or self._process.is_dead:
            return
        self._check("a record")
        if self._environment.chance.happens("journal: killed before"):
            self._environment.kill_agent(self._process, "before its journal was written")
            raise Killed
        self._disk.segments[-1].frames += [journal._encoder.encode(fact) for fact in facts]
        if self._environment.chance.happens("journal: killed after"):
            self._environment.kill_agent(self._process, "after its journal was written")
            raise Killed

    def flush(self) -> None:
        """Makes everything durable and removes older segments."""
        if self._process.is_dead:
            return
        segment = self._disk.segments[-1]
        segment.flushed = len(segment.frames)
        self._disk.segments = [segment]

    def close(self) -> None:
        """Does nothing, because nothing is open."""

    def _check(self, what: str) -> None:
        if self._disk.is_full:
            raise Retryable("WF302", f"no space left for {what}", after_s=1.0)
