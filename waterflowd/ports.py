"""The ports: interfaces that the core requires from its adapters, and interfaces that it offers to them.

Each Protocol documents ordering, idempotency, thread-safety and errors. In-memory implementations are in `waterflowd.testing`
and pass the same contract tests as the real adapters. Unless stated otherwise, call methods only on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from waterflow_agent.wire import messages
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.engine import inputs
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId, StepId, StreamName
from waterflowd.model.output_pieces import LineMark
from waterflowd.model.records import (
    Batch,
    Checkout,
    FilesListed,
    HeldAttempt,
    OutputAppend,
    OutputPiece,
    Record,
    Removal,
    RemovedOutput,
    RemovedRun,
    RunCounts,
    RunFilter,
    RunSummary,
    StartRequest,
    StoredObject,
)


class Journal(Protocol):
    """The log engine's event log: streams of events with one global sequence, durable when `append` returns.

    Its reads are for its only writer, the driver, and for what runs in step with it. All other readers use `History`.
    """

    @property
    def generation(self) -> int:
        """Increases each time the data directory is opened or restored; attempts carry it as their epoch."""
        ...

    @property
    def is_disk_low(self) -> bool:
        """True from the first full disk until there is space again: running work may finish, no new work may start."""
        ...

    def append(self, batch: Batch) -> Awaitable[int]:
        """Makes the batch durable in one transaction, completely or not at all; returns the last global sequence.

        Batches are committed in the order of the calls. Several may share a transaction (group commit); a batch with invalid
        content does not affect the others. Raises `Stalled` WF301 when a stream is not at the expected position or another
        daemon has opened the directory, and `Retryable` WF302 when the disk is full (nothing was written; the daemon is
        read-only until there is space again). After an I/O error every call raises `Stalled` WF303.
        """
        ...

    def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """Durable records of a stream from position `first`, in order. Raises `Stalled` WF304 for a damaged record."""
        ...

    def head(self, stream: StreamName) -> int:
        """Position of the stream's newest durable event; 0 for an empty stream."""
        ...

    @property
    def last_seq(self) -> int:
        """Global sequence of the newest durable record."""
        ...

    @property
    def last_at(self) -> int:
        """The log's time of the newest durable record in ms; 0 for an empty log."""
        ...

    def feed(self, after_seq: int, limit: int) -> list[Record]:
        """At most `limit` durable records of all streams with a global sequence above `after_seq`, in order."""
        ...

    def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash; None if unknown."""
        ...

    def open_runs(self) -> Iterator[RunId]:
        """Runs that are not completed, oldest first."""
        ...

    def run(self, run: RunId) -> RunSummary | None:
        """The row of one run; None if unknown."""
        ...

    def runs(self, selected: RunFilter, *, before: RunId | None, limit: int) -> tuple[list[RunSummary], RunId | None]:
        """The selected rows older than `before`, newest first; and where to continue, or None at the end.

        One call examines at most 1,000 rows, so a page may be short or empty although more rows follow.
        """
        ...

    def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """Run ids that begin with `prefix` (case-insensitive), at most `limit`."""
        ...

    def run_for_key(self, key: str) -> RunId | None:
        """The run that a trigger key started, or None."""
        ...

    def counter(self, name: str) -> int:
        """Value of a counter; 0 if it was never set."""
        ...

    def removal(self, run: RunId, *, events_max: int, output_bytes_max: int) -> Removal:
        """The next piece of a completed run to remove (`Batch.removed_runs`): its output, and then its newest events.

        With `events_max` 0 only of its output (`Batch.removed_output`). A piece has at most so many events, and about so many
        bytes of output. Adding it fails with `Stalled` WF301 when the run has got events meanwhile.
        """
        ...

    def unfinished_removals(self) -> list[tuple[RunId, bool]]:
        """Runs of which a part is still to be removed, and whether it is only their output."""
        ...

    def removed_run(self, run: RunId) -> RemovedRun | None:
        """What is remembered of a removed run; None for any other, and for one that was removed long ago."""
        ...

    def removed_runs(self, after: RunId | None, limit: int) -> list[RemovedRun]:
        """What is remembered of removed runs, by ascending id after `after`."""
        ...

    def removed_output(self, run: RunId) -> RemovedOutput | None:
        """When and why the run's output was removed; None if it was not."""
        ...


