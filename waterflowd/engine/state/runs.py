"""The state of one run, as the fold of its events.

Rules of this file: data and queries on it. Only `evolve` writes these objects, in place and at a cost that does not grow with
the run; everything else reads them. Nothing here decides.

A run has jobs, a job has blocks, a block has steps (blocks.py), a step has attempts. The current steps of a job's open blocks
are active.

A job has steps, or becomes other jobs when its turn comes: instances of itself (`strategy`, `target: each`), or the jobs of
the workflow that it calls. Their ids start with its own, and they come after all other jobs in `run.jobs`.

References go down from the run; those that go up (to the parent, the scope, the outer scope) are weak. So a run that is dropped
is freed at once, without the garbage collector. Anyone who uses a job or a scope keeps its run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from waterflowd.engine.events import Policy
from waterflowd.engine.state.blocks import LOOP, PARALLEL, Attempt, Block, Step
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import BlockPlan, JobPlan, Offline, Plan, StepPlan, without_expressions
from waterflowd.model.reasons import CREATED, Reason
from waterflowd.model.records import FirstFailure, KeptDirectory, Reused, Trigger, TriggerKind
from waterflowd.model.reports import ReportCells
from waterflowd.model.statuses import Conclusion, Status

#: Until `RunCreated` says what started the run.
_NO_TRIGGER = Trigger(kind=TriggerKind.API)


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Scope:
    """What the jobs of one workflow share: the run's own workflow, or one that a job calls."""

    name: str
    env: dict[str, Any]
    outer_ref: ref[Scope] | None = None
    #: Names of secrets in this workflow and in the outer scope; None: all secrets under the same names.
    secrets: dict[str, str] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)
    #: By the id in the file.
    jobs: dict[JobId, Job] = field(default_factory=dict)

    @property
    def outer(self) -> Scope | None:
        """The scope of the job that calls this workflow; None for the run's own."""
        return self.outer_ref() if self.outer_ref is not None else None

    def secret(self, name: str) -> str | None:
        """The name of a secret outside all calls; None when a caller does not pass it."""
        scope: Scope | None = self
        while scope is not None and (outer := scope.outer) is not None:
            if scope.secrets is not None:
                if name not in scope.secrets:
                    return None
                name = scope.secrets[name]
            scope = outer
        return name


