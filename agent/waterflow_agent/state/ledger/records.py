"""What the journal stores: facts about attempts, in the order in which they happened.

Rules of this file: a record is a tagged array; new fields come last and have a default. No record holds an environment or
parameters, because these may contain secrets. So a later process of the agent cannot start an attempt that was accepted but
never handed to the runner: it refuses the attempt, which tells the daemon that nothing ran.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.wire import messages

#: Increased when an older agent would misread the journal.
VERSION = 1


class AcceptedRecord(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """This agent has accepted the attempt; written before its process is started."""

    key: messages.TaskId
    node: str
    step_name: str
    at: int
    #: Number of the directory with the step's files; 0 for none.
    directory: int = 0
    #: Its secrets are in the secret store; output, outputs and reasons are masked.
    has_secrets: bool = False


class StartedRecord(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    """Its process has been running since `at`; written lazily, because the runner knows it too."""

    key: messages.TaskId
    at: int


class FinishedRecord(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """It has ended; everything in here is masked.

    `printed` is output that is in no file; it follows what the spool holds, if `has_spool`.
    """

    result: messages.Finished
    printed: list[messages.OutputChunk]
    has_spool: bool
    has_secrets: bool = False


class ReleasedRecord(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """The daemon has the result and the output, or does not want them."""

    key: messages.TaskId


class SnapshotRecord(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """The first record of a segment: everything that is held. It replaces all records before it."""

    version: int
    boot_id: str
    records: list[AcceptedRecord | StartedRecord | FinishedRecord]


LedgerRecord = AcceptedRecord | StartedRecord | FinishedRecord
Record = AcceptedRecord | StartedRecord | FinishedRecord | ReleasedRecord | SnapshotRecord
