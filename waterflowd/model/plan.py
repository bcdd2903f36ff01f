"""A plan: a workflow compiled, checked, and pinned by the hash of its content.

Rules of this file: a plan is data. Text that holds `${{ }}` stays text in it, was parsed once by the compiler, and is
rendered by the engine when its turn comes; so equal files give equal plans and equal hashes. Durations are
milliseconds. A new field has a default, so that plans in old logs still load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

from waterflowd.model.ids import JobId, StepId

#: Any value that JSON can hold.
Json = Any


class InputType(Enum):
    """What an input of a start by hand may hold."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    JSON = "json"


class OnLost(Enum):
    """What happens when nobody can know how an attempt ended."""

    #: The step ends `lost`.
    FAIL = "fail"
    #: The step is tried again; only because the author wrote so.
    RETRY = "retry"
    #: A person decides.
    HOLD = "hold"


class Overlap(Enum):
    """What happens when an instant of a schedule comes while a run of the same schedule is still open."""

    #: Nothing is started for the instant.
    SKIP = "skip"
    #: It is started when the runs before it have ended.
    QUEUE = "queue"
    #: The open run is cancelled; the newest instant is started when it has ended.
    CANCEL = "cancel"


class CatchUp(Enum):
    """What happens with the instants of a schedule that came while nobody could start them."""

    #: Nothing is started for them.
    NONE = "none"
    #: One run, for the newest of them.
    LAST = "last"
    #: A run for each of them, up to a bound.
    ALL = "all"


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One typed input of a workflow or a composite step."""

    name: str
    type: InputType = InputType.STRING
    description: str = ""
    required: bool = False
    default: Json = None
    options: tuple[str, ...] = ()
    pattern: str | None = None


class PushTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs on a movement of a ref. Patterns follow GitHub's glob rules, `!` included; empty means any."""

    branches: tuple[str, ...] = ()
    branches_ignore: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    paths_ignore: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tags_ignore: tuple[str, ...] = ()


class ScheduleTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs at the instants of a cron expression in a time zone. Both are checked, and the expression has five fields."""

    cron: str
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LAST
    #: Laid over the file's own `vars`; static.
    vars: dict[str, Json] = {}


class WebhookTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs on a signed request to `/v1/hooks/<name>`."""

    name: str
    #: Name of the secret that signs.
    secret: str


class WorkflowRunTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs after another workflow of the repository. Patterns as of a push; empty means any."""

    #: Names or paths.
    workflows: tuple[str, ...]
    #: `success`, `failure`, ...; empty: however it ended.
    conclusions: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    branches_ignore: tuple[str, ...] = ()


class Triggers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What starts the workflow. `on_change` is the meaning of a file without `on`: a push that adds or changes it."""

    on_change: bool = False
    push: PushTrigger | None = None
    dispatch: bool = True
    webhook: WebhookTrigger | None = None
    workflow_run: WorkflowRunTrigger | None = None
    schedules: tuple[ScheduleTrigger, ...] = ()

    @property
    def is_only_called(self) -> bool:
        """Whether nothing starts the workflow but other workflows: its `on` has `workflow_call` alone."""
        return self == Triggers(dispatch=False)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When and how often a step is tried again. `on` and `never_on` hold `failure`, `timeout`, `lost`, `exit:N`."""

    max_attempts: int = 1
    initial_interval_ms: int = 1_000
    backoff_coefficient: float = 2.0
    max_interval_ms: int = 60_000
    #: Share of the interval that is added or taken away at random, 0 to 1.
    jitter: float = 0.1
    on: tuple[str, ...] = ("failure", "timeout")
    never_on: tuple[str, ...] = ()


class StopPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a running process group is ended: the signal, then SIGKILL after the grace."""

    signal: str = "SIGTERM"
    grace_ms: int = 10_000


class Queue(Enum):
    """What happens to those that find their concurrency group full."""

    #: They wait in the order in which they came.
    FIFO = "fifo"
    #: The newest waits; an older one that waits is cancelled.
    LATEST = "latest"
    #: They are refused.
    REJECT = "reject"