@dataclass(slots=True, eq=False, repr=False)
class Children:
    """The jobs that a job has become, and the order in which they start."""

    jobs: list[Job] = field(default_factory=list)
    #: The workflow that is called; None for instances.
    scope: Scope | None = None
    #: How many are not completed, and how many of these have started.
    open: int = 0
    active: int = 0
    #: The first instance that may not start yet.
    next_index: int = 0
    failures: int = 0
    max_parallel: int | None = None
    max_failures: int | None = None
    fail_fast: bool = False
    #: The index at which each batch ends, and the current batch, from 0.
    batches: list[int] = field(default_factory=list)
    batch: int = 0
    pause_ms: int = 0
    #: When the next batch may start.
    resume_at: int | None = None
    #: Why no new instance starts.
    halted: Reason | None = None


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Job:
    """One job of a run."""

    plan: JobPlan
    id: JobId
    #: Its index in `run.jobs`.
    index: int
    scope_ref: ref[Scope]
    parent_ref: ref[Job] | None = None
    #: Of an instance: its unique key, its values, and its position among the others.
    key: str | None = None
    matrix: dict[str, Any] = field(default_factory=dict)
    position: int = 0
    #: The only server that an instance may run on.
    pinned: AgentId | None = None
    pinned_name: str = ""
    #: Of a job that starts at a step: the server with the earlier job's directory. Only the first try uses it.
    kept: KeptDirectory | None = None
    children: Children | None = None
    name: str = field(init=False)
    group: str = field(init=False)
    labels: dict[str, str] = field(default_factory=dict)
    status: Status = Status.QUEUED
    conclusion: Conclusion | None = None
    outcome: Conclusion | None = None
    reason: Reason = CREATED
    steps_by_id: dict[StepId, Step] = field(default_factory=dict)
    #: How many blocks have started so far.
    blocks_made: int = 0
    #: Blocks that have not ended, by number.
    blocks: dict[int, Block] = field(default_factory=dict)
    root: Block = field(init=False)
    #: The root blocks of earlier tries that still have steps in `steps_by_id`: in blocks that have not started in this try.
    earlier_roots: list[Block] = field(default_factory=list)
    #: How many steps wait for approval; the job's timeout is suspended meanwhile.
    open_approvals: int = 0
    #: How many needs are not completed; an instance is created when there are none.
    open_needs: int = field(init=False)
    #: All gates have been passed: its steps or children are active.
    is_begun: bool = False
    #: Of an instance: it may start, as its predecessors leave room for it.
    is_admitted: bool = False
    #: The name of its environment, once it is known.
    environment: str | None = None
    approval: Approval | None = None
    is_approved: bool = False
    lock: Lock | None = None
    #: What steps wrote to `WATERFLOW_ENV`.
    env: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    #: Its values in the report, once it has ended.
    report: ReportCells | None = None
    agent: AgentId | None = None
    agent_name: str = ""
    agent_facts: dict[str, Any] = field(default_factory=dict)
    #: The boot of the server at the newest dispatch there, and when it last reported, by the log's clock.
    agent_boot_id: str = ""
    agent_reported_at: int = 0
    #: Servers of earlier tries.
    avoid: tuple[AgentId, ...] = ()
    #: The try, from 1, and when the next one starts.
    number: int = 1
    retry_at: int | None = None
    timeout_ms: int = 0
    ready_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    #: Set while the job waits for its first server.
    start_deadline_at: int | None = None
    #: Set by the first dispatch.
    deadline_at: int | None = None
    is_timed_out: bool = False
    #: It must end before it has started anything.
    is_skipped: bool = False
    #: The run, or the job alone, was cancelled while the job was active. Jobs that start later, by their `if`, are not
    #: affected.
    is_cancelled: bool = False
    stop_reason: Reason = CREATED
    #: What `success()` and `failure()` see in the jobs that need this one: its conclusion and those of all before it.
    has_success: bool = True
    has_failure: bool = False

    @property
    def may_await_server(self) -> bool:
        """False for an instance for one server that has not started anything, and must not wait until that is connected."""
        target = self.plan.target
        has_begun = self.agent is not None or self.number > 1
        return has_begun or self.pinned is None or target is None or target.offline is Offline.WAIT

    @property
    def required_agent(self) -> AgentId | None:
        """The only server that may execute its steps; None if any server of its group may."""
        return self.agent or self.pinned or (self.kept.agent if self.kept is not None else None)

    def __post_init__(self) -> None:
        self.name = without_expressions(self.plan.name)
        self.group = self.plan.group
        self.open_needs = 0 if self.key is not None else len(self.plan.needs)
        self.root = self._new_root()

    @property
    def scope(self) -> Scope:
        """What it shares with the other jobs of its workflow."""
        scope = self.scope_ref()
        assert scope is not None, "the run of this job has been dropped"
        return scope

    @property
    def parent(self) -> Job | None:
        """The job that became this one and others."""
        return self.parent_ref() if self.parent_ref is not None else None

    @property
    def is_instance(self) -> bool:
        """True for one of the jobs that a job with `strategy` or `target` has become."""
        return self.key is not None

    @property
    def is_template(self) -> bool:
        """True for a job that becomes instances of itself."""
        return self.key is None and (self.plan.strategy is not None or self.plan.target is not None)

    @property
    def own_environment(self) -> str | None:
        """Its environment; for an instance that of the job that became it."""
        job = self
        while job.is_instance and (parent := job.parent) is not None:
            job = parent
        return job.environment

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments whose gates it has passed: its own, and those of the jobs that call it, innermost first."""
        found: list[str] = []
        job: Job | None = self
        while job is not None:
            if job.environment is not None:
                found.append(job.environment)
            job = job.parent
        return tuple(found)

    @property
    def caller(self) -> Job | None:
        """The job that calls the workflow that this one belongs to; None in the run's own workflow."""
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
        """The first step of the root block that failed without `continue-on-error`."""
        return self.root.failed_step

    @property
    def current(self) -> Step | None:
        """The current step of the root block."""
        return self.root.current

    def active_steps(self) -> Iterator[Step]:
        """The active steps without blocks, in the order in which their blocks started."""
        for block in self.blocks.values():
            step = block.current
            if step is not None and not step.has_blocks and step.status is not Status.QUEUED:
                yield step

    def has_other_active_step(self, step: Step) -> bool:
        """Whether another step without blocks is active."""
        return any(other is not step for other in self.active_steps())

    def new_root(self) -> None:
        """Replaces the root block by a new one with all its steps queued."""
        roots = [*self.earlier_roots, self.root]
        self.blocks.clear()
        self.root = self._new_root()
        used = {step.root for step in self.steps_by_id.values()}
        self.earlier_roots = [root for root in roots if root in used]

    def _new_root(self) -> Block:
        return self._new_block(None, 0, () if self.is_template else self.plan.steps, "")

    def new_block(self, owner: Step, plan: BlockPlan) -> Block:
        """A new block of a step, with its steps queued."""
        index = len(owner.blocks)
        is_many = owner.plan.node in (LOOP, PARALLEL)
        block = self._new_block(owner, index, plan.steps, f"{owner.id}[{index}]/" if is_many else f"{owner.id}/")
        owner.blocks.append(block)
        return block

    def _new_block(self, owner: Step | None, index: int, plans: tuple[StepPlan, ...], prefix: str) -> Block:
        block = Block(self.blocks_made, ref(owner) if owner is not None else None, index)
        self.blocks_made += 1
        block_ref = ref(block)
        for plan in plans:
            step_id = StepId(prefix + plan.id)
            known = self.steps_by_id.get(step_id)
            step = Step(plan, step_id, block_ref, known.attempts if known is not None else [])
            block.steps.append(step)
            self.steps_by_id[step_id] = step
        if block.steps:
            self.blocks[block.number] = block
        return block


