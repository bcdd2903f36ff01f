"""A plan: a workflow compiled, checked, and pinned by the hash of its content.

Rules of this file: a plan is data. Text with `${{ }}` is kept as text; the compiler has checked it, and the engine renders it
when it is needed. So equal files have equal plans and equal hashes. Durations are
milliseconds. A new field has a default, so that plans in old logs still load.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

from waterflowd.model.ids import JobId, StepId

_EXPRESSION = re.compile(r"\$\{\{.*?(?:\}\}|\Z)", re.DOTALL)
#: The id of the step with which a job takes a server, if an `if` depends on the server. Other ids are names, or count from 1.
SETUP_STEP = "0"
#: The node of that step if the job has containers.
CONTAINERS_NODE = "job/containers"
#: The name under which an `env` holds an expression that yields all of it. No variable is called so.
ALL_VARIABLES = "${{}}"
#: Any value that JSON can hold.
Json = Any


def without_expressions(text: str) -> str:
    """Returns a name for people whose expressions are not evaluated, or not yet: each is shown as an ellipsis."""
    return _EXPRESSION.sub("…", text) if "${{" in text else text


class InputType(Enum):
    """The type of an input."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    JSON = "json"


class OnLost(Enum):
    """What happens when the outcome of an attempt is unknown."""

    #: The step ends `lost`.
    FAIL = "fail"
    #: The step is retried; only if the author asked for it.
    RETRY = "retry"
    #: A person decides.
    HOLD = "hold"


class Overlap(Enum):
    """What happens when an instant of a schedule comes while a run of the same schedule is still open."""

    #: The instant starts no run.
    SKIP = "skip"
    #: Its run starts when the runs before it have ended.
    QUEUE = "queue"
    #: The open run is cancelled; when it has ended, a run starts for the newest instant.
    CANCEL = "cancel"


class CatchUp(Enum):
    """What happens with the instants of a schedule that passed while the daemon could not start runs."""

    #: They start no run.
    NONE = "none"
    #: One run, for the newest of them.
    LAST = "last"
    #: A run for each of them, up to a limit.
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
    """Runs on an update of a ref. Patterns follow GitHub's glob rules, including `!`; empty means any."""

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
    #: Override the file's own `vars`; static.
    vars: dict[str, Json] = {}


class WebhookTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs on a signed request to `/v1/hooks/<name>`."""

    name: str
    #: Name of the secret that signs requests.
    secret: str


class WorkflowRunTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Runs after another workflow of the repository. Patterns are like those of a push; empty means any."""

    #: Names or paths.
    workflows: tuple[str, ...]
    #: `success`, `failure`, ...; empty: any conclusion.
    conclusions: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    branches_ignore: tuple[str, ...] = ()


class Triggers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What starts the workflow. `on_change` applies to a file without `on`: a push that adds or changes it."""

    on_change: bool = False
    push: PushTrigger | None = None
    dispatch: bool = True
    webhook: WebhookTrigger | None = None
    workflow_run: WorkflowRunTrigger | None = None
    schedules: tuple[ScheduleTrigger, ...] = ()

    @property
    def is_only_called(self) -> bool:
        """Whether only other workflows start the workflow, because its `on` contains only `workflow_call`."""
        return self == Triggers(dispatch=False)

    @property
    def names(self) -> tuple[str, ...]:
        """`push`, `change`, `dispatch`, `schedule`, `webhook` and `workflow_run`, those that there are."""
        words = (
            (self.push is not None, "push"),
            (self.on_change, "change"),
            (self.dispatch, "dispatch"),
            (bool(self.schedules), "schedule"),
            (self.webhook is not None, "webhook"),
            (self.workflow_run is not None, "workflow_run"),
        )
        return tuple(word for is_there, word in words if is_there)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When and how often a step is retried. `on` and `never_on` contain `failure`, `timeout`, `lost`, `exit:N`."""

    max_attempts: int = 1
    initial_interval_ms: int = 1_000
    backoff_coefficient: float = 2.0
    max_interval_ms: int = 60_000
    #: Maximum share of the interval that is randomly added or subtracted, 0 to 1.
    jitter: float = 0.1
    on: tuple[str, ...] = ("failure", "timeout")
    never_on: tuple[str, ...] = ()


class StopPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a running process group is stopped: the signal, then SIGKILL after the grace period."""

    signal: str = "SIGTERM"
    grace_ms: int = 10_000


class LimitsPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`limits`: what a step may use at most. None: the limit of its server."""

    memory_bytes: int | None = None
    processes: int | None = None
    #: Of one processor; 200 is two processors.
    cpu_percent: int | None = None


class Queue(Enum):
    """What happens to runs and jobs whose concurrency group is full."""

    #: They wait in order of arrival.
    FIFO = "fifo"
    #: The newest one waits; an older waiting one is cancelled.
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
    """`concurrency`: how many runs or jobs of one group may be active at a time. The group belongs to the repository."""

    #: May be an expression.
    group: str
    limit: int = 1
    queue: Queue = Queue.FIFO
    #: Whether active ones are cancelled in favour of a new one; may be an expression.
    cancel_in_progress: bool | str = False


class EnvironmentPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`environment`: the gate before a job. Requirements of the daemon's configuration for the same name are added."""

    #: May be an expression.
    name: str
    #: Principals that may approve; empty: all with the role.
    approvers: tuple[str, ...] = ()
    #: Number of required approvals; 0 if the file requires none.
    minimum: int = 0
    #: Whether the person who started the run may approve it.
    may_approve_own: bool = True


class MatrixPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`strategy.matrix`. A dimension, `include` and `exclude` are each a list, or an expression that yields one."""

    dimensions: dict[str, Json] = {}
    include: Json = ()
    exclude: Json = ()
    #: The whole matrix as one expression, in place of the three: a mapping of dimensions, with `include` and `exclude`.
    expression: str | None = None


class StrategyPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`strategy`: a job that becomes many instances."""

    matrix: MatrixPlan | None = None
    #: A number or an expression; None: all at once.
    max_parallel: int | str | None = None
    fail_fast: bool | str = True


class TargetPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`runs-on` with `target: each`: an instance on every server of the group.

    Sizes are a number of servers, or a share such as `25%`, rounded up; each may be an expression.
    """

    #: Sizes of the batches in order; the last one repeats. Empty: one batch.
    batch: tuple[int | str, ...] = ()
    max_parallel: int | str | None = None
    #: After more failures than this no new server starts; None: no limit.
    max_failures: int | str | None = None
    #: Pause between two batches.
    pause_ms: int = 0
    offline: Offline = Offline.FAIL
    wait_ms: int = 600_000


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Steps inside a step, in order: a branch, the body of a loop, a composite step."""

    #: `then`, `else`, `steps`, or the branch's number.
    name: str
    steps: tuple[StepPlan, ...]


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. `params`, `env`, `condition` and the other fields may contain expressions as text, unless noted otherwise.

    Nodes of the engine: `condition` (`params.if`; blocks `then` and, if given, `else`), `loop` (`params.items`, `as`,
    `max-parallel`, or `params.while`, `max-iterations`; one block), `parallel` (a block for each branch), `composite`
    (`params` are the values for its `inputs`, `outputs` its outputs; one block), `approval`, `sleep` and `workflow/run`
    (no block).
    """

    id: StepId
    #: Whether the file sets the id, so that expressions may refer to the step.
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
    #: Limit of an attempt's output; None: the agent's default limit.
    output_bytes_max: int | None = None
    limits: LimitsPlan | None = None
    #: Names of the secrets that `env` and `params` refer to; no other secrets are filled in for the step.
    secrets: tuple[str, ...] = ()
    #: The script has expressions pasted into it (`unsafe-interpolation`).
    is_unsafe: bool = False
    #: The steps inside an engine node.
    blocks: tuple[BlockPlan, ...] = ()
    #: Outputs of a composite step: expressions over its own `steps`.
    outputs: dict[str, Json] = {}
    #: The folder of a composite step's file, from the root of the repository; `.` for the root itself.
    folder: str = ""
    #: Line of the step in its file, 1-based; 0 when unknown.
    line: int = 0


class CallPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reusable workflow inside the plan that calls it. Its jobs see its own inputs, vars and env, and one another."""

    #: Path of the called file.
    path: str
    name: str
    inputs: tuple[InputSpec, ...] = ()
    #: The caller's arguments by name; may contain expressions over the caller's contexts.
    arguments: dict[str, Json] = {}
    vars: dict[str, Json] = {}
    env: dict[str, Json] = {}
    #: Expressions over `jobs.<id>.outputs`.
    outputs: dict[str, Json] = {}
    #: The callee's name of each secret, and the caller's name. None: all secrets under the same names.
    secrets: dict[str, str] | None = {}
    jobs: tuple[JobPlan, ...]


class CheckoutPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Files of a repository in the working directory of a job."""

    #: Empty: all files.
    patterns: tuple[str, ...] = ()
    #: The directory that gets the files; empty for the job's own.
    path: str = ""
    #: Whether there is a `.git` with all of the repository's commits.
    history: bool = False
    #: The name of another repository; may be an expression. Empty: the run's own.
    repository: str = ""
    #: A branch, tag or commit; may be an expression. Empty: the run's commit, or the default branch of another repository.
    ref: str = ""
    submodules: bool = False
    #: Whether there is a `.git` with the one commit.
    shallow: bool = False
    #: Whether files in Git LFS have their contents.
    lfs: bool = False


class ReportPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`report`: a table with a row for each instance of a job."""

    #: Empty: the name of the job.
    title: str = ""
    #: Headings to texts with expressions over the job's steps, in order.
    columns: dict[str, str]


class JobPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job: its steps run in order, on one server of `group`, in one working directory.

    With `strategy` or `target` it becomes instances of itself, with `call` the jobs of another workflow.
    """

    id: JobId
    name: str
    #: The group's name; may be an expression over `inputs`, `vars`, `matrix` and `needs`. Empty for a call.
    group: str = ""
    #: Labels that a server must have in addition to the group; values may be expressions.
    labels: dict[str, Json] = {}
    target: TargetPlan | None = None
    strategy: StrategyPlan | None = None
    call: CallPlan | None = None
    concurrency: ConcurrencyPlan | None = None
    environment: EnvironmentPlan | None = None
    #: When to restart the job from its first step, on another server if possible.
    retry: RetryPolicy | None = None
    #: Whether the working directory contains the repository's files, or the patterns of the paths that it contains.
    checkout: bool | tuple[str, ...] = True
    #: What the working directory contains in place of that.
    checkouts: tuple[CheckoutPlan, ...] = ()
    #: The user of the job's processes; empty for the one that the server's agent is configured with.
    user: str = ""
    needs: tuple[JobId, ...] = ()
    condition: str | None = None
    env: dict[str, Json] = {}
    timeout_minutes: float | str = 360.0
    #: How long the job may wait for a server.
    start_timeout_ms: int = 3_600_000
    continue_on_error: bool | str = False
    outputs: dict[str, Json] = {}
    report: ReportPlan | None = None
    steps: tuple[StepPlan, ...] = ()
    line: int = 0


class NodePlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the repository that steps of the plan use: its file at the revision."""

    name: str
    #: SHA-256 of the file.
    version: str
    source: str


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A compiled workflow. Jobs are in the order of the file, in which the engine examines them."""

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
    #: Patterns of the calls of `hashFiles`, joined by newlines for each call; their digests are part of the start request.
    hashed: tuple[str, ...] = ()
    #: Nodes of all jobs, including called workflows. A node that is neither here nor built in is a server's own node.
    nodes: tuple[NodePlan, ...] = ()
    #: Outputs of a run for the step that started it: expressions over `jobs.<id>.outputs`.
    outputs: dict[str, Json] = {}
    jobs: tuple[JobPlan, ...]

    def node(self, name: str) -> NodePlan | None:
        """The node of the repository with this name, or None."""
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
    """Encodes the plan; equal files have equal bytes. Mappings keep the order of the file, in which `vars` are evaluated."""
    return _encoder.encode(plan)


def decode(content: bytes) -> Plan:
    """Decodes a plan. Raises `msgspec.ValidationError` for any other content."""
    return _decoder.decode(content)


def content_hash(content: bytes) -> str:
    """The hash that pins a plan: SHA-256 of its bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
