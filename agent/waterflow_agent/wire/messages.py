"""What the daemon and an agent say to each other. Pure data; the rules of delivery are in session.py.

Rules of this file:

- A message is a tagged array (`["offer", ...]`), so a field's position is its name: new fields come last and have a default.
  A newer peer's extra fields are ignored; an unknown kind of message ends the session with a clear error.
- *Numbered* messages are delivered once and in order within a session. *Loose* messages are not numbered: the opening of a
  session, and output, which has offsets and acknowledgements of its own so that it can never delay the rest.
- An acknowledgement says "durable here": the agent's journal has it, or the daemon's log has it.
- Which peer may send what in which state is `PERMITTED`; everything else is refused (default deny).
- Nothing here claims an identity. Who the peer is, ZeroMQ tells (the key of the connection); a peer can only ask.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from waterflow_agent.attempts import AttemptId, Outcome

#: Version of this protocol, and the oldest that this side still speaks.
PROTOCOL_VERSION = 1
PROTOCOL_VERSION_MIN = 1

#: Largest frame either side sends: far below MAXMSGSIZE, large enough for 64 offers of a large script.
FRAME_BYTES_MAX = 1 << 20
#: What the sockets refuse to receive (`ZMQ_MAXMSGSIZE`): a frame plus room for one message that is itself near the limit.
MESSAGE_BYTES_MAX = 4 << 20
#: Largest task: a script of 1 MiB (the bound of a workflow file) and its environment.
TASK_BYTES_MAX = 2 << 20
#: Output that an agent may have on the way without an acknowledgement.
OUTPUT_WINDOW_BYTES = 1 << 20
#: Largest piece of output in one message.
OUTPUT_CHUNK_BYTES_MAX = 64 << 10
#: `WATERFLOW_OUTPUT` and `WATERFLOW_ENV` of an attempt together.
OUTPUTS_BYTES_MAX = 1 << 20
#: Questions for files that an agent may have on the way without an answer. With the size of an answer this is the window of
#: files, 1 MiB: enough for 10 MB a second over 100 ms of way, and an answer takes a slow line (1 Mbit/s) less than a silence.
FILE_REQUESTS_MAX = 4
#: Where an answer ends, give or take the last file's part.
FILE_RESPONSE_BYTES_MAX = 256 << 10
#: Files that one question may ask for.
FILE_REQUEST_BLOBS_MAX = 1_024


class TaskId(msgspec.Struct, frozen=True, array_like=True):
    """An attempt under one lease. A result whose `epoch` is not the attempt's own is recorded as evidence, never applied."""

    attempt: AttemptId
    epoch: int


class AttemptState(Enum):
    """What an agent has of an attempt."""

    ACCEPTED = "accepted"
    STARTED = "started"
    FINISHED = "finished"


