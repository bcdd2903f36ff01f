"""What the shell and the daemon tell each other about one stream: inputs, turns and commands.

Rules of this file: the shell reads these structs, but not what is inside `content`: bytes that only the daemon understands.
They are stored in Temporal's event histories, so new fields have defaults, and the meaning of a tag never changes.

    inputs ─▶ shell ─▶ TurnRequest ─▶ turn, in the daemon ─▶ TurnResult (facts, commands, taken, seq) ─▶ shell ─▶ Temporal

The turn decides, and the shell carries out its commands. A turn may be repeated before its result is recorded (a daemon dies, a
task times out), so it must only compute. The turn chooses the ids of commands. An id is in use from its command until a turn
has taken the end; a command whose id is in use changes nothing.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

#: The type of the workflow, and the names of the local activities that a daemon offers to it.
WORKFLOW_TYPE = "stream"
TURN = "turn"
CHECK_SIZE = "check-size"
#: Signals: an input of the stream, and an operator's request to end a stall.
INPUT_SIGNAL = "input"
RETRY_SIGNAL = "retry"
#: The update that delivers an input and waits for the turn's answer.
REQUEST_UPDATE = "request"
#: The search attribute with the code of the error that stalls a stream; not set otherwise.
STALLED_ATTRIBUTE = "WaterflowStalled"
#: All search attributes, and their types. Anyone who may read the namespace can read them.
SEARCH_ATTRIBUTES = {
    "WaterflowRepository": "Keyword",
    "WaterflowPath": "Keyword",
    "WaterflowStatus": "Keyword",
    "WaterflowConclusion": "Keyword",
    "WaterflowTrigger": "Keyword",
    "WaterflowRevision": "Keyword",
    "WaterflowNumber": "Int",
    STALLED_ATTRIBUTE: "Keyword",
}
#: The code of the error when an operator has reset the execution; its only detail is the id of the new one.
RESET = "reset"
#: The memo with the text of that error, sealed.
STALLED_MEMO = "stalled"
#: The encoding of a payload that was refused: not sealed, changed, or sealed for another workflow.
REFUSED = b"binary/waterflow-refused"


class Input(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all inputs. The shell numbers them in the order of their arrival; the turn names the numbers that it took."""

    number: int


class SignalReceived(Input, frozen=True, kw_only=True, tag="signal"):
    """Somebody sent a signal."""

    content: bytes


class UpdateReceived(Input, frozen=True, kw_only=True, tag="update"):
    """Somebody sent a request and waits for its answer: `AnswerUpdate` of the turn that takes it."""

    id: str
    content: bytes


class TimerFired(Input, frozen=True, kw_only=True, tag="timer"):
    """A timer is due."""

    id: str


class ActivityCompleted(Input, frozen=True, kw_only=True, tag="completed"):
    """An activity has a result."""

    id: str
    content: bytes


class ActivityFailed(Input, frozen=True, kw_only=True, tag="failed"):
    """An activity ended without a result, after all of its retries."""

    id: str
    #: `timeout`, `cancelled`, `refused` (the result was not sealed by a daemon), or the type of the error.
    code: str
    text: str
    #: Which timeout: `schedule-to-start`, `start-to-close`, `schedule-to-close` or `heartbeat`.
    timeout: str = ""


class SignalNotDelivered(Input, frozen=True, kw_only=True, tag="not-delivered"):
    """The workflow that a `SendSignal` names does not exist, or has ended."""

    id: str
    text: str


class CancelRequested(Input, frozen=True, kw_only=True, tag="cancel"):
    """An operator has requested the cancellation of the workflow with Temporal's own tools."""

    reason: str