class History(Protocol):
    """What was recorded, for readers: the API, time travel, re-runs, archives, live streams.

    It has only what is durable. It is asynchronous because another engine keeps its history elsewhere: lists may then be a
    second or two late, and `follow` is a long poll. Allows concurrent calls.
    """

    async def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """Records of a stream from position `first`, in order. Raises `Stalled` WF304 for a damaged record."""
        ...

    async def head(self, stream: StreamName) -> int:
        """Position of the stream's newest event; 0 for an empty stream."""
        ...

    def follow(self, stream: StreamName, after: int) -> AsyncIterator[Record]:
        """Records of a stream after position `after`, without a gap, as they become durable. Never ends."""
        ...

    def output_grew(self, run: RunId) -> Awaitable[None]:
        """Returns when more output of the run's attempts is durable, or an event of the run is."""
        ...

    async def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash; None if unknown."""
        ...

    async def run(self, run: RunId) -> RunSummary | None:
        """The row of one run; None if unknown."""
        ...

    async def runs(
        self, selected: RunFilter, *, before: RunId | None = None, limit: int
    ) -> tuple[list[RunSummary], RunId | None]:
        """The selected rows older than `before`, newest first; and where to continue, or None at the end.

        A page may be short or empty although more rows follow.
        """
        ...

    async def count_runs(self, selected: RunFilter) -> RunCounts:
        """How many runs are selected, by status or conclusion, as far as an engine can find out at once."""
        ...

    async def open_runs(self, limit: int) -> list[RunSummary]:
        """The rows of runs that are not completed, oldest first."""
        ...

    async def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """Run ids that begin with `prefix` (case-insensitive), at most `limit`."""
        ...

    async def run_for_key(self, key: str, repository: str | None) -> RunId | None:
        """The run of a repository, or of a workflow that was sent to the API, that a trigger key started; or None."""
        ...


class OutputLogs(Protocol):
    """The output of steps, one log per attempt, addressed by byte offset. Allows concurrent calls.

    Its storage may take time, and several daemons may share it: two of them may append the same bytes of one log at the same
    time, after its agent has changed from one to the other. Every method raises `Retryable` when the storage cannot be reached.
    """

    @property
    def collect_s(self) -> float:
        """How long output should be collected for one append, in s."""
        ...

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Makes output durable; returns each log's new size, in the order of the argument.

        Idempotent: known bytes are skipped, and a piece after a gap is ignored. The returned size says where to continue; for
        an append without pieces it is the durable size. Delays `Journal.append` by at most one transaction. Raises `Retryable`
        when nothing can be stored at the moment; a part of the output may be durable then. Raises `Stalled` WF304 when one of
        the logs is damaged; then the others are appended by themselves.
        """
        ...

    async def size(self, name: AttemptId) -> int:
        """Durable size in bytes, including what other daemons have stored; 0 for an unknown log."""
        ...

    async def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """Durable pieces from the one that contains `offset` (it may begin earlier), about `bytes_max` in total.

        Less than `bytes_max` is the rest of the log. Raises `Stalled` WF304 for damaged output.
        """
        ...

    async def line_marks(self, name: AttemptId) -> list[LineMark]:
        """Where lines are: ascending offsets with the newline bytes before each, at most about 1 MiB apart.

        The first one is offset 0, the last one the durable end. The first pieces that say what was left out have marks, too.
        Does not read the log. Raises `Stalled` WF304 for damaged output.
        """
        ...


