"""The state of one run, as the fold of its events.

Rules of this file: data and questions about it. Only `evolve` (evolve.py) writes these objects, in place and at a cost that
does not grow with the run; everybody else reads. Nothing here decides.

A run has jobs, a job has blocks, a block has steps (blocks.py), a step has attempts. What is at work in a job is the current
steps of its open blocks.

A job is a leaf, with steps, or becomes other jobs when its turn comes: instances of itself (`strategy`, `target: each`), or the
jobs of the workflow that it calls. These have ids below its own, and stand behind all others in `run.jobs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from waterflowd.engine.events import Policy
from waterflowd.engine.state.blocks import LOOP, PARALLEL, Attempt, Block, Step, Stop
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import BlockPlan, JobPlan, Plan, StepPlan
from waterflowd.model.reasons import CREATED, Reason
from waterflowd.model.records import Kept, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status

__all__ = ["Approval", "Attempt", "Block", "Children", "Job", "Lock", "Run", "Scope", "Step", "Stop"]


class Scope:
    """What the jobs of one workflow see of it: the run's own, or one that a job calls."""

    __slots__ = ("env", "inputs", "jobs", "name", "outer", "secrets", "vars")

    def __init__(self, name: str, env: dict[str, Any], outer: Scope | None, secrets: dict[str, str] | None) -> None:
        self.name = name
        self.env = env
        self.inputs: dict[str, Any] = {}
        self.vars: dict[str, Any] = {}
        #: By the id in the file.
        self.jobs: dict[JobId, Job] = {}
        self.outer = outer
        #: Names of secrets here, and those outside; None: the same.
        self.secrets = secrets

    def secret(self, name: str) -> str | None:
        """The name under which the sources know a secret of this scope; None when the caller does not give it."""
        scope: Scope | None = self
        while scope is not None and scope.outer is not None:
            if scope.secrets is not None:
                if name not in scope.secrets:
                    return None
                name = scope.secrets[name]
            scope = scope.outer
        return name


class Children:
    """The jobs that a job has become, and how they take turns."""

    __slots__ = (
        "active", "batch", "batches", "fail_fast", "failures", "halted", "jobs", "max_failures", "max_parallel",
        "next_index", "open", "pause_ms", "resume_at", "scope",
    )  # fmt: skip

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        #: The workflow that is called; None for instances.
        self.scope: Scope | None = None
        #: How many are not completed, and how many of these have begun.
        self.open = 0
        self.active = 0
        #: The first instance whose turn has not come.
        self.next_index = 0
        self.failures = 0
        self.max_parallel: int | None = None
        self.max_failures: int | None = None
        self.fail_fast = False
        #: Ends of the batches, and the one that runs, from 0.
        self.batches: list[int] = []
        self.batch = 0
        self.pause_ms = 0
        #: When the next batch may begin.
        self.resume_at: int | None = None
        #: Why no new instance starts.
        self.halted: Reason | None = None


