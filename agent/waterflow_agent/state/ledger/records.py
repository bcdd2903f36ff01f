"""What the journal keeps: facts about attempts, in the order in which they became true.

Rules of this file: a record is a tagged array; new fields come last and have a default. No record holds an environment
or parameters, because these may carry secrets. So an attempt that was accepted and never given to the runner cannot be
started by a later process of the agent; it is refused, which says that nothing of it ran.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.wire import messages

#: Rises when an older agent would misread a journal.
VERSION = 1


class AcceptedRecord(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The attempt is this agent's; written before its process can exist."""

    key: messages.TaskKey
    node: str
    step_name: str
    at: int
    #: Number of the directory with the step's files; 0 for none.
    place: int = 0
    #: Its secrets are in the mask book; what it has to say is masked.
    has_secrets: bool = False


class StartedRecord(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    """Its process runs since `at`; written lazily, as the runner knows it too."""

    key: messages.TaskKey
    at: int


class FinishedRecord(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """It is over, and all here is masked.

    `printed` is the output that is in no file; it follows what the spool holds, if `has_spool`.
    """

    result: messages.Finished
    printed: list[messages.OutputChunk]
    has_spool: bool
    has_secrets: bool = False


class ReleasedRecord(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """The daemon has the result and the output, or wants neither."""

    key: messages.TaskKey


class SnapshotRecord(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """Opens a segment: all that is held now. It takes the place of everything before it."""

    version: int
    boot_id: str
    records: list[AcceptedRecord | StartedRecord | FinishedRecord]


LedgerRecord = AcceptedRecord | StartedRecord | FinishedRecord
Record = AcceptedRecord | StartedRecord | FinishedRecord | ReleasedRecord | SnapshotRecord