class LocalOutputLogs(Protocol):
    """Output logs on the daemon's own disk, which are read at once."""

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """See `OutputLogs`."""
        ...

    def size(self, name: AttemptId) -> int:
        """See `OutputLogs`."""
        ...

    def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """See `OutputLogs`. Any thread may call it."""
        ...

    def line_marks(self, name: AttemptId) -> list[LineMark]:
        """See `OutputLogs`. Any thread may call it: for a log whose index was lost, it reads the log."""
        ...

    def stored_bytes(self) -> int:
        """Space that all output takes, in bytes. Any thread may call it; takes a while with many large logs."""
        ...

    def run_bytes(self, run: RunId) -> int:
        """Size of a run's output, in bytes."""
        ...

    def has_files(self, run: RunId) -> bool:
        """Whether the run has output outside the journal."""
        ...

    def runs_with_files(self) -> list[RunId]:
        """Runs with output outside the journal, which `remove_files` removes."""
        ...

    def forget(self, run: RunId) -> None:
        """The journal has begun to remove the run's output, which nobody writes any longer."""
        ...

    def remove_files(self, run: RunId) -> bool:
        """Removes a run's output outside the journal, after the journal has begun; False while a backup reads it.

        Any thread may call it. What is left after a crash is in `runs_with_files`.
        """
        ...


class Objects(Protocol):
    """Objects under keys such as `a/b/c`, on storage that several daemons share. Calls may overlap.

    A key's parts are letters, digits, `-`, `_` and `.`. Every method raises `Retryable` WF322 when the storage cannot be
    reached, is full, or refuses.
    """

    async def put(self, key: str, content: bytes) -> None:
        """Stores an object, completely or not at all; durable on return. Replaces one that is there already."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""
        ...

    async def names(self, folder: str) -> list[str]:
        """The last parts of all keys directly below `folder`, sorted. Includes everything that was stored before the call."""
        ...


class BucketObjects(Objects, Protocol):
    """Objects in a bucket, for artifacts. The methods raise as those of `Objects`."""

    def get_now(self, key: str) -> bytes | None:
        """As `get`. Blocks; for threads."""
        ...

    async def create(self, key: str, content: bytes) -> bool:
        """Stores an object as `put` does; False if there is one already, which stays."""
        ...

    async def size(self, key: str) -> int | None:
        """The size of an object; None if there is none."""
        ...

    async def folders(self, folder: str) -> list[str]:
        """The last parts of all folders directly below `folder`, sorted."""
        ...

    def pages(self, folder: str) -> AsyncIterator[list[StoredObject]]:
        """All objects below `folder`, up to a thousand at a time, each time with one request."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects, up to a thousand with one request; those that do not exist are no error."""
        ...


class Link(Protocol):
    """The connection to the agents. Delivery is not guaranteed: the next settlement sends again what was lost."""

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """Queues messages, sent in one frame at the end of this turn of the event loop. Dropped without a session."""
        ...

    def revoke(self, agent: AgentId) -> None:
        """Ends the agent's session at once; its key is refused from now on."""
        ...

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """Counts a message of the agent that the host rejected, logs some of them, and charges the agent for it.

        An agent that does not stop loses its connection.
        """
        ...


class AgentListener(Protocol):
    """Callbacks from the link to the host. Calls for one agent arrive in order."""

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskId]:
        """A session is about to open; returns the attempts that the agent should forget."""
        ...

    def connected(self, agent: AgentId) -> None:
        """The session is open: the host settles with the agent and sends what is outstanding."""
        ...

    def disconnected(self, agent: AgentId, text: str) -> None:
        """The session has ended: silence, a lost connection or a newer session. `text` says why, for people."""
        ...

    def received(
        self, agent: AgentId, reports: Sequence[messages.Started | messages.Finished], durable: Callable[[], None]
    ) -> None:
        """Numbered messages, in order. Calls `durable` once each of them is in the log or can be ignored."""
        ...

    def output(self, agent: AgentId, output: messages.Output) -> None:
        """Output of an attempt; the host answers with `OutputAck` once it is durable."""
        ...

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """Asks for files of a job; the host answers with `FileResponse` through the link."""
        ...

    def artifact_requested(self, agent: AgentId, request: messages.ArtifactRequest) -> None:
        """Asks for something about artifacts of a run; the host answers with `ArtifactResponse` through the link."""
        ...


