"""The ports: what the core asks of the outside, and what the outsides may ask of the core.

Each Protocol says ordering, idempotency, thread-safety and errors. Fakes for them ship in `waterflowd.testing` and pass the
same contract suite as the real adapters. Unless a line says otherwise, methods are called on the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from waterflow_agent.wire import messages
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId, StepId, StreamName
from waterflowd.model.records import (
    Batch,
    Checkout,
    FilesListed,
    OutputAppend,
    OutputPiece,
    Record,
    RunSummary,
    StartRequest,
)


class Log(Protocol):
    """The event log: streams of events, appended by one global sequence, durable when `append` returns."""

    @property
    def generation(self) -> int:
        """Grows by one each time the data directory is opened or restored; attempts carry it as their epoch."""
        ...

    @property
    def is_disk_low(self) -> bool:
        """True from the first full disk on until there is room again: what is open may end, nothing new may begin."""
        ...

    def append(self, batch: Batch) -> Awaitable[int]:
        """Makes the whole batch durable in one transaction, or nothing of it; gives the last global sequence.

        Batches are committed in the order of the calls; several may share a transaction (group commit), and then each
        fails or succeeds alone where its own content is wrong. Raises `Stalled` WF301 when a stream does not stand at the
        expected position or another daemon has taken the directory, `Retryable` WF302 when the disk is full (nothing was
        written, the daemon goes read-only until space returns); after an I/O error the log is poisoned and every call
        raises `Stalled` WF303.
        """
        ...

    def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """Durable records of a stream from position `first` on, in order. Checks CRC and chain: `Stalled` WF304 if broken."""
        ...

    def head(self, stream: StreamName) -> int:
        """Position of the stream's newest durable event; 0 when there is none."""
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
        """Durable records of all streams with a global sequence above `after_seq`, in order, at most `limit`."""
        ...

    def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash."""
        ...

    def open_runs(self) -> Iterator[RunId]:
        """Runs that are not completed, oldest first."""
        ...

    def run(self, run: RunId) -> RunSummary | None:
        """The row of one run."""
        ...

    def runs(
        self, *, before: RunId | None, limit: int, accept: Callable[[RunSummary], bool] | None = None
    ) -> tuple[list[RunSummary], RunId | None]:
        """Rows newest first, older than `before`, that `accept` takes; and where to go on, or None at the end.

        Looks at 20,000 rows at most in one call, so a page may be short or empty and still have more behind it.
        """
        ...

    def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """Ids that begin with `prefix` (any case); for partial ids."""
        ...

    def run_for_key(self, key: str) -> RunId | None:
        """The run that a trigger key started."""
        ...

    def counter(self, name: str) -> int:
        """Value of a counter; 0 when it was never set."""
        ...


class OutputLogs(Protocol):
    """What steps printed, per attempt, by byte offset."""

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Makes output durable and gives each log's new size, in the order of the argument.

        A piece that is there already is skipped, one that would leave a gap is refused: the size that comes back says from
        where to go on. Never delays `Log.append` by more than one transaction.
        """
        ...

    def size(self, name: AttemptId) -> int:
        """Durable size in bytes; 0 when there is nothing."""
        ...

    def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """Durable pieces from the one that holds `offset` on (the first may begin before it), about `bytes_max` in all."""
        ...


class Link(Protocol):
    """The way to the agents. A send is not a delivery: what is lost is owed again at the next settlement."""

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """Queues messages; they leave in one frame with others of this turn of the loop. Dropped without a session."""
        ...

    def revoke(self, agent: AgentId) -> None:
        """Ends the agent's session at once and refuses its key from now on."""
        ...


