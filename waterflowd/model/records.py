"""What the log hands out and takes in, apart from the events themselves: records, batches, summaries, requests.

Rules of this file: pure data, shared by the host, the store and the API so that none of them needs another's insides.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from waterflowd.model.ids import AttemptId, RunId, StreamName
from waterflowd.model.reasons import Reason
from waterflowd.model.statuses import Conclusion, Status


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One event where it stands in the log."""

    #: Place in the whole log, ascending, from 1.
    seq: int
    stream: StreamName
    #: Place in its stream, from 1 without gaps. `?at=SEQ` and `--at SEQ` mean this number.
    position: int
    #: The log's time when the event was decided, in ms.
    at: int
    event: Any


class StreamAppend(msgspec.Struct, kw_only=True):
    """Events to add to one stream that must stand at `expected` (0 for a new one)."""

    stream: StreamName
    expected: int
    at: int
    events: list[Any]


class TriggerKind(StrEnum):
    """What can start a run."""

    #: A change of a ref in a repository.
    PUSH = "push"
    #: The calendar, by `on.schedule`.
    SCHEDULE = "schedule"
    #: A signed request of another program.
    WEBHOOK = "webhook"
    #: The end of another run, by `on.workflow_run`.
    WORKFLOW_RUN = "workflow_run"
    #: A step of another run.
    PARENT_RUN = "parent_run"
    #: A client of the API that sent the workflow.
    API = "api"
    #: `waterflowctl run FILE`.
    CLI = "cli"
    #: A person or program that started a workflow of a repository.
    MANUAL = "manual"
    #: A re-run of an earlier run.
    RERUN = "rerun"


class Trigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What started a run."""

    kind: TriggerKind
    #: The principal: a token's name, `uid:N`, the author of the push, `schedule`, `hook:NAME` or `run:ID`.
    by: str = ""
    #: Unique key of the trigger; a second start with it gives the first one's run.
    key: str | None = None
    ref: str | None = None
    #: The commit's facts for the `git` context.
    git: dict[str, Any] = {}
    #: The payload for the `event` context; a run's row in the index has none.
    payload: dict[str, Any] = {}


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The row of a run in lists: an index over the log that can be rebuilt from it."""

    id: RunId
    #: 1 for the first run of the workflow.
    number: int
    name: str
    path: str
    repository: str | None = None
    revision: str | None = None
    trigger: Trigger
    status: Status
    conclusion: Conclusion | None = None
    reason: Reason
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    #: Position of the run's newest event when this row was written.
    seq: int
    #: The run that this one does again, as a whole or in part.
    rerun_of: RunId | None = None


class Batch(msgspec.Struct, kw_only=True):
    """Everything that one transaction makes durable together."""

    appends: list[StreamAppend] = []
    #: Content by hash; a plan that is there already is left as it is.
    plans: dict[str, bytes] = {}
    #: Rows of runs whose status, conclusion or reason changed; the set of open runs follows from them.
    summaries: list[RunSummary] = []
    #: Trigger keys and the runs that they started.
    keys: dict[str, RunId] = {}
    #: New values of counters, such as the last run number of a workflow.
    counters: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to commit."""
        return not (self.appends or self.plans or self.summaries or self.keys or self.counters)


class KeptJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job of the earlier run."""

    conclusion: Conclusion
    outputs: dict[str, Any] = {}


class KeptStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step of the earlier run."""

    outcome: Conclusion
    conclusion: Conclusion
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run takes over from the run that it is a re-run of, instead of doing it again."""

    run: RunId
    #: Finished jobs by id.
    jobs: dict[str, KeptJob] = {}
    #: Finished steps of jobs that are not kept as a whole, by job and step.
    steps: dict[str, dict[str, KeptStep]] = {}
    #: The servers of jobs with `target: each` that are done again, by job; jobs that are not named take all.
    servers: dict[str, list[str]] = {}


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start one run of a compiled plan. Inputs are checked and typed already."""

    plan: bytes
    trigger: Trigger
    repository: str | None = None
    revision: str | None = None
    inputs: dict[str, Any] = {}
    #: Laid over the file's own `vars`.
    vars: dict[str, Any] = {}
    #: Of a re-run: the run that it does again, and what it takes over of it.
    rerun_of: RunId | None = None
    kept: Kept | None = None
    #: Digests of the plan's `hashed` patterns over the tree of the revision.
    hashes: dict[str, str] = {}
    #: Other trigger keys under which the same request may have started its run already.
    earlier_keys: tuple[str, ...] = ()


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """The files that a job's working directory begins with: those of a revision that the patterns choose."""

    repository: str
    revision: str
    #: None stand for every file.
    patterns: tuple[str, ...] = ()


class FilesListed(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkout holds: the list as an agent gets it (`waterflow_agent.checkout.file_list`), and the Git ids in it."""

    content: bytes
    blobs: frozenset[bytes]


class OutputPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an output log: where it begins (bytes), when it was printed (ms), on which stream (1 or 2), and what."""

    offset: int
    at: int
    stream: int
    data: bytes


class OutputAppend(msgspec.Struct, frozen=True, kw_only=True):
    """Pieces to add to one output log, in order and without gaps from the first one's offset on."""

    attempt: AttemptId
    pieces: list[OutputPiece]
