"""Blocks, steps and attempts: the running parts of a job.

Rules of this file: data and queries on it; written by `evolve` alone. The steps of a block run one after another: its `cursor`
is the index of the current step; steps before it are completed, steps after it are queued. Each job has a root block. Control
steps have blocks too: branches, the iterations of a loop.

A step refers to its block weakly, and a block to the step that owns it: so a run that is dropped is freed at once, without the
garbage collector. Anyone who uses a step or a block keeps its job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any
from weakref import ref

from waterflowd.engine.state.gates import Approval
from waterflowd.model.ids import AgentId, AttemptNo, RunId, StepId
from waterflowd.model.plan import StepPlan, without_expressions
from waterflowd.model.reasons import CREATED, Reason
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

#: The nodes that the engine runs itself, without a server.
SLEEP = "sleep"
APPROVAL = "approval"
CONDITION = "condition"
LOOP = "loop"
PARALLEL = "parallel"
COMPOSITE = "composite"
#: Starts a child run. It has attempts and retries like a task of an agent.
CHILD_RUN = "workflow/run"
#: Nodes that have steps inside.
#: Nodes that run in the agent itself, without the job's directory.
NODES_IN_AGENT = frozenset({"log", "fail", "set-outputs"})
CONTROL_NODES = frozenset({CONDITION, LOOP, PARALLEL, COMPOSITE})
ENGINE_NODES = CONTROL_NODES | {SLEEP, APPROVAL}
#: Nodes that need no server.
SERVERLESS_NODES = ENGINE_NODES | {CHILD_RUN}


class StopUrgency(IntEnum):
    """How urgently a step must end."""

    #: It may continue.
    NONE = 0
    #: According to its stop policy: signal, grace period, kill.
    REQUESTED = 1
    #: At once, without waiting for its agent.
    FORCED = 2


@dataclass(slots=True, eq=False, repr=False)
class Attempt:
    """One try of a step. Times are the log's clock except `started_at` and `finished_at`, which are the agent's."""

    number: AttemptNo
    queued_at: int
    status: AttemptStatus = AttemptStatus.PENDING
    dispatched_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    epoch: int = 0
    agent: AgentId | None = None
    agent_name: str = ""
    boot_id: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    exit_code: int | None = None
    reason: Reason = CREATED
    outputs: dict[str, Any] = field(default_factory=dict)
    #: What the attempt wrote to `WATERFLOW_ENV`.
    exported: dict[str, str] = field(default_factory=dict)
    output_bytes: int = 0
    output_dropped: int = 0
    #: What it wrote to `WATERFLOW_SUMMARY`.
    summary: str = ""
    #: The first lines of its output that it has marked as error, warning or notice.
    annotations: list[str] = field(default_factory=list)
    #: Rendered values; None where the plan's own are static.
    params: dict[str, Any] | None = None
    env: dict[str, str] | None = None
    working_directory: str | None = None
    timeout_ms: int = 0
    #: How long it may run without news from the daemon; 0 for any time.
    lease_ms: int = 0
    is_late_recorded: bool = False
    #: The run that the attempt started.
    child_run: RunId | None = None

    @property
    def is_open(self) -> bool:
        """True while an agent holds its lease."""
        return self.status is AttemptStatus.DISPATCHED or self.status is AttemptStatus.STARTED


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Block:
    """Steps that run one after another: a job's own, a branch, or one iteration of a loop."""

    #: Number among all blocks of the job, in the order in which they started; 0 is the root.
    number: int
    owner_ref: ref[Step] | None
    #: Index among the blocks of its owner.
    index: int
    steps: list[Step] = field(default_factory=list)
    cursor: int = 0
    #: The first step that failed without `continue-on-error`.
    failed_step: Step | None = None

    @property
    def owner(self) -> Step | None:
        """The step that it is a part of; None for the root."""
        return self.owner_ref() if self.owner_ref is not None else None

    @property
    def current(self) -> Step | None:
        """The current step; None when all are completed."""
        return self.steps[self.cursor] if self.cursor < len(self.steps) else None

    @property
    def item(self) -> Any:
        """The loop's value for this iteration; None without one."""
        owner = self.owner
        assert owner is not None
        return owner.items[self.index] if self.index < len(owner.items) else None


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Step:
    """One step of a block."""

    plan: StepPlan
    id: StepId
    block_ref: ref[Block]
    attempts: list[Attempt]
    #: Number of attempts that belong to earlier tries of the job.
    earlier: int = field(init=False)
    #: The engine runs the node itself, without a server.
    is_engine_node: bool = field(init=False)
    is_sleep: bool = field(init=False)
    #: The node has steps inside.
    has_blocks: bool = field(init=False)
    #: The node starts another run.
    is_child_run: bool = field(init=False)
    name: str = field(init=False)
    status: Status = Status.QUEUED
    conclusion: Conclusion | None = None
    outcome: Conclusion | None = None
    reason: Reason = CREATED
    #: When a sleeping step wakes.
    due_at: int | None = None
    #: When the next attempt is made.
    retry_at: int | None = None
    is_held: bool = False
    #: Whether what runs of the step must end. Steps whose turn comes later, such as `always()` ones, are not affected.
    stop: StopUrgency = StopUrgency.NONE
    #: When it was asked to end.
    stop_at: int = 0
    #: Why it must end: the first reason, or the one that made it urgent.
    stop_reason: Reason = CREATED
    started_at: int | None = None
    completed_at: int | None = None
    approval: Approval | None = None
    #: Outputs that do not come from an attempt.
    own_outputs: dict[str, Any] | None = None
    #: Of a step with blocks: the ones that have started.
    blocks: list[Block] = field(default_factory=list)
    open_blocks: int = 0
    #: How many blocks there will be; None until it is known.
    count: int | None = None
    items: list[Any] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    max_parallel: int = 1
    deadline_at: int | None = None
    is_timed_out: bool = False
    #: The first block in which a step failed.
    failed_block: Block | None = None

    def __post_init__(self) -> None:
        self.earlier = len(self.attempts)
        node = self.plan.node
        self.is_engine_node = node in ENGINE_NODES
        self.is_sleep = node == SLEEP
        self.has_blocks = node in CONTROL_NODES
        self.is_child_run = node == CHILD_RUN
        self.name = without_expressions(self.plan.name)

    @property
    def block(self) -> Block:
        """The block that it is a part of."""
        block = self.block_ref()
        assert block is not None, "the job of this step has been dropped"
        return block

    @property
    def root(self) -> Block:
        """The root block that it is a part of."""
        block = self.block
        while (owner := block.owner) is not None:
            block = owner.block
        return block

    @property
    def last(self) -> Attempt | None:
        """The newest attempt of this try of the job."""
        return self.attempts[-1] if len(self.attempts) > self.earlier else None

    @property
    def outputs(self) -> dict[str, Any]:
        """Outputs of the newest attempt, or the step's own."""
        if self.own_outputs is not None:
            return self.own_outputs
        last = self.last
        return last.outputs if last is not None else {}

    @property
    def exit_code(self) -> int | None:
        """Exit code of the newest attempt."""
        last = self.last
        return last.exit_code if last is not None else None