class Attempts(Protocol):
    """The attempts of agents by the recorded facts: who has which, what an agent should still get, where its reports go."""

    def find(self, agent: AgentId, name: AttemptId) -> HeldAttempt | None:
        """The attempt, open or ended, that the agent has or had; None if it is not known to be the agent's.

        Agents choose `name`.
        """
        ...

    def is_foreign(self, agent: AgentId, key: messages.TaskId) -> bool:
        """Whether the agent certainly neither has nor had the attempt under this lease. If not, `confirm` finds out."""
        ...

    async def confirm(self, agent: AgentId, keys: Sequence[messages.TaskId]) -> list[HeldAttempt | None]:
        """Attempts of one run by its recorded facts, however long that takes to read; None for one that is not the agent's.

        `find` knows those of the agent from then on. Raises `WaterflowError` if it cannot be known now.
        """
        ...

    def open_attempts(self, agent: AgentId) -> list[HeldAttempt]:
        """The open attempts of the agent."""
        ...

    def ended(self, agent: AgentId, keys: Sequence[messages.TaskId]) -> list[messages.TaskId]:
        """Those of these attempts that are certainly not open on the agent under that lease; may be empty for now."""
        ...

    def has_job_ended(self, agent: AgentId, run_id: RunId, job_id: JobId) -> bool:
        """Whether the agent will get no more of the job. False for a stalled run, and for one without recorded facts."""
        ...

    def is_stalled(self, run: RunId) -> bool:
        """Whether the run takes no reports until a person has intervened: the agent must keep them."""
        ...

    def checkout(self, agent: AgentId, key: messages.TaskId) -> Checkout | None:
        """The files of the job of an open attempt of the agent; None without such an attempt, or if it has no files.

        Raises `Retryable` while it is not known yet.
        """
        ...

    def outstanding(self, agent: AgentId, key: messages.TaskId, *, is_held: bool) -> list[messages.DaemonMessage]:
        """What the agent should still get for its open attempt: the offer, unless the agent holds it, and its cancel."""
        ...

    def report(
        self,
        agent: AgentId,
        reports: Sequence[tuple[RunId, inputs.TaskReport]],
        durable: Callable[[], None] = lambda: None,
    ) -> None:
        """Hands reports about attempts of the agent to their runs, in order; repeated ones are harmless.

        Calls `durable` once these, and the agent's earlier ones, are recorded. A result of an ended attempt is recorded as
        evidence. There is no error: it takes as long as it takes.
        """
        ...

    def settle(self, agent: AgentId, hello: messages.Hello, call: Callable[[], None]) -> None:
        """The agent has opened a session: `hello` says what it holds, before any of its reports.

        Calls `call` once everything reported so far is recorded, and what it has led to for the agent is known; perhaps never,
        if the session ends before.
        """
        ...

    def confirms(self, agent: AgentId) -> bool:
        """Whether the daemon may confirm the agent's session, which extends the leases of its attempts. Called often."""
        ...

    def session_ended(self, agent: AgentId) -> None:
        """The agent's session has ended."""
        ...

    def servers_changed(self) -> None:
        """Servers have connected, disconnected or got free slots: requests that wait may get a slot now."""
        ...


class Enroller(Protocol):
    """Decides who may become an agent. Facts are durable when the methods return."""

    async def request(self, public_key: str, request: messages.EnrollRequest) -> messages.EnrollAnswer:
        """Answers an enrollment request from a connection that has proven this public key."""
        ...

    def is_approved(self, public_key: str) -> bool:
        """Whether the key may use the work port; called for each handshake and each frame."""
        ...


#: Reads a file of one revision by its path from the root; None if it does not exist.
FileReader = Callable[[str], Awaitable[bytes | None]]


class Compiler(Protocol):
    """Compiles files into plans in a warm child process with limits, so that a hostile file cannot stop the daemon."""

    async def compile(self, path: str, content: bytes, files: FileReader | None = None, *, client: str) -> Compiled:
        """Compiles one file. Never raises because of the file's content: a crash or a timeout is a diagnostic too.

        `client` names who should not delay others: each client gets the same share of time. Raises `Rejected` WF609 with
        status 429 when too many of its files are waiting. When the caller is cancelled, its work is dropped.

        `files` reads other files of the same revision that the workflow uses; its exceptions are passed on. Without it, a
        workflow that uses other files gets an error. `Compiled.files` has all requested paths, found or not: when one of
        them changes, the workflow must be compiled again.
        """
        ...