AnyInput = (
    SignalReceived
    | UpdateReceived
    | TimerFired
    | ActivityCompleted
    | ActivityFailed
    | SignalNotDelivered
    | CancelRequested
)


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all commands. The shell carries them out in their order."""


class StartTimer(Command, frozen=True, kw_only=True, tag="start-timer"):
    """Results in `TimerFired` at `due_at`, in ms. The timer ends with its execution; the next execution starts it again."""

    id: str
    due_at: int


class CancelTimer(Command, frozen=True, kw_only=True, tag="cancel-timer"):
    """The timer is no longer needed; its end is not an input."""

    id: str


class ScheduleActivity(Command, frozen=True, kw_only=True, tag="schedule-activity"):
    """Has a worker of `queue` carry out an activity. Durations of 0 mean no limit."""

    id: str
    name: str
    queue: str
    content: bytes
    start_to_close_ms: int = 0
    schedule_to_start_ms: int = 0
    heartbeat_ms: int = 0
    #: 0: retried until it succeeds, or fails with an error that says not to.
    attempts_max: int = 0
    #: The text for Temporal's own web pages; sealed.
    summary: str = ""


class CancelActivity(Command, frozen=True, kw_only=True, tag="cancel-activity"):
    """The activity is no longer needed; its end is not an input. Its id must not be used again in the same execution."""

    id: str


class SendSignal(Command, frozen=True, kw_only=True, tag="send-signal"):
    """Sends an input to another stream. The execution does not end before the signal was delivered or refused."""

    id: str
    workflow_id: str
    content: bytes


class SetAttributes(Command, frozen=True, kw_only=True, tag="set-attributes"):
    """Sets search attributes, which are readable in Temporal: text as Keyword, numbers as Int."""

    values: dict[str, str | int]


class SetMemo(Command, frozen=True, kw_only=True, tag="set-memo"):
    """Sets a field of the memo, which is sealed."""

    name: str
    content: bytes


class AnswerUpdate(Command, frozen=True, kw_only=True, tag="answer"):
    """Answers an update. An update that a turn takes without an answer gets an empty one."""

    id: str
    content: bytes


class Complete(Command, frozen=True, kw_only=True, tag="complete"):
    """The stream has ended: the workflow completes with this result when its signals have been sent.

    Signals and updates that have arrived until then get another turn, which decides again: so a stream that can begin again
    under the same id loses none. Activities and timers end with the execution, also those of the same turn.
    """

    content: bytes


AnyCommand = (
    StartTimer
    | CancelTimer
    | ScheduleActivity
    | CancelActivity
    | SendSignal
    | SetAttributes
    | SetMemo
    | AnswerUpdate
    | Complete
)


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """The argument of the workflow: what an execution begins with."""

    #: What a turn needs besides facts; for a run its plan, or the plan's hash.
    subject: bytes = b""
    #: All facts of the stream so far, in order.
    facts: list[bytes] = []
    #: Inputs that have arrived, and that no turn has taken yet.
    inputs: list[AnyInput] = []
    #: The newest time of a turn in ms, and the newest number of an input.
    now: int = 0
    number: int = 0


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the engine for one stream."""

    #: The workflow's id, which names the stream.
    stream: str
    #: The number of facts so far. State in memory is valid for exactly one `seq`, and one `state`.
    seq: int
    #: Temporal's time of the task in ms, never less than in an earlier turn of the stream.
    now: int
    inputs: list[AnyInput]
    #: An execution begins: the result has the commands for everything outstanding, not only for what the inputs cause.
    begins: bool = False
    #: The execution in which the shell may take turns, until an operator lets it continue in another one.
    run_id: str = ""
    #: Subject and facts: present when an execution begins, and after a cold result.
    past: Past | None = None
    #: That of the newest result: a turn whose result was lost may have left the same number of other facts in memory.
    state: bytes = b""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What the state of a stream is folded from."""

    subject: bytes
    facts: list[bytes]


class TurnResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn decided. Temporal stores it as one marker before any of its commands is carried out."""

    facts: list[bytes] = []
    commands: list[AnyCommand] = []
    #: Numbers of the inputs that it took: at least one, if the request has any.
    taken: list[int] = []
    #: `seq` of the request, plus the number of facts.
    seq: int = 0
    #: The facts replace all earlier ones of the stream, because they say the same in less space; `seq` is their number.
    is_snapshot: bool = False
    #: Names the state after this turn, for example by a hash of all facts. The next request has it.
    state: bytes = b""
    #: This daemon does not have the state for `seq` in memory: the shell asks again, with `past`.
    is_cold: bool = False


#: What msgspec needs to know of these types, and of all that they contain, is made here, on one thread. It would make it when a
#: value is decoded for the first time, and a thread that decodes meanwhile crashes the process: workflow code runs on threads.
PREPARED = [msgspec.msgpack.Decoder(each) for each in (Begin, TurnRequest, TurnResult)]


class Turn(Protocol):
    """The engine, as the shell sees it."""

    async def __call__(self, request: TurnRequest) -> TurnResult:
        """Decides about inputs. May be repeated with the same request, also by another daemon, before its result is recorded.

        Returns a cold result when it needs `past`. Any error is retried twice; then the stream stalls with its code until an
        operator lets it continue. Raises `Stalled` or `Rejected` for an error that a retry cannot help.
        """
        ...
