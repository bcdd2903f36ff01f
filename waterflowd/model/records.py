"""Types read from and written to the log, apart from the events themselves: records, batches, summaries, requests.

Rules of this file: pure data, shared by the host, the store and the API so that they do not depend on one another's internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from waterflowd.model.ids import AgentId, AttemptId, RunId, StreamName
from waterflowd.model.reasons import Reason
from waterflowd.model.reports import ReportCells
from waterflowd.model.statuses import FAILURES, Conclusion, Status


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One event with its position in the log."""

    #: Position in the whole log, ascending, from 1.
    seq: int
    stream: StreamName
    #: Position in its stream, from 1 without gaps. `?at=SEQ` and `--at SEQ` refer to this number.
    position: int
    #: The log's time when the event was decided, in ms.
    at: int
    event: Any


class StreamAppend(msgspec.Struct, kw_only=True):
    """Events to append to one stream whose position must be `expected` (0 for a new one)."""

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
    #: For people: the principal, the author of the push, `schedule`, `hook:NAME` or `run:ID`.
    by: str = ""
    #: The authenticated principal that started the run, or an earlier run that led to it: a token's name or `uid:N`. None for
    #: a push, a schedule, a webhook and an open address. Never the author of a commit, which anyone can forge.
    principal: str | None = None
    #: The groups of that principal's token, which the run may use, and everything that follows from it; None: all.
    scope: tuple[str, ...] | None = None
    #: For a child run: all of its attempts are exclusive, because its end may start something that must not run beside it.
    is_exclusive: bool = False
    #: Unique key of the trigger; a second start with the same key returns the first run.
    key: str | None = None
    ref: str | None = None
    #: The commit's facts for the `git` context.
    git: dict[str, Any] = {}
    #: The payload for the `event` context; a run's row in the index has none.
    payload: dict[str, Any] = {}

    @property
    def author(self) -> str:
        """For whom the run acts: the principal, or for a run without one, what the trigger names."""
        return self.principal or self.by


class FirstFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a run that failed first: `JOB/STEP`, or `JOB` if none of its steps failed."""

    part: str
    #: The name of the server; empty if it was not on one.
    agent: str = ""
    reason: Reason


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
    #: The run that this one re-runs, as a whole or in part.
    rerun_of: RunId | None = None
    #: Jobs so far, without those that became others; how many of them are completed, and how many of these failed.
    jobs: int = 0
    jobs_completed: int = 0
    jobs_failed: int = 0
    first_failure: FirstFailure | None = None
    #: Groups and servers that the run has used so far; None: more than `NAMES_MAX`.
    groups: tuple[str, ...] | None = ()
    servers: tuple[str, ...] | None = ()


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list; None matches all. Data and not a function, so that an index elsewhere can search for it."""

    #: A status or a conclusion, or several separated by commas.
    status: str | None = None
    #: The workflow's name or path.
    name: str | None = None
    #: Text in the workflow's name or path, in lower case.
    text: str | None = None
    #: For whom the run acts (`Trigger.author`).
    by: str | None = None
    path: str | None = None
    repository: str | None = None
    trigger: str | None = None
    #: The whole name, such as `refs/heads/main`.
    ref: str | None = None
    #: The beginning of a revision.
    revision: str | None = None
    #: The earliest creation, in ms.
    since_at: int | None = None
    #: The latest creation, in ms.
    until_at: int | None = None
    #: Only runs that failed: a conclusion for which `failure()` is true.
    has_failed: bool = False
    #: A group or server that the run has used. A run with more of them than its row names is listed for each.
    group: str | None = None
    server: str | None = None

    def matches(self, row: RunSummary) -> bool:
        """Whether the row belongs in the list."""
        conclusion = row.conclusion.value if row.conclusion is not None else None
        return (
            (self.status is None or not {row.status.value, conclusion}.isdisjoint(self.words))
            and self.matches_workflow(row.repository, row.path, row.name)
            and (self.by is None or self.by == row.trigger.author)
            and (self.trigger is None or self.trigger == row.trigger.kind)
            and (self.ref is None or self.ref == row.trigger.ref)
            and (self.revision is None or (row.revision or "").startswith(self.revision))
            and (self.since_at is None or row.created_at >= self.since_at)
            and (self.until_at is None or row.created_at <= self.until_at)
            and (not self.has_failed or row.conclusion in FAILURES)
            and (self.group is None or row.groups is None or self.group in row.groups)
            and (self.server is None or row.servers is None or self.server in row.servers)
        )

    @property
    def words(self) -> frozenset[str]:
        """The statuses and conclusions; empty: all."""
        return frozenset(self.status.split(",")) if self.status is not None else frozenset()

    def matches_workflow(self, repository: str | None, path: str, name: str) -> bool:
        """Whether runs of a workflow can be in the list."""
        return (
            (self.name is None or self.name in (name, path))
            and (self.path is None or self.path == path)
            and (self.repository is None or self.repository == repository)
            and (self.text is None or self.text in name.lower() or self.text in path.lower())
        )


class RunCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs a filter selects."""

    #: By status, or by conclusion for completed runs.
    counts: dict[str, int]
    total: int
    #: Whether there may be more of them.
    has_more: bool


class RemovalRule(StrEnum):
    """Why a run or its output was removed: a key of `[retention]`."""

    RUN_AGE = "run-max-age"
    FAILED_RUN_AGE = "failed-run-max-age"
    RUN_COUNT = "runs-per-workflow"
    OUTPUT_AGE = "output-max-age"
    OUTPUT_SIZE = "output-max-bytes"


class RemovedRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a removed run."""

    id: RunId
    #: When it was removed, in ms.
    at: int
    rule: RemovalRule
    number: int
    name: str
    path: str
    repository: str | None = None
    #: What started it, and may start another run from now on.
    trigger_key: str | None = None


class RemovedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """When the output of a run was removed, in ms, and by which rule."""

    at: int
    rule: RemovalRule


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of a run, or of its output, that one transaction can remove."""

    run: RunId
    events: int
    #: Bytes of these events, and of the output that is removed with them.
    bytes: int
    #: Whether nothing is left after it.
    is_whole: bool
    #: For the log that has made it.
    detail: Any


#: A piece, and what is remembered of its run.
RemovedPiece = tuple[Removal, RemovedRun | RemovedOutput]


class Batch(msgspec.Struct, kw_only=True):
    """Everything that one transaction makes durable together."""

    appends: list[StreamAppend] = []
    #: Content by hash; a plan that is already stored is not changed.
    plans: dict[str, bytes] = {}
    #: Rows of runs whose status, conclusion or reason changed; the set of open runs follows from them.
    summaries: list[RunSummary] = []
    #: Trigger keys and the runs that they started.
    keys: dict[str, RunId] = {}
    #: New values of counters, such as the last run number of a workflow.
    counters: dict[str, int] = {}
    #: The plan of each run that begins.
    plan_uses: list[str] = []
    #: Pieces of completed runs to remove, with what is remembered of each; the batch needs an event of another stream.
    removed_runs: list[tuple[Removal, RemovedRun]] = []
    #: Pieces of runs' output to remove; the batch needs an event.
    removed_output: list[tuple[Removal, RemovedOutput]] = []

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to commit."""
        return not (self.appends or self.plans or self.summaries or self.keys or self.counters)


class ReusedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reused job of the earlier run."""

    conclusion: Conclusion
    outputs: dict[str, Any] = {}
    report: ReportCells | None = None


class ReusedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reused step of the earlier run."""

    outcome: Conclusion
    conclusion: Conclusion
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}


class KeptDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """The server that has kept the directory of a job of the earlier run."""

    agent: AgentId
    agent_name: str


