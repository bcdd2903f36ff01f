"""The messages between daemon and agent. Pure data; the rules of delivery are in session.py.

Rules of this file:

- A message is a tagged array (`["offer", ...]`) and fields are identified by position: new fields come last and have a default.
  Additional fields from a newer peer are ignored; an unknown kind of message ends the session with a clear error.
- *Numbered* messages are delivered exactly once and in order within a session. *Loose* messages have no numbers: the opening of
  a session, files, and output, which has its own offsets and acknowledgements so that it never delays other messages.
- An acknowledgement means that the message is durable: in the agent's journal, or in the daemon's log.
- `PERMITTED` lists what a peer may send in which state; everything else is refused (default deny).
- No message claims an identity. ZeroMQ reports the key of the connection, which identifies the peer.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import msgspec

from waterflow_agent.attempts import AttemptId, Outcome

#: Version of this protocol, and the oldest version that this side supports.
PROTOCOL_VERSION = 1
PROTOCOL_VERSION_MIN = 1

#: Largest frame that either side sends: far below MAXMSGSIZE, large enough for 64 offers of a large script.
FRAME_BYTES_MAX = 1 << 20
#: Largest frame that the sockets accept (`ZMQ_MAXMSGSIZE`): room for one message that is itself near the limit.
MESSAGE_BYTES_MAX = 4 << 20
#: Messages in one frame. A thousand of the smallest ones take the daemon a few milliseconds.
FRAME_MESSAGES_MAX = 1_024
#: Largest task: a script of 1 MiB (the bound of a workflow file) and its environment.
TASK_BYTES_MAX = 2 << 20
#: Unacknowledged output of an agent.
OUTPUT_WINDOW_BYTES = 1 << 20
#: Largest chunk of output in one message.
OUTPUT_CHUNK_BYTES_MAX = 64 << 10
#: Chunks in one message; a step that prints single bytes makes one of each.
OUTPUT_CHUNKS_MAX = 1_024
#: `WATERFLOW_OUTPUT` and `WATERFLOW_ENV` of an attempt together.
OUTPUTS_BYTES_MAX = 1 << 20
#: Lines of an attempt that are marked as error, of those marked as warning and of those marked as notice, and their length.
ANNOTATIONS_MAX = 10
ANNOTATION_LENGTH_MAX = 300
#: `WATERFLOW_SUMMARY` of an attempt; a longer one is cut, with a note. It is stored in the daemon's log, unlike output.
SUMMARY_BYTES_MAX = 64 << 10
#: File requests of an agent that are in flight. Together with the size of a response the window is 1 MiB: enough for 10 MB/s at
#: a round trip of 100 ms, and on a slow line (1 Mbit/s) a response takes less time than the limit of silence.
FILE_REQUESTS_MAX = 4
#: Of a file response, approximately.
FILE_RESPONSE_BYTES_MAX = 256 << 10
#: Files in one request.
FILE_REQUEST_BLOBS_MAX = 1_024
#: Artifact requests of an agent that are in flight: their own window, of the same size as that of files.
ARTIFACT_REQUESTS_MAX = 4
#: Of a block, the unit in which artifacts are stored and sent. It fits in one message, for the same reason as a file response.
ARTIFACT_BLOCK_BYTES_MAX = 256 << 10
#: Blocks that one request asks about.
ARTIFACT_BLOCKS_ASKED_MAX = 1_024
#: Blocks in a bucket whose addresses are in one response: less than 256 KiB of text.
ARTIFACT_ADDRESSES_MAX = 128
#: Blocks of the table, or of the listing, of one artifact: 64 MiB each.
ARTIFACT_INDEX_BLOCKS_MAX = 256
#: The key of a cache and its restore keys.
CACHE_KEYS_MAX = 10
#: SHA-256.
DIGEST_BYTES = 32


class TaskId(msgspec.Struct, frozen=True, array_like=True):
    """An attempt under one lease. A result whose `epoch` is not the attempt's own is recorded as evidence, never applied."""

    attempt: AttemptId
    epoch: int


class AttemptState(Enum):
    """The state of an attempt on its agent."""

    ACCEPTED = "accepted"
    STARTED = "started"
    FINISHED = "finished"


