"""A plan: a workflow compiled, checked, and pinned by the hash of its content.

Rules of this file: a plan is data. Text that holds `${{ }}` stays text in it, was parsed once by the compiler, and is
rendered by the engine when its turn comes; so equal files give equal plans and equal hashes. Durations are
milliseconds. A new field has a default, so that plans in old logs still load.
"""

from __future__ import annotations

import hashlib
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
    """One typed input of `workflow_dispatch`."""

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


class Triggers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What starts the workflow. `on_change` is the meaning of a file without `on`: a push that adds or changes it."""

    on_change: bool = False
    push: PushTrigger | None = None
    dispatch: bool = True
    schedules: tuple[ScheduleTrigger, ...] = ()


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


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. `params`, `env`, `condition` and the rest may hold expressions as text, unless a line says otherwise."""

    id: StepId
    #: True when the file gave the id, so that expressions may name the step.
    is_named: bool = False
    name: str
    #: Static: `shell`, `sleep`, `log`, ...
    node: str
    params: dict[str, Json] = {}
    env: dict[str, Json] = {}
    condition: str | None = None
    working_directory: str | None = None
    #: A number of minutes or an expression that yields one.
    timeout_minutes: float | str | None = None
    continue_on_error: bool | str = False
    retry: RetryPolicy | None = None
    on_lost: OnLost = OnLost.FAIL
    stop: StopPolicy = StopPolicy()
    #: Line of the step in its file, 1-based; 0 when unknown.
    line: int = 0


class JobPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job: its steps run in order, on one server of `group`, in one working directory."""

    id: JobId
    name: str
    #: The group's name; may be an expression over `inputs` and `vars`.
    group: str
    needs: tuple[JobId, ...] = ()
    condition: str | None = None
    env: dict[str, Json] = {}
    timeout_minutes: float | str = 360.0
    #: How long the job may wait for a server.
    start_timeout_ms: int = 3_600_000
    continue_on_error: bool | str = False
    outputs: dict[str, Json] = {}
    steps: tuple[StepPlan, ...]
    line: int = 0


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
    jobs: tuple[JobPlan, ...]


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