class Job:
    """One job of a run."""

    __slots__ = (
        "agent", "agent_facts", "agent_name", "approval", "avoid", "blocks", "blocks_made", "children",
        "completed_at", "conclusion", "deadline_at", "env", "group", "has_failure", "has_success", "id", "index",
        "is_admitted", "is_approved", "is_begun", "is_cancelled", "is_skipped", "is_timed_out", "key", "labels",
        "lock", "matrix", "name", "number", "open_approvals", "open_needs", "outcome", "outputs", "parent", "pinned",
        "pinned_name", "plan", "position", "ready_at", "reason", "retry_at", "root", "scope", "start_deadline_at",
        "started_at", "status", "steps_by_id", "stop_reason", "timeout_ms",
    )  # fmt: skip

    def __init__(
        self, plan: JobPlan, job_id: JobId, index: int, scope: Scope, parent: Job | None = None, key: str | None = None
    ) -> None:
        self.id = job_id
        #: Its place in `run.jobs`.
        self.index = index
        self.plan = plan
        self.scope = scope
        #: The job that became this one and others.
        self.parent = parent
        #: Of an instance: what tells it from the others, its values, and its place among them.
        self.key = key
        self.matrix: dict[str, Any] = {}
        self.position = 0
        #: The one server that an instance may run on.
        self.pinned: AgentId | None = None
        self.pinned_name = ""
        self.children: Children | None = None
        self.name = plan.name
        self.group = plan.group
        self.labels: dict[str, str] = {}
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.outcome: Conclusion | None = None
        self.reason: Reason = CREATED
        self.steps_by_id: dict[StepId, Step] = {}
        self.blocks_made = 0
        #: Blocks that are not at their end, by number.
        self.blocks: dict[int, Block] = {}
        self.root = self.new_root()
        #: Steps of it that wait for people: its time stands still.
        self.open_approvals = 0
        #: Needs that are not completed yet; an instance is made when there is none.
        self.open_needs = 0 if key is not None else len(plan.needs)
        #: The gates before it have been passed: what it consists of is at work.
        self.is_begun = False
        #: Of an instance: its turn among the instances has come.
        self.is_admitted = False
        self.approval: Approval | None = None
        self.is_approved = False
        self.lock: Lock | None = None
        #: What steps wrote to `WATERFLOW_ENV`.
        self.env: dict[str, str] = {}
        self.outputs: dict[str, Any] = {}
        self.agent: AgentId | None = None
        self.agent_name = ""
        self.agent_facts: dict[str, Any] = {}
        #: Servers of earlier tries.
        self.avoid: tuple[AgentId, ...] = ()
        #: The try, from 1, and when the next one begins.
        self.number = 1
        self.retry_at: int | None = None
        self.timeout_ms = 0
        self.ready_at: int | None = None
        self.started_at: int | None = None
        self.completed_at: int | None = None
        #: Set while the job waits for its first server.
        self.start_deadline_at: int | None = None
        #: Set by the first dispatch.
        self.deadline_at: int | None = None
        self.is_timed_out = False
        #: It must end without having begun anything.
        self.is_skipped = False
        #: The run, or the job alone, was cancelled while the job was active. Jobs that start after it, by their `if`, are not
        #: concerned.
        self.is_cancelled = False
        self.stop_reason: Reason = CREATED
        #: What `success()` and `failure()` of the jobs behind this one go by: its own end and that of all before it.
        self.has_success = True
        self.has_failure = False

    @property
    def is_instance(self) -> bool:
        """True for one of the jobs that a job with `strategy` or `target` has become."""
        return self.key is not None

    @property
    def is_template(self) -> bool:
        """True for a job that becomes instances of itself."""
        return self.key is None and (self.plan.strategy is not None or self.plan.target is not None)

    @property
    def caller(self) -> Job | None:
        """The job that calls the workflow that this one is a part of; None in the run's own."""
        above = self.parent
        while above is not None and (above.children is None or above.children.scope is None):
            above = above.parent
        return above

    @property
    def steps(self) -> list[Step]:
        """The steps of the root block."""
        return self.root.steps

    @property
    def failed_step(self) -> Step | None:
        """The first step of the root block that failed and was not continued."""
        return self.root.failed_step

    @property
    def current(self) -> Step | None:
        """The step of the root block whose turn it is."""
        return self.root.current

    def active_steps(self) -> Iterator[Step]:
        """The steps without blocks that are at work, in the order in which their blocks began."""
        for block in self.blocks.values():
            step = block.current
            if step is not None and not step.has_blocks and step.status is not Status.QUEUED:
                yield step

    def has_active_step_beside(self, step: Step) -> bool:
        """Whether another step without blocks is at work."""
        return any(other is not step for other in self.active_steps())

    def new_root(self) -> Block:
        """A root block with all its steps queued."""
        self.blocks.clear()
        self.root = self._new_block(None, 0, () if self.is_template else self.plan.steps, "")
        return self.root

    def new_block(self, owner: Step, plan: BlockPlan) -> Block:
        """A block of a step of the engine, with its steps queued."""
        index = len(owner.blocks)
        is_many = owner.plan.node in (LOOP, PARALLEL)
        block = self._new_block(owner, index, plan.steps, f"{owner.id}[{index}]/" if is_many else f"{owner.id}/")
        owner.blocks.append(block)
        return block

    def _new_block(self, owner: Step | None, index: int, plans: tuple[StepPlan, ...], prefix: str) -> Block:
        block = Block(self.blocks_made, owner, index)
        self.blocks_made += 1
        for plan in plans:
            step_id = StepId(prefix + plan.id)
            known = self.steps_by_id.get(step_id)
            step = Step(plan, step_id, block, known.attempts if known is not None else [])
            block.steps.append(step)
            self.steps_by_id[step_id] = step
        if block.steps:
            self.blocks[block.number] = block
        return block