#: Attempts and working directories of an agent: those in its slots, and results that the daemon has not acknowledged yet.
HELD_MAX = 65_536


class HeldAttempt(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that the agent holds, according to its journal."""

    key: TaskId
    state: AttemptState


class TreePart(msgspec.Struct, frozen=True, array_like=True):
    """Files of a repository in a job's working directory, see `waterflowd.model.records.CheckoutPart`."""

    repository: str
    ref: str
    patterns: tuple[str, ...]
    path: str
    history: bool
    submodules: bool
    head: str
    shallow: bool = False
    lfs: bool = False


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """The initial files of a job's working directory: those of a revision that match the patterns, or of the parts."""

    repository: str
    revision: str
    #: As in a workflow's `checkout`; no patterns mean every file.
    patterns: list[str]
    #: What the directory has if that is not simply the files of the revision; then there are no patterns.
    parts: tuple[TreePart, ...] = ()


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """What a step may use at most; None for the agent's default. The processor time is in percent of one processor."""

    memory_bytes: int | None = None
    processes: int | None = None
    cpu_percent: int | None = None


#: How long an agent keeps the directory of a failed job, so that a re-run can continue the job at a step.
KEPT_MS = 24 * 3_600_000


class JobName(msgspec.Struct, frozen=True, array_like=True):
    """A job of a run."""

    run: str
    job: str


class Task(msgspec.Struct, frozen=True, array_like=True):
    """An attempt on the wire: everything that an agent needs to run it. Durations are milliseconds."""

    key: TaskId
    node: str
    #: The node's parameters, rendered. The agent checks them again against the node's record.
    params: dict[str, Any]
    #: The step's environment, rendered; without the `WATERFLOW_` names that the agent adds.
    env: dict[str, str]
    #: For people: shown in the process's environment and the agent's status.
    step_name: str
    working_directory: str | None
    #: From the start of the process: the smaller of the step's timeout and the rest of the job's.
    timeout_ms: int
    stop_signal: str
    grace_ms: int
    output_bytes_max: int
    #: The offer is valid for this boot and this start of the agent only.
    boot_id: str
    instance: str
    #: Secrets that occur above. They must be masked in everything that the agent sends, and never be on a disk.
    secrets: list[str] = []
    #: The initial content of the job's working directory; None for an empty one.
    tree: Tree | None = None
    #: The file of a node of the repository, at the run's commit; "" for every other node.
    source: str = ""
    #: The job's `user`; "" for the user that the agent's configuration names.
    user: str = ""
    #: The group for which the job was placed on the agent.
    group: str = ""
    limits: Limits | None = None
    #: The step is stopped when the daemon has not confirmed the agent's session for this long, because something else may start
    #: elsewhere then; 0: it continues.
    lease_ms: int = 0
    #: Of a job that starts in the middle: the job of an earlier run whose kept directory becomes that of this one.
    continues: JobName | None = None
    #: What scripts see of the run and the server, as variables with GitHub's names (`nodes/github_variables.py`); without
    #: empty ones.
    facts: dict[str, str] = {}
    #: The id of the container in which scripts of the job run; "" for the server itself.
    container: str = ""


class OwnNode(msgspec.Struct, frozen=True, array_like=True):
    """A node that an agent has in addition to the built-in ones."""

    name: str
    #: `server` (a file under its node path) or `package`.
    origin: str
    #: SHA-256 of the file, or the package with its version; "" when no version works.
    version: str
    summary: str = ""
    #: Names of the parameters, and whether each is required.
    parameters: list[tuple[str, bool]] = []
    #: Why the newest version cannot be used; `version` is an older one then.
    fault: str = ""


class DockerEngine(msgspec.Struct, frozen=True, array_like=True):
    """The Docker engine of a server, as far as its steps can use it."""

    #: "" if no engine has answered.
    version: str
    #: Why containers of jobs cannot be started, one sentence; "" if they can.
    problem: str = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Agent, loose: the first message of a session, with the agent's capabilities and everything that it holds."""

    session: str
    protocol: int
    protocol_min: int
    agent_version: str
    #: Random for each start of the agent: a second live instance with the same key is a clone.
    instance: str
    machine_id: str
    boot_id: str
    slots: int
    hostname: str
    os: str
    arch: str
    labels: dict[str, str]
    nodes: list[str]
    held: Annotated[list[HeldAttempt], msgspec.Meta(max_length=HELD_MAX)]
    #: Run and job of each working directory; the daemon releases those of ended jobs.
    jobs: Annotated[list[tuple[str, str]], msgspec.Meta(max_length=HELD_MAX)] = []
    #: The nodes that are not built in; those that work are in `nodes` too.
    own_nodes: list[OwnNode] = []
    #: Why the agent cannot start anything now, one sentence; then `slots` is 0.
    problem: str = ""
    #: Identifies the agent's data directory; a copy of it has another one.
    installation: str = ""
    #: None if the agent does not say, as an older one.
    docker: DockerEngine | None = None


class OldServerKey(msgspec.Struct, frozen=True, array_like=True):
    """A former key of the server (Z85), and until when it is accepted (ms, wall clock)."""

    key: str
    accepted_until: int


#: Old keys in one message; a server has a few at most.
OldServerKeys = Annotated[list[OldServerKey], msgspec.Meta(max_length=16)]


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """Daemon, loose, answer to `Hello`: the session is open, its numbers start at 1. Offers and cancellations follow."""

    session: str
    protocol: int
    #: Generation of the daemon's data directory; it is smaller than before after a backup was restored.
    generation: int
    name: str
    groups: list[str]
    #: Silence after which each side considers the connection lost; each sends a frame at least every third of it.
    silence_ms: int
    #: The attempts of `held` that the daemon does not want: drop them, whatever their state.
    forget: list[TaskId]
    #: The old keys of the server that are still accepted. An agent drops those that it knows and that are not listed.
    old_server_keys: OldServerKeys = []


class KeyRotated(msgspec.Struct, frozen=True, array_like=True, tag="key-rotated"):
    """Daemon, loose, answer to `Hello` on a connection with an old key of the server: no session; use this key from now on."""

    session: str
    server_key: str
    old_server_keys: OldServerKeys


class Reject(msgspec.Struct, frozen=True, array_like=True, tag="reject"):
    """Daemon, loose: no session; the text says why and what to do. `after_ms` is when to try again; 0 for never."""

    session: str
    code: str
    text: str
    after_ms: int


class Reset(msgspec.Struct, frozen=True, array_like=True, tag="reset"):
    """Daemon, loose: the connection has no open session, after a restart or a lost connection. Send `Hello` again."""

    text: str


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """Daemon, numbered: run this attempt. Acknowledged when it is in the agent's journal."""

    task: Task


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Daemon, numbered: stop this attempt by its stop policy; `force` kills it at once. `Finished` reports the result."""

    key: TaskId
    force: bool
    reason: str


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Daemon, numbered: the job has ended; delete its working directory, or keep it for `KEPT_MS`."""

    run: str
    job: str
    is_kept: bool = False


class Started(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    """Agent, numbered, lazy: the attempt runs since `at` (ms, the agent's wall clock). Not sent when it ended at once."""

    key: TaskId
    at: int


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """Agent, numbered: how the attempt ended. Reused by the agent until acknowledged."""

    key: TaskId
    outcome: Outcome
    exit_code: int | None
    #: A code of `waterflowd.model.reasons.ReasonCode`, or "" when the outcome needs none.
    reason_code: str
    reason_text: str
    outputs: dict[str, Any]
    #: What the step wrote to `WATERFLOW_ENV`, for later steps of the job.
    env: dict[str, str]
    started_at: int
    finished_at: int
    #: Size of the whole output log; unacknowledged output follows.
    output_bytes: int
    #: How many bytes the output limit dropped.
    output_dropped: int
    #: What the step wrote to `WATERFLOW_SUMMARY`: Markdown of at most `SUMMARY_BYTES_MAX`, and a note if it was cut.
    summary: str = ""
    #: The first lines of the output that are marked as error, warning or notice: `##[error]text`.
    annotations: list[str] = []


class OutputChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk of output: when it was printed (ms, wall clock), the stream (1 or 2), and the bytes."""

    at: int
    stream: int
    data: bytes


class Output(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """Agent, loose: the attempt's output from this offset of its output log on."""

    key: TaskId
    offset: int
    chunks: Annotated[list[OutputChunk], msgspec.Meta(max_length=OUTPUT_CHUNKS_MAX)]


class OutputAck(msgspec.Struct, frozen=True, array_like=True, tag="output-ack"):
    """Daemon, loose: the first `offset` bytes of the attempt's output are durable; continue from there."""

    key: TaskId
    offset: int


class FileRequest(msgspec.Struct, frozen=True, array_like=True, tag="file-request"):
    """Agent, loose: requests files of the job of this attempt. At most `FILE_REQUESTS_MAX` requests are in flight."""

    key: TaskId
    #: Chosen by the agent; the response repeats it.
    number: int
    #: Git ids of files, 20 bytes each, in the requested order; empty to request the list of the files.
    blobs: Annotated[list[bytes], msgspec.Meta(max_length=FILE_REQUEST_BLOBS_MAX)]
    #: Offset in the first file, or in the list.
    offset: int


class FileChunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a file, or a whole file."""

    #: Of the whole file, in bytes.
    size: int
    data: bytes


class FileResponse(msgspec.Struct, frozen=True, array_like=True, tag="file-response"):
    """Daemon, loose: the response to a `FileRequest`.

    The chunks belong to the requested files, in order, and end after about `FILE_RESPONSE_BYTES_MAX`; request the rest again.
    """

    key: TaskId
    number: int
    chunks: list[FileChunk]
    #: Why there are no files; the text says what to do. `after_ms` is when to ask again; 0 for never.
    code: str = ""
    text: str = ""
    after_ms: int = 0


Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
#: Digests of the blocks of a table or a listing, in order.
IndexBlocks = Annotated[list[Digest], msgspec.Meta(max_length=ARTIFACT_INDEX_BLOCKS_MAX)]
ArtifactName = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
BlockBytes = Annotated[int, msgspec.Meta(ge=1, le=ARTIFACT_BLOCK_BYTES_MAX)]


class BeginArtifact(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """Asks whether an artifact with these properties would be accepted, before anything is sent. Answer: `ArtifactAccepted`."""

    name: ArtifactName
    is_replacing: bool
    files: _Count
    #: Of all files, in bytes.
    size: _Count


class FindBlocks(msgspec.Struct, frozen=True, array_like=True, tag="find"):
    """Asks which of these blocks the daemon does not have. Answer: `MissingBlocks`."""

    blocks: Annotated[list[Digest], msgspec.Meta(max_length=ARTIFACT_BLOCKS_ASKED_MAX)]
    #: Their sizes, if the step can store blocks in a bucket itself.
    sizes: Annotated[list[BlockBytes], msgspec.Meta(max_length=ARTIFACT_BLOCKS_ASKED_MAX)] = []
    #: Caches are never in a bucket.
    is_for_cache: bool = False


class StoreBlock(msgspec.Struct, frozen=True, array_like=True, tag="store"):
    """Stores a block. Answer: `ArtifactAccepted`, once it is durable."""

    block: Digest
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=ARTIFACT_BLOCK_BYTES_MAX)]
    is_for_cache: bool = False


class CommitArtifact(msgspec.Struct, frozen=True, array_like=True, tag="commit"):
    """Makes an artifact of stored blocks, completely or not at all. Answer: `ArtifactAccepted`, once it is durable."""

    name: ArtifactName
    is_replacing: bool
    files: _Count
    size: _Count
    #: The blocks that contain the table of the content's blocks, and the list of files (`waterflow_agent.artifacts.content`).
    table: IndexBlocks
    listing: IndexBlocks
    #: 0 for as long as the daemon's configuration says.
    retention_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 0


class ListArtifacts(msgspec.Struct, frozen=True, array_like=True, tag="list"):
    """Asks for the artifacts of the attempt's run. Answer: `ArtifactsListed`."""

    #: "" for all.
    name: Annotated[str, msgspec.Meta(max_length=255)] = ""


class ArtifactPart(Enum):
    """What consists of blocks."""

    TABLE = "table"
    LISTING = "listing"
    CONTENT = "content"


class ReadBlock(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Asks for a block of an artifact of the attempt's run. Answer: `BlockRead`."""

    name: ArtifactName
    #: Of the artifact, as listed: it may have been replaced since.
    digest: Digest
    part: ArtifactPart
    index: _Count
    #: How many blocks, from this one on, the step can read from a bucket itself. Then the answer may be `BlockAddresses`.
    addresses: Annotated[int, msgspec.Meta(ge=0, le=ARTIFACT_ADDRESSES_MAX)] = 0


CacheKey = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class BeginCache(msgspec.Struct, frozen=True, array_like=True, tag="begin-cache"):
    """Asks whether a cache entry with these properties would be stored. Answer: `CacheAccepted`."""

    key: CacheKey
    #: Of the paths (`waterflow_agent.caches.entries`): a step restores only what was saved from the same paths.
    version: Digest
    files: _Count
    size: _Count


class CommitCache(msgspec.Struct, frozen=True, array_like=True, tag="commit-cache"):
    """Makes a cache entry of stored blocks, completely or not at all. Answer: as for `BeginCache`, once it is durable."""

    key: CacheKey
    version: Digest
    files: _Count
    size: _Count
    table: IndexBlocks
    listing: IndexBlocks


class FindCache(msgspec.Struct, frozen=True, array_like=True, tag="find-cache"):
    """Asks for the entry that fits best: the first of the keys that one has, or begins with. Answer: `CacheFound`."""

    keys: Annotated[list[CacheKey], msgspec.Meta(min_length=1, max_length=CACHE_KEYS_MAX)]
    version: Digest


class ReadCacheBlock(msgspec.Struct, frozen=True, array_like=True, tag="read-cache"):
    """Asks for a block of a cache entry that the attempt's run may read. Answer: `BlockRead`."""

    key: CacheKey
    version: Digest
    #: Of the entry, as found.
    digest: Digest
    part: ArtifactPart
    index: _Count


class FindCacheOrigin(msgspec.Struct, frozen=True, array_like=True, tag="find-cache-origin"):
    """Asks which entries of its own the agent may use for the attempt's run. Answer: `CacheOrigin`."""


class CacheRow(msgspec.Struct, frozen=True, array_like=True):
    """A cache entry."""

    key: str
    #: Identifies its content.
    digest: bytes
    files: int
    size: int
    table: list[bytes]
    listing: list[bytes]


class ArtifactRow(msgspec.Struct, frozen=True, array_like=True):
    """One artifact of a run."""

    name: str
    #: Identifies its content.
    digest: bytes
    files: int
    size: int
    table: list[bytes]
    listing: list[bytes]


class ArtifactAccepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """What was asked for is done, or would be accepted."""


class BlockAddress(msgspec.Struct, frozen=True, array_like=True):
    """A request to a bucket that is valid for a few minutes: with it, anyone can read, or store, this block alone."""

    url: str
    #: What the request must contain besides.
    headers: dict[str, str] = {}


class MissingBlocks(msgspec.Struct, frozen=True, array_like=True, tag="missing"):
    """The positions of the requested blocks that the daemon does not have."""

    positions: list[int]
    #: Where the first of them can be stored, if the artifacts are in a bucket; the others are sent to the daemon.
    addresses: list[BlockAddress] = []


class ArtifactsListed(msgspec.Struct, frozen=True, array_like=True, tag="listed"):
    """Artifacts of a run, by name."""

    artifacts: list[ArtifactRow]


class BlockRead(msgspec.Struct, frozen=True, array_like=True, tag="block"):
    """The content of a block."""

    data: bytes


class BlockAddresses(msgspec.Struct, frozen=True, array_like=True, tag="addresses"):
    """Where the requested block, and blocks after it, can be read."""

    blocks: list[BlockAddress]


class CacheAccepted(msgspec.Struct, frozen=True, array_like=True, tag="cache-accepted"):
    """The entry is stored, or would be. False: there is one with this key already, which stays as it is."""

    is_new: bool


class CacheFound(msgspec.Struct, frozen=True, array_like=True, tag="cache-found"):
    """The entry that was found."""

    entry: CacheRow | None


class CacheOrigin(msgspec.Struct, frozen=True, array_like=True, tag="cache-origin"):
    """Where a run comes from."""

    #: Stands for the repository.
    scope: str
    #: Full names of the branches or tags whose entries the run may read; it writes those of the first one.
    refs: tuple[str, ...]


CacheAction = BeginCache | CommitCache | FindCache | ReadCacheBlock | FindCacheOrigin
ArtifactAction = BeginArtifact | FindBlocks | StoreBlock | CommitArtifact | ListArtifacts | ReadBlock | CacheAction
ArtifactResult = (
    ArtifactAccepted
    | MissingBlocks
    | ArtifactsListed
    | BlockRead
    | CacheAccepted
    | CacheFound
    | CacheOrigin
    | BlockAddresses
)


class ArtifactRequest(msgspec.Struct, frozen=True, array_like=True, tag="artifact-request"):
    """Agent, loose: what a step needs for artifacts of its run, and for caches.

    At most `ARTIFACT_REQUESTS_MAX` requests are in flight.

    Every action may be repeated: an agent sends its open requests again in each new session.
    """

    key: TaskId
    #: Chosen by the agent; the response repeats it.
    number: int
    action: ArtifactAction


class ArtifactResponse(msgspec.Struct, frozen=True, array_like=True, tag="artifact-response"):
    """Daemon, loose: the response to an `ArtifactRequest`; without a result, `code` and `text` say why."""

    key: TaskId
    number: int
    result: ArtifactResult | None
    code: str = ""
    text: str = ""
    #: When to ask again; 0 for never.
    after_ms: int = 0


class EnrollRequest(msgspec.Struct, frozen=True, array_like=True, tag="enroll"):
    """Agent, on the enrollment port: requests to enroll the key of this connection, with a token or by approval."""

    protocol: int
    token: str
    name: str
    groups: list[str]
    hostname: str
    machine_id: str
    agent_version: str


class EnrollAnswer(msgspec.Struct, frozen=True, array_like=True, tag="enrolled"):
    """Daemon, on the enrollment port: `approved`, `pending` (ask again after `after_ms`) or `refused`."""

    state: str
    text: str
    fingerprint: str
    name: str
    groups: list[str]
    #: The work port as `tcp://host:port`; without a host, the agent uses the host of the enrollment port.
    work_endpoint: str
    after_ms: int
    #: The server's current key, which the agent uses from now on; "" for the key of this connection.
    server_key: str = ""
    old_server_keys: OldServerKeys = []
    #: Of an approval: the token of the request lets no more agents in, so it is no longer needed.
    is_token_spent: bool = False


AgentMessage = Hello | Started | Finished | Output | FileRequest | ArtifactRequest
DaemonMessage = (
    Welcome | KeyRotated | Reject | Reset | Offer | Cancel | Release | OutputAck | FileResponse | ArtifactResponse
)
#: Messages with content, which are sent after all others.
BULK: tuple[type, ...] = (Output, FileResponse, ArtifactRequest, ArtifactResponse)
Numbered = Offer | Cancel | Release | Started | Finished
Message = AgentMessage | DaemonMessage

#: The types that a session numbers, acknowledges and retransmits.
NUMBERED: tuple[type, ...] = (Offer, Cancel, Release, Started, Finished)


class PeerState(Enum):
    """What the daemon knows about the peer of a connection."""

    #: On the enrollment port, with any key.
    ANONYMOUS = "anonymous"
    #: On the work port with an approved key, without a session.
    CONNECTED = "connected"
    #: On the work port with an open session.
    SETTLED = "settled"
    #: On the work port with a key that is no longer approved.
    REVOKED = "revoked"


#: The types of messages that the daemon accepts in each state of the peer; all others are refused.
PERMITTED: dict[PeerState, frozenset[type]] = {
    PeerState.ANONYMOUS: frozenset({EnrollRequest}),
    PeerState.CONNECTED: frozenset({Hello}),
    PeerState.SETTLED: frozenset({Hello, Started, Finished, Output, FileRequest, ArtifactRequest}),
    PeerState.REVOKED: frozenset(),
}