@dataclass(slots=True, eq=False, repr=False)
class Run:
    """One execution of a plan."""

    id: RunId
    plan: Plan
    plan_hash: str = ""
    number: int = 0
    trigger: Trigger = _NO_TRIGGER
    repository: str | None = None
    revision: str | None = None
    flags: frozenset[int] = frozenset()
    #: Variables that were set at the start and override the file's `vars`.
    start_vars: dict[str, Any] = field(default_factory=dict)
    #: The run that this one re-runs, and what it reuses of it.
    rerun_of: RunId | None = None
    reused: Reused | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    environments: dict[str, Policy] = field(default_factory=dict)
    #: Position of the newest event; 0 before the first.
    seq: int = 0
    status: Status = Status.QUEUED
    conclusion: Conclusion | None = None
    reason: Reason = CREATED
    #: What it returns to the step that started it, once it has ended.
    outputs: dict[str, Any] = field(default_factory=dict)
    lock: Lock | None = None
    created_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    deadline_at: int = 0
    is_cancelled: bool = False
    is_forced: bool = False
    cancel_by: str = ""
    is_timed_out: bool = False
    scope: Scope = field(init=False)
    #: All jobs: those of the file first, in its order, then those that they became.
    jobs: list[Job] = field(default_factory=list)
    jobs_by_id: dict[JobId, Job] = field(default_factory=dict)
    dependents: dict[JobId, list[Job]] = field(default_factory=dict)
    #: How many steps blocks have added to those of the file.
    steps_made: int = 0
    #: How many jobs of the file are not completed.
    open_jobs: int = field(init=False)
    #: Of all jobs that do not become others: how many there are so far, how many are completed, and how many of these failed.
    leaves: int = field(init=False)
    leaves_completed: int = 0
    leaves_failed: int = 0
    first_failure: FirstFailure | None = None
    #: Groups and servers that it has used, in the order of their first use.
    groups: dict[str, None] = field(default_factory=dict)
    servers: dict[str, None] = field(default_factory=dict)
    #: Characters of the summaries and annotations of all attempts.
    summary_length: int = 0
    #: Characters of the values of all reports.
    report_length: int = 0

    def __post_init__(self) -> None:
        self.scope = Scope(self.plan.name, self.plan.env)
        for job in self.plan.jobs:
            self.scope.jobs[job.id] = self.add_job(job, job.id, self.scope)
        self.connect(self.scope)
        self.open_jobs = self.leaves = len(self.jobs)

    @property
    def inputs(self) -> dict[str, Any]:
        """The typed inputs of the run."""
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
        """The value of `hashFiles`: empty where no file matches, and in a run without a repository."""
        return self.hashes.get("\n".join(patterns), "")

    def add_job(
        self, plan: JobPlan, job_id: JobId, scope: Scope, parent: Job | None = None, key: str | None = None
    ) -> Job:
        """A new job, after all others."""
        assert job_id not in self.jobs_by_id, f"a job {job_id} exists already"
        job = Job(plan, job_id, len(self.jobs), ref(scope), ref(parent) if parent is not None else None, key)
        self.jobs.append(job)
        self.jobs_by_id[job_id] = job
        return job

    def connect(self, scope: Scope) -> None:
        """Records which of the scope's jobs depend on which."""
        for job in scope.jobs.values():
            for need in job.plan.needs:
                self.dependents.setdefault(scope.jobs[need].id, []).append(job)

    def step(self, job: JobId, step: StepId) -> Step | None:
        """The step with this id, or None."""
        found = self.jobs_by_id.get(job)
        return found.steps_by_id.get(step) if found is not None else None

    def attempt(self, job: JobId, step: StepId, number: AttemptNo) -> Attempt | None:
        """The attempt with this number, or None."""
        found = self.step(job, step)
        if found is None or not 1 <= number <= len(found.attempts):
            return None
        return found.attempts[number - 1]
