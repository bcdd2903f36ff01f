"""Blocks, steps and attempts: what is at work inside of a job.

Rules of this file: data and questions about it; written by `evolve` alone. A block is a row of steps, one at a time: its
`cursor` is the index of the step whose turn it is; steps before it are completed, steps after it queued. Each job has a root
block. A step of the engine has blocks of its own: a branch, the passes of a loop.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from waterflowd.engine.state.gates import Approval
from waterflowd.model.ids import AgentId, AttemptNo, RunId, StepId
from waterflowd.model.plan import StepPlan
from waterflowd.model.reasons import CREATED, Reason
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

#: The nodes that the engine runs itself: they hold no server.
SLEEP = "sleep"
APPROVAL = "approval"
CONDITION = "condition"
LOOP = "loop"
PARALLEL = "parallel"
COMPOSITE = "composite"
#: Starts another run. It is tried again like a task of an agent, and has attempts like one.
CHILD_RUN = "workflow/run"
#: Those that have steps inside.
CONTROL_NODES = frozenset({CONDITION, LOOP, PARALLEL, COMPOSITE})
ENGINE_NODES = CONTROL_NODES | {SLEEP, APPROVAL}
#: Nodes that need no server.
SERVERLESS_NODES = ENGINE_NODES | {CHILD_RUN}


class Stop(IntEnum):
    """How urgently a step must end."""

    #: It may go on.
    NO = 0
    #: By its stop policy: signal, grace, kill.
    ASKED = 1
    #: At once, without waiting for its agent.
    FORCED = 2


class Attempt:
    """One try of a step. Times are the log's clock except `started_at` and `finished_at`, which are the agent's."""

    __slots__ = (
        "agent",
        "agent_name",
        "boot_id",
        "child_run",
        "dispatched_at",
        "env",
        "epoch",
        "exit_code",
        "exported",
        "facts",
        "finished_at",
        "is_late_recorded",
        "number",
        "outcome",
        "output_bytes",
        "output_dropped",
        "outputs",
        "params",
        "queued_at",
        "reason",
        "started_at",
        "status",
        "timeout_ms",
        "working_directory",
    )  # fmt: skip

    def __init__(self, number: AttemptNo, queued_at: int) -> None:
        self.number = number
        self.status = AttemptStatus.PENDING
        self.queued_at = queued_at
        self.dispatched_at: int | None = None
        self.started_at: int | None = None
        self.finished_at: int | None = None
        self.epoch = 0
        self.agent: AgentId | None = None
        self.agent_name = ""
        self.boot_id = ""
        self.facts: dict[str, Any] = {}
        self.outcome: Outcome | None = None
        self.exit_code: int | None = None
        self.reason: Reason = CREATED
        self.outputs: dict[str, Any] = {}
        #: What it wrote to `WATERFLOW_ENV`.
        self.exported: dict[str, str] = {}
        self.output_bytes = 0
        self.output_dropped = 0
        #: Rendered values; None where the plan's own are static.
        self.params: dict[str, Any] | None = None
        self.env: dict[str, str] | None = None
        self.working_directory: str | None = None
        self.timeout_ms = 0
        self.is_late_recorded = False
        #: The run that it started.
        self.child_run: RunId | None = None

    @property
    def is_open(self) -> bool:
        """True while an agent holds its lease."""
        return self.status is AttemptStatus.DISPATCHED or self.status is AttemptStatus.STARTED


class Block:
    """Steps in order, one at a time: a job's own, or one pass through a step of the engine."""

    __slots__ = ("cursor", "failed_step", "index", "number", "owner", "steps")

    def __init__(self, number: int, owner: Step | None, index: int) -> None:
        #: Among all blocks of its job, in the order in which they began; 0 is the root.
        self.number = number
        #: The step that it is a part of; None for the root.
        self.owner = owner
        #: Among the blocks of its owner, from 0.
        self.index = index
        self.steps: list[Step] = []
        self.cursor = 0
        #: The first step that failed and was not continued.
        self.failed_step: Step | None = None

    @property
    def current(self) -> Step | None:
        """The step whose turn it is; None when all are completed."""
        return self.steps[self.cursor] if self.cursor < len(self.steps) else None

    @property
    def item(self) -> Any:
        """The loop's value for this pass; None without one."""
        assert self.owner is not None
        return self.owner.items[self.index] if self.index < len(self.owner.items) else None


class Step:
    """One step of a block."""

    __slots__ = (
        "approval",
        "attempts",
        "block",
        "blocks",
        "completed_at",
        "conclusion",
        "count",
        "deadline_at",
        "due_at",
        "earlier",
        "failed_block",
        "has_blocks",
        "id",
        "inputs",
        "is_child_run",
        "is_engine_node",
        "is_held",
        "is_sleep",
        "is_timed_out",
        "items",
        "max_parallel",
        "name",
        "open_blocks",
        "outcome",
        "own_outputs",
        "plan",
        "reason",
        "retry_at",
        "started_at",
        "status",
        "stop",
        "stop_at",
        "stop_reason",
    )  # fmt: skip

    def __init__(self, plan: StepPlan, step_id: StepId, block: Block, attempts: list[Attempt]) -> None:
        self.id = step_id
        self.plan = plan
        self.block = block
        #: What the engine runs itself, without a server; of these, a timer in the log, and a node with steps inside.
        self.is_engine_node = plan.node in ENGINE_NODES
        self.is_sleep = plan.node == SLEEP
        self.has_blocks = plan.node in CONTROL_NODES
        #: The node that starts another run.
        self.is_child_run = plan.node == CHILD_RUN
        self.name = plan.name
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.outcome: Conclusion | None = None
        self.reason: Reason = CREATED
        self.attempts = attempts
        #: How many of the attempts belong to earlier tries of the job.
        self.earlier = len(attempts)
        #: When a sleeping step wakes.
        self.due_at: int | None = None
        #: When the next attempt is made.
        self.retry_at: int | None = None
        self.is_held = False
        #: Whether what runs of the step must end. Steps whose turn comes later, such as `always()` ones, are not concerned.
        self.stop = Stop.NO
        #: When it was asked to end.
        self.stop_at = 0
        #: Why it must end: the first reason, or the one that made it urgent.
        self.stop_reason: Reason = CREATED
        self.started_at: int | None = None
        self.completed_at: int | None = None
        self.approval: Approval | None = None
        #: Outputs that come from no attempt.
        self.own_outputs: dict[str, Any] | None = None
        # Of a step with blocks: those that began, how many there will be, what they are given.
        self.blocks: list[Block] = []
        self.open_blocks = 0
        self.count: int | None = None
        self.items: list[Any] = []
        self.inputs: dict[str, Any] = {}
        self.max_parallel = 1
        self.deadline_at: int | None = None
        self.is_timed_out = False
        #: The first block in which a step failed.
        self.failed_block: Block | None = None

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