class Run:
    """One execution of a plan."""

    __slots__ = (
        "cancel_by",
        "completed_at",
        "conclusion",
        "created_at",
        "deadline_at",
        "dependents",
        "environments",
        "flags",
        "given_vars",
        "hashes",
        "id",
        "is_cancelled",
        "is_forced",
        "is_timed_out",
        "jobs",
        "jobs_by_id",
        "kept",
        "lock",
        "number",
        "open_jobs",
        "outputs",
        "plan",
        "plan_hash",
        "reason",
        "repository",
        "rerun_of",
        "revision",
        "scope",
        "seq",
        "started_at",
        "status",
        "steps_made",
        "trigger",
    )  # fmt: skip

    def __init__(self, run_id: RunId, plan: Plan) -> None:
        self.id = run_id
        self.plan = plan
        self.plan_hash = ""
        self.number = 0
        self.trigger = Trigger(kind=TriggerKind.API)
        self.repository: str | None = None
        self.revision: str | None = None
        self.flags: frozenset[int] = frozenset()
        #: What was laid over the file's `vars` at the start.
        self.given_vars: dict[str, Any] = {}
        #: The run that this one does again, and what it takes over of it.
        self.rerun_of: RunId | None = None
        self.kept: Kept | None = None
        self.hashes: dict[str, str] = {}
        self.environments: dict[str, Policy] = {}
        #: Position of the newest event; 0 before the first.
        self.seq = 0
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.reason: Reason = CREATED
        #: What it gives to the step that started it, once it has ended.
        self.outputs: dict[str, Any] = {}
        self.lock: Lock | None = None
        self.created_at = 0
        self.started_at: int | None = None
        self.completed_at: int | None = None
        self.deadline_at = 0
        self.is_cancelled = False
        self.is_forced = False
        self.cancel_by = ""
        self.is_timed_out = False
        self.scope = Scope(plan.name, plan.env, None, None)
        #: All jobs: those of the file first, in its order, then those that they became.
        self.jobs: list[Job] = []
        self.jobs_by_id: dict[JobId, Job] = {}
        self.dependents: dict[JobId, list[Job]] = {}
        #: Steps that blocks have brought beyond those of the file.
        self.steps_made = 0
        for job in plan.jobs:
            self.scope.jobs[job.id] = self.add_job(job, job.id, self.scope)
        self.connect(self.scope)
        #: Jobs of the file that are not completed.
        self.open_jobs = len(self.jobs)

    @property
    def inputs(self) -> dict[str, Any]:
        """The typed inputs of the start."""
        return self.scope.inputs

    @property
    def vars(self) -> dict[str, Any]:
        """The resolved `vars`."""
        return self.scope.vars

    @property
    def is_completed(self) -> bool:
        """True once the run has its conclusion."""
        return self.status is Status.COMPLETED

    def hash_files(self, patterns: tuple[str, ...]) -> str:
        """What `hashFiles` gives: empty where nothing matches, and in a run that comes from no repository."""
        return self.hashes.get("\n".join(patterns), "")

    def add_job(
        self, plan: JobPlan, job_id: JobId, scope: Scope, parent: Job | None = None, key: str | None = None
    ) -> Job:
        """A new job, behind all others."""
        assert job_id not in self.jobs_by_id, f"there is a job {job_id}"
        job = Job(plan, job_id, len(self.jobs), scope, parent, key)
        self.jobs.append(job)
        self.jobs_by_id[job_id] = job
        return job

    def connect(self, scope: Scope) -> None:
        """Notes which of the scope's jobs wait for which."""
        for job in scope.jobs.values():
            for need in job.plan.needs:
                self.dependents.setdefault(scope.jobs[need].id, []).append(job)

    def step(self, job: JobId, step: StepId) -> Step | None:
        """The step of that name, or None."""
        found = self.jobs_by_id.get(job)
        return found.steps_by_id.get(step) if found is not None else None

    def attempt(self, job: JobId, step: StepId, number: AttemptNo) -> Attempt | None:
        """The attempt of that name, or None."""
        found = self.step(job, step)
        if found is None or not 1 <= number <= len(found.attempts):
            return None
        return found.attempts[number - 1]