class Reused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a re-run reuses from the earlier run instead of running it again."""

    run: RunId
    #: Finished jobs by id.
    jobs: dict[str, ReusedJob] = {}
    #: Finished steps of jobs that are not reused as a whole, by job and step.
    steps: dict[str, dict[str, ReusedStep]] = {}
    #: The servers on which jobs with `target: each` run again, by job; jobs without an entry use all servers.
    servers: dict[str, list[str]] = {}
    #: Jobs that start at a step in the directory of the same job of the earlier run, by job.
    directories: dict[str, KeptDirectory] = {}


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start one run of a compiled plan. Inputs are checked and typed already."""

    plan: bytes
    trigger: Trigger
    repository: str | None = None
    revision: str | None = None
    inputs: dict[str, Any] = {}
    #: Override the file's own `vars`.
    vars: dict[str, Any] = {}
    #: Of a re-run: the original run, and what is reused from it.
    rerun_of: RunId | None = None
    reused: Reused | None = None
    #: Digests of the plan's `hashed` patterns over the tree of the revision.
    hashes: dict[str, str] = {}
    #: Other trigger keys under which the same request may have started its run already.
    earlier_keys: tuple[str, ...] = ()


class HeldAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that an agent has or had, by the recorded facts."""

    name: AttemptId
    epoch: int
    agent: AgentId
    #: The name and boot of the server to which it was dispatched, and when, in ms.
    agent_name: str
    boot_id: str
    dispatched_at: int
    #: The repository of its run; None for a workflow that was sent to the API.
    repository: str | None
    is_open: bool
    #: The agent has reported its start.
    is_started: bool
    #: Size of its whole output log by the report of its end, in bytes; 0 without one.
    output_bytes: int
    #: How much of its output is kept, in bytes.
    output_bytes_max: int
    #: How long after the last confirmation an attempt with a lease has certainly ended, in ms; 0 for one without a lease.
    lease_over_ms: int
    #: False while only the agent says that it has the attempt: its output must wait (`Attempts.confirm`).
    is_certain: bool = True

    def is_of(self, agent: AgentId, epoch: int) -> bool:
        """Whether the agent has or had it under this lease."""
        return self.agent == agent and self.epoch == epoch


class CheckoutPart(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a repository in a job's working directory."""

    #: The name of another repository; empty for the run's own.
    repository: str = ""
    #: A branch, tag or commit; empty for the run's commit, or the default branch of another repository.
    ref: str = ""
    #: Empty: all files.
    patterns: tuple[str, ...] = ()
    #: The directory that gets the files; empty for the job's own.
    path: str = ""
    #: Whether there is a `.git` with all of the repository's commits.
    history: bool = False
    submodules: bool = False
    #: The full name of the branch or tag that the run is for; empty for a commit.
    head: str = ""
    #: Whether there is a `.git` with the one commit.
    shallow: bool = False
    #: Whether files in Git LFS have their contents.
    lfs: bool = False


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """The initial files of a job's working directory: those of a revision that match the patterns, or of the parts."""

    #: The run's own.
    repository: str
    revision: str
    #: Empty: all files.
    patterns: tuple[str, ...] = ()
    #: What the directory has if that is not simply the files of the revision; then there are no patterns.
    parts: tuple[CheckoutPart, ...] = ()


class FilesListed(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a checkout: the list as an agent receives it (`waterflow_agent.checkout.file_list`), and its Git ids."""

    content: bytes
    blobs: frozenset[bytes]
    #: The repositories of files that are not in the run's own, or not in its mirror, by the files' Git ids.
    repositories: Mapping[bytes, str] = {}
    #: Files that are not in the repository, by their Git ids: those of `.git`, and contents in Git LFS. Their content, or the
    #: path of a file with it.
    made: Mapping[bytes, bytes | str] = {}


#: The stream of the piece that counts what the daemon did not store; it is the last one of its log.
CUT_STREAM = 3


class StoredObject(msgspec.Struct, frozen=True):
    """An object in a bucket."""

    #: The last part of its key.
    name: str
    #: In bytes.
    size: int
    stored_at: datetime


class OutputPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an output log: its offset (bytes), time (ms), stream (1, 2 or `CUT_STREAM`) and content."""

    offset: int
    at: int
    stream: int
    data: bytes


class OutputAppend(msgspec.Struct, frozen=True, kw_only=True):
    """Pieces to append to one output log, in order and without gaps from the first one's offset."""

    attempt: AttemptId
    pieces: list[OutputPiece]