class Offline(Enum):
    """What happens to the instance of a job on a server that is not connected when its turn comes."""

    #: It fails.
    FAIL = "fail"
    #: It is skipped.
    SKIP = "skip"
    #: It waits, for `wait_ms`.
    WAIT = "wait"


class ConcurrencyPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`concurrency`: how many runs or jobs of one name may be at work at a time. The name belongs to the repository."""

    #: May be an expression.
    group: str
    limit: int = 1
    queue: Queue = Queue.FIFO
    #: Whether those at work are cancelled for the newcomer; may be an expression.
    cancel_in_progress: bool | str = False


class EnvironmentPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`environment`: the gate before a job. What the daemon's configuration asks for the same name comes on top."""

    #: May be an expression.
    name: str
    #: Principals that may approve; empty: whoever has the role.
    approvers: tuple[str, ...] = ()
    #: How many approvals are needed; 0 when the file asks for none.
    minimum: int = 0
    #: Whether the one who started the run may approve it.
    may_approve_own: bool = True


class MatrixPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`strategy.matrix`. A dimension, `include` and `exclude` are each a list, or an expression that yields one."""

    dimensions: dict[str, Json] = {}
    include: Json = ()
    exclude: Json = ()
    #: The whole matrix as one expression, in place of the three: a mapping of dimensions, with `include` and `exclude`.
    expression: str | None = None


class StrategyPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`strategy`: a job as many instances."""

    matrix: MatrixPlan | None = None
    #: A number or an expression; None: all at once.
    max_parallel: int | str | None = None
    fail_fast: bool | str = True


class TargetPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runs-on` with `target: each`: an instance on every server of the group.

    Sizes are a number of servers, or a share such as `25%`, rounded up; each may be an expression.
    """

    #: Sizes of the batches, one after the other; the last one repeats. Empty: one batch.
    batch: tuple[int | str, ...] = ()
    max_parallel: int | str | None = None
    #: With more failures than this, no new server starts; None: however many.
    max_failures: int | str | None = None
    #: Between two batches.
    pause_ms: int = 0
    offline: Offline = Offline.FAIL
    wait_ms: int = 600_000


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Steps inside of a step, in order: a branch, the body of a loop, a composite step."""

    #: `then`, `else`, `steps`, or the branch's number.
    name: str
    steps: tuple[StepPlan, ...]


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. `params`, `env`, `condition` and the rest may hold expressions as text, unless a line says otherwise.

    Nodes of the engine: `condition` (`params.if`; blocks `then` and, if given, `else`), `loop` (`params.items`, `as`,
    `max-parallel`, or `params.while`, `max-iterations`; one block), `parallel` (a block for each branch), `composite`
    (`params` are the values for its `inputs`, `outputs` its outputs; one block), `approval`, `sleep` and `workflow/run`
    (no block).
    """

    id: StepId
    #: True when the file gave the id, so that expressions may name the step.
    is_named: bool = False
    name: str
    #: Static: `shell`, `sleep`, `log`, ...
    node: str
    params: dict[str, Json] = {}
    #: The inputs that a composite step declares.
    inputs: tuple[InputSpec, ...] = ()
    env: dict[str, Json] = {}
    condition: str | None = None
    working_directory: str | None = None
    #: A number of minutes or an expression that yields one.
    timeout_minutes: float | str | None = None
    continue_on_error: bool | str = False
    retry: RetryPolicy | None = None
    on_lost: OnLost = OnLost.FAIL
    stop: StopPolicy = StopPolicy()
    #: What is kept of an attempt's output; None: the agent's usual bound.
    output_bytes_max: int | None = None
    #: Names of the secrets that `env` and `params` refer to; nothing else is filled in for the step.
    secrets: tuple[str, ...] = ()
    #: The script has expressions pasted into it (`unsafe-interpolation`).
    is_unsafe: bool = False
    #: The steps inside of a node of the engine.
    blocks: tuple[BlockPlan, ...] = ()
    #: What a composite step gives out, over its own `steps`.
    outputs: dict[str, Json] = {}
    #: Line of the step in its file, 1-based; 0 when unknown.
    line: int = 0


class CallPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reusable workflow inside of the plan that calls it. Its jobs see its own inputs, vars and env, and one another."""

    #: Of the file that is called.
    path: str
    name: str
    inputs: tuple[InputSpec, ...] = ()
    #: What the caller gives, by name; may hold expressions over the caller's contexts.
    given: dict[str, Json] = {}
    vars: dict[str, Json] = {}
    env: dict[str, Json] = {}
    #: Expressions over `jobs.<id>.outputs`.
    outputs: dict[str, Json] = {}
    #: The callee's name of a secret, and the caller's. None: all, under their own names.
    secrets: dict[str, str] | None = {}
    jobs: tuple[JobPlan, ...]


class JobPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job: its steps run in order, on one server of `group`, in one working directory.

    With `strategy` or `target` it becomes instances of itself, with `call` it is the jobs of another workflow.
    """

    id: JobId
    name: str
    #: The group's name; may be an expression over `inputs`, `vars`, `matrix` and `needs`. Empty for a call.
    group: str = ""
    #: Labels that a server must have beside the group; values may be expressions.
    labels: dict[str, Json] = {}
    target: TargetPlan | None = None
    strategy: StrategyPlan | None = None
    call: CallPlan | None = None
    concurrency: ConcurrencyPlan | None = None
    environment: EnvironmentPlan | None = None
    #: The job starts again, from its first step and on another server if there is one.
    retry: RetryPolicy | None = None
    #: Whether the working directory holds the repository's tree, or the patterns of the paths that it holds.
    checkout: bool | tuple[str, ...] = True
    needs: tuple[JobId, ...] = ()
    condition: str | None = None
    env: dict[str, Json] = {}
    timeout_minutes: float | str = 360.0
    #: How long the job may wait for a server.
    start_timeout_ms: int = 3_600_000
    continue_on_error: bool | str = False
    outputs: dict[str, Json] = {}
    steps: tuple[StepPlan, ...] = ()
    line: int = 0


class NodePlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the repository that steps of the plan use: its file, as it was at the revision."""

    name: str
    #: SHA-256 of the file.
    version: str
    source: str


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A compiled workflow. Jobs stand in the order of the file, which is the order in which the engine looks at them."""

    name: str
    #: Path in the repository, or the name under which it was sent; the workflow's identity.
    path: str
    description: str = ""
    triggers: Triggers = Triggers()
    inputs: tuple[InputSpec, ...] = ()
    vars: dict[str, Json] = {}
    env: dict[str, Json] = {}
    timeout_ms: int | None = None
    concurrency: ConcurrencyPlan | None = None
    #: Patterns of the calls of `hashFiles`, those of one call joined by line ends: their digests come with the start.
    hashed: tuple[str, ...] = ()
    #: Of all jobs, those of called workflows included. A node that is neither here nor one of Waterflow's is the servers'.
    nodes: tuple[NodePlan, ...] = ()
    #: What a run gives to the step that started it: expressions over `jobs.<id>.outputs`.
    outputs: dict[str, Json] = {}
    jobs: tuple[JobPlan, ...]

    def node(self, name: str) -> NodePlan | None:
        """The node of the repository that is called so, if it is one."""
        return next((node for node in self.nodes if node.name == name), None) if self.nodes else None


def leaf_jobs(jobs: tuple[JobPlan, ...]) -> Iterator[JobPlan]:
    """The jobs that run on servers: those of the file, and those of the workflows that it calls."""
    for job in jobs:
        if job.call is None:
            yield job
        else:
            yield from leaf_jobs(job.call.jobs)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Plan)


def encode(plan: Plan) -> bytes:
    """The plan's bytes: the same file gives the same bytes. Mappings keep the file's order, in which `vars` are evaluated."""
    return _encoder.encode(plan)


def decode(content: bytes) -> Plan:
    """The plan in `content`; raises `msgspec.ValidationError` for anything else."""
    return _decoder.decode(content)


def content_hash(content: bytes) -> str:
    """The hash that pins a plan: SHA-256 of its bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