class RevisionFiles(Protocol):
    """Files of repository revisions, for agents. Does not block the event loop; allows concurrent calls.

    Raises `Retryable` when the repository cannot be read at the moment, `Stalled` and `Rejected` when only a person can help.
    """

    async def listed(self, checkout: Checkout) -> FilesListed:
        """The list of the checkout's files."""
        ...

    async def pieces(
        self, repository: str, listed: FilesListed, blobs: Sequence[bytes], offset: int, bytes_max: int
    ) -> list[messages.FileChunk]:
        """Contents of files of a list by their Git ids, in order, the first one from `offset`.

        At least one chunk, and about `bytes_max`. Raises `WaterflowError` WF219 if the list is out of date.
        """
        ...


class ChildWorkflows(Protocol):
    """The workflows that steps start as child runs (`workflow/run`)."""

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """The plan of the workflow file at `path` in a commit of a repository; always the same for the same arguments.

        Raises `Rejected` WF135 when the file or repository does not exist, and WF511 when the file has errors; both are
        permanent. Raises `Retryable` or `Stalled` when the commit cannot be read at the moment.
        """
        ...


class Runs(Protocol):
    """Operations on runs for the API and the reconcile loop. Effects are durable when a method returns."""

    async def start(self, request: StartRequest) -> RunSummary:
        """Starts a run; a repeated trigger key returns the first run's row. Raises `Retryable` while read-only."""
        ...

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """Records facts of a repository and starts runs, in one transaction; returns the runs' ids in order."""
        ...

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """Appends facts to a stream that does not belong to a run."""
        ...

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """Approves or rejects a job or step. `Rejected` WF606 (409) if it is not waiting, WF602 (403) if `by` may not."""
        ...

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        """Requests cancellation. Idempotent. `Rejected` WF604 (404) for an unknown run, WF606 (409) for a completed one."""
        ...


class StreamWriter(Protocol):
    """Appends facts to one stream, which other daemons may write too, and folds them. What is recorded is folded on return."""

    async def append(self, decide: Callable[[], Sequence[Any]]) -> None:
        """Appends the facts that `decide` returns; nothing if there are none. One append at a time.

        `decide` must decide by what has been folded, and only compute: it is called again when another daemon has appended
        meanwhile, and when it is not known whether its facts were recorded, so it must recognize its own. Raises what `decide`
        raises, `Retryable` while nothing can be recorded, and `Rejected` WF813 when the stream is full.
        """
        ...

    def keep(self, decide: Callable[[], Sequence[Any]]) -> None:
        """Like `append`, for what the daemon itself has found: as soon as it can be recorded, and nobody waits for it."""
        ...


class RunEnds(Protocol):
    """Records in one order, among them the last event of each run of a repository. A `Feed` has them as well."""

    def read(self, after: int, limit: int) -> list[Record]:
        """At most `limit` durable records after a `seq`, in order."""
        ...

    def everything(self, after: int) -> AsyncIterator[Record]:
        """Records after a `seq`, without a gap, as they become durable. Never ends."""
        ...


class Feed(Protocol):
    """The records of all streams in one order. Only an engine that keeps them in one log has a feed."""

    @property
    def last_seq(self) -> int:
        """Global sequence of the newest durable record."""
        ...

    @property
    def published_seq(self) -> int:
        """Global sequence up to which watchers have been called."""
        ...

    def watch(self, watcher: Callable[[StreamName], None]) -> None:
        """Calls `watcher` with the name of each stream that gets new durable records from now on.

        It is called on the event loop's thread for each commit, once or several times, so it must return at once.
        """
        ...

    def unwatch(self, watcher: Callable[[StreamName], None]) -> None:
        """Ends `watch`. Idempotent."""
        ...

    def read(self, after: int, limit: int) -> list[Record]:
        """At most `limit` durable records of all streams after a global sequence, in order."""
        ...

    def everything(self, after: int) -> AsyncIterator[Record]:
        """Records of all streams after a global sequence, without a gap, as they become durable. Never ends."""
        ...


class Clock(Protocol):
    """The log's clock."""

    def now(self) -> int:
        """Milliseconds; never goes back, even over restarts and wall clock jumps."""
        ...