class HeldAttempt(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that the agent holds, as its journal says."""

    key: TaskId
    state: AttemptState


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """The files that the working directory of a job begins with: those of a revision that the patterns choose."""

    repository: str
    revision: str
    #: As in a workflow's `checkout`; none stand for every file.
    patterns: list[str]


class Task(msgspec.Struct, frozen=True, array_like=True):
    """An attempt on the wire: all that an agent needs to run it. Durations are milliseconds."""

    key: TaskId
    node: str
    #: The node's parameters, rendered; checked again by the agent against the node's record.
    params: dict[str, Any]
    #: The step's environment, rendered; without the `WATERFLOW_` names that the agent adds.
    env: dict[str, str]
    #: For people: shown in the process's environment and the agent's status.
    step_name: str
    working_directory: str | None
    #: From the start of the process; the smaller of the step's time-out and what is left of the job's.
    timeout_ms: int
    stop_signal: str
    grace_ms: int
    output_bytes_max: int
    #: The offer is for this boot and this start of the agent only.
    boot_id: str
    instance: str
    #: Values, filled in above, that must be masked in all that the agent says of the attempt, and be on no disk.
    secrets: list[str] = []
    #: What the job's working directory holds before its first step; None for an empty one.
    tree: Tree | None = None
    #: The file of an own node of the repository, as it was at the run's commit; "" for every other node.
    source: str = ""


class OwnNode(msgspec.Struct, frozen=True, array_like=True):
    """A node that an agent has beside those of its version."""

    name: str
    #: `server` (a file under its node path) or `package`.
    origin: str
    #: SHA-256 of the file, or the package with its version; "" when there is none that works.
    version: str
    summary: str = ""
    #: Names of the parameters, and whether each is required.
    parameters: list[tuple[str, bool]] = []
    #: Why the newest version of it cannot be used; the one above is older then.
    fault: str = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Agent, loose, first message of a session: who asks, what it is able to do, and all that it holds."""

    session: str
    protocol: int
    protocol_min: int
    agent_version: str
    #: Random per start of the agent: a second live instance under one key is a clone.
    instance: str
    machine_id: str
    boot_id: str
    slots: int
    hostname: str
    os: str
    arch: str
    labels: dict[str, str]
    nodes: list[str]
    held: list[HeldAttempt]
    #: Run and job of each working directory that is there; the daemon releases those that are over.
    jobs: list[tuple[str, str]] = []
    #: What is known of the nodes that are none of this version's; those that work stand in `nodes` too.
    own_nodes: list[OwnNode] = []


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """Daemon, loose, answer to `Hello`: the session is open, its numbers start at 1. What the daemon owes follows."""

    session: str
    protocol: int
    #: Generation of the daemon's data directory; a smaller one than before means a restored backup.
    generation: int
    name: str
    groups: list[str]
    #: Silence after which each side takes the link for cut, and half of which it never lets pass without a frame.
    silence_ms: int
    #: The attempts of `held` that are over for the daemon: drop them, whatever their state.
    forget: list[TaskId]


class Reject(msgspec.Struct, frozen=True, array_like=True, tag="reject"):
    """Daemon, loose: no session; the text says why and what to do. `after_ms` is when to try again, 0 for never."""

    session: str
    code: str
    text: str
    after_ms: int


class Reset(msgspec.Struct, frozen=True, array_like=True, tag="reset"):
    """Daemon, loose: your connection has no open session (a restart or a cut); say `Hello` again."""

    text: str


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """Daemon, numbered: run this. Acknowledged when the agent's journal has it."""

    task: Task


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Daemon, numbered: end this attempt by its stop policy; `force` kills at once. The result arrives as `Finished`."""

    key: TaskId
    force: bool
    reason: str


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Daemon, numbered: the job is over, and its working directory may go."""

    run: str
    job: str


class Started(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    """Agent, numbered, lazy: the attempt runs since `at` (ms, the agent's wall clock). Not sent when it ended at once."""

    key: TaskId
    at: int


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """Agent, numbered: how the attempt ended. Kept by the agent until acknowledged."""

    key: TaskId
    outcome: Outcome
    exit_code: int | None
    #: A code of `waterflowd.model.reasons.ReasonCode` or "" when the outcome says it all.
    reason_code: str
    reason_text: str
    outputs: dict[str, Any]
    #: What the step wrote to `WATERFLOW_ENV`, for later steps of the job.
    env: dict[str, str]
    started_at: int
    finished_at: int
    #: Size of the whole output log; what is not acknowledged yet follows.
    output_bytes: int
    #: How much the cap left out.
    output_dropped: int


class OutputChunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of what a step printed: when (ms, wall clock), on which stream (1 or 2), and the bytes."""

    at: int
    stream: int
    data: bytes


class Output(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """Agent, loose: what the attempt printed, from `offset` bytes of its output log on."""

    key: TaskId
    offset: int
    chunks: list[OutputChunk]


class OutputAck(msgspec.Struct, frozen=True, array_like=True, tag="output-ack"):
    """Daemon, loose: the first `offset` bytes of the attempt's output are durable; go on from there."""

    key: TaskId
    offset: int


class FileRequest(msgspec.Struct, frozen=True, array_like=True, tag="file-request"):
    """Agent, loose: send files of the tree of this attempt's job. At most `FILE_REQUESTS_MAX` of them are open at a time."""

    key: TaskId
    #: The agent's own, for the answer to name.
    number: int
    #: Git ids of files, 20 bytes each, in the order in which they should come; none ask for the list of the files.
    blobs: list[bytes]
    #: From where on in the first of them, or in the list.
    offset: int


class FileChunk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a file, or all of it."""

    #: Of the whole file in bytes.
    size: int
    data: bytes


class FileResponse(msgspec.Struct, frozen=True, array_like=True, tag="file-response"):
    """Daemon, loose: the answer to a `FileRequest`; a lost one is asked for again.

    The chunks belong to the requested files, in order, and end after about `FILE_RESPONSE_BYTES_MAX`; request the rest again.
    """

    key: TaskId
    number: int
    chunks: list[FileChunk]
    #: Why there is nothing; the text says what to do. `after_ms` is when to ask again, 0 for never.
    code: str = ""
    text: str = ""
    after_ms: int = 0


class EnrollRequest(msgspec.Struct, frozen=True, array_like=True, tag="enroll"):
    """Agent, on the enrollment port alone: take the key of this connection into these groups, by this token or a person."""

    protocol: int
    token: str
    name: str
    groups: list[str]
    hostname: str
    machine_id: str
    agent_version: str


class EnrollAnswer(msgspec.Struct, frozen=True, array_like=True, tag="enrolled"):
    """Daemon, on the enrollment port: `approved`, `pending` (ask again after `after_ms`) or `refused`, and what to do."""

    state: str
    text: str
    fingerprint: str
    name: str
    groups: list[str]
    #: Where the work port is, as `tcp://host:port` with the host the agent already uses when it is empty.
    work_endpoint: str
    after_ms: int


AgentMessage = Hello | Started | Finished | Output | FileRequest
DaemonMessage = Welcome | Reject | Reset | Offer | Cancel | Release | OutputAck | FileResponse
Numbered = Offer | Cancel | Release | Started | Finished
Message = AgentMessage | DaemonMessage

#: The types that a session numbers, acknowledges and sends again.
NUMBERED: tuple[type, ...] = (Offer, Cancel, Release, Started, Finished)


class PeerState(Enum):
    """What the daemon knows of whoever is at the other end of a connection."""

    #: On the enrollment port: any key.
    ANONYMOUS = "anonymous"
    #: On the work port with an approved key; no session yet.
    CONNECTED = "connected"
    #: On the work port, session open.
    SETTLED = "settled"
    #: On the work port with a key that is approved no more.
    REVOKED = "revoked"


#: Message type x peer state, for what the daemon receives. A pair that is not here is refused.
PERMITTED: dict[PeerState, frozenset[type]] = {
    PeerState.ANONYMOUS: frozenset({EnrollRequest}),
    PeerState.CONNECTED: frozenset({Hello}),
    PeerState.SETTLED: frozenset({Hello, Started, Finished, Output, FileRequest}),
    PeerState.REVOKED: frozenset(),
}