class AgentListener(Protocol):
    """What the link tells the host. Calls for one agent come in order."""

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskId]:
        """A session is about to open: gives what the agent should forget. The host marks what a reboot has lost."""
        ...

    def connected(self, agent: AgentId) -> None:
        """The session is open: the host sends what it owes."""
        ...

    def disconnected(self, agent: AgentId, text: str) -> None:
        """The session is over, by silence, a cut or a newer session; `text` is one sentence for a person."""
        ...

    def received(
        self, agent: AgentId, reports: Sequence[messages.Started | messages.Finished], durable: Callable[[], None]
    ) -> None:
        """Numbered messages in order; `durable` is called once all of them are in the log, or need not be."""
        ...

    def output(self, agent: AgentId, output: messages.Output) -> None:
        """Printed bytes; the host answers with `OutputAck` through the link when they are durable."""
        ...

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """Asks for files of a job; the host answers with `FileResponse` through the link."""
        ...


class Enroller(Protocol):
    """Who may become an agent. Facts are durable when the methods return."""

    async def request(self, public_key: str, wanted: messages.EnrollRequest) -> messages.EnrollAnswer:
        """Answers an enrollment request that came over a connection with this (proven) public key."""
        ...

    def is_approved(self, public_key: str) -> bool:
        """Whether the key may use the work port; asked at each handshake and for each frame."""
        ...


#: Reads a file of one revision by its path from the root; None when there is none.
FileReader = Callable[[str], Awaitable[bytes | None]]


class Compiler(Protocol):
    """Turns files into plans in a warm child process with limits, so that a hostile file can stop nothing."""

    async def compile(self, path: str, content: bytes, files: FileReader | None = None) -> Compiled:
        """Compiles one file. Never raises for what is in the file: a crash or a time-out is a diagnostic too.

        `files` reads other files of the same revision, those that a reusable workflow or a composite step names; what it
        raises is raised here. Without it, a file that uses others has an error that says so. `Compiled.files` holds the
        paths that were asked for, found or not: when one of them changes, the file must be compiled again.
        """
        ...


class RevisionFiles(Protocol):
    """The files of repositories' revisions, for agents. Leaves the loop free; several calls at a time.

    Raises `Retryable` when the repository cannot be read now, `Stalled` and `Rejected` when only a person can help.
    """

    async def listed(self, checkout: Checkout) -> FilesListed:
        """What the checkout holds."""
        ...

    async def pieces(
        self, repository: str, blobs: Sequence[bytes], offset: int, bytes_max: int
    ) -> list[messages.FileChunk]:
        """The contents of files by their Git ids, in order, the first from `offset` on; at least one, `bytes_max` together."""
        ...


class ChildWorkflows(Protocol):
    """The workflows that steps start (`workflow/run`)."""

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """The plan of the workflow file at `path` of a commit of a repository; the same question has the same answer.

        Raises `Rejected` WF135 when there is no such file or repository, WF511 when it has errors: asking again is of no
        use. Raises `Retryable` or `Stalled` when the commit cannot be read now.
        """
        ...


class Runs(Protocol):
    """What the API and the reconcile loop may do to runs. Everything is durable when it returns."""

    async def start(self, request: StartRequest) -> RunSummary:
        """Starts one run; the same trigger key gives the first one's row again. Raises `Retryable` when read-only."""
        ...

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """Records facts of a repository and starts runs in one transaction; gives the new runs' ids in order."""
        ...

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """Adds facts to a stream that is no run's."""
        ...

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """Approves or rejects what waits for people. `Rejected` WF606 (409) when nothing does, WF602 (403) for who may not."""
        ...

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        """Asks for a run's end. Idempotent. `Rejected` WF604 (404) for an unknown run, WF606 (409) for a completed one."""
        ...


class Feed(Protocol):
    """Durable records as they come."""

    def subscribe(self, stream: StreamName | None, after: int) -> AsyncIterator[Record]:
        """Records of one stream after position `after`, or of all after a global sequence, history first, without a gap."""
        ...

    def output_grew(self, run: RunId) -> Awaitable[None]:
        """Returns when more output of the run's attempts is durable, or an event of the run is."""
        ...


class Clock(Protocol):
    """The log's clock."""

    def now(self) -> int:
        """Milliseconds; never goes back, not even over restarts and wall clock jumps."""
        ...
