"""Typed messages for the agent's side of the protocol: requests to start a step, and reports of the runner.

Not part of the runner's process, which has no room for dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from waterflow_agent import errors
from waterflow_agent.runner import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """A step to start: `argv` in `cwd` (absolute) with exactly `env`, and its limits.

    `pids_max` and `memory_bytes_max` need control groups; without them the step ends with `spawn-failed`.
    """

    name: str
    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    timeout_ms: int | None = None
    #: How long it may run without news from the daemon; 0 for any time.
    lease_ms: int = 0
    stop_signal: int = protocol.SIGTERM
    grace_ms: int = protocol.GRACE_MS
    output_bytes_max: int = protocol.OUTPUT_BYTES_MAX
    cgroup: bool = True
    pids_max: int | None = None
    memory_bytes_max: int | None = None
    cpu_percent_max: int | None = None
    #: The user of the process; None for the runner's own.
    user: str | None = None
    #: For another user: the directory that `cwd` must be in.
    within: str | None = None
    #: The job until whose end processes may run that the step leaves behind; None for none.
    job: str | None = None
    #: One pipe for standard output and standard error, so that their order is kept.
    joins_output: bool = False

    def encode(self) -> bytes:
        """Return the `start` message. Raises `Rejected` when the runner would refuse it."""
        message: protocol.Message = {
            "type": "start",
            "name": self.name,
            "argv": list(self.argv),
            "cwd": self.cwd,
            "env": dict(self.env),
            "timeout_ms": self.timeout_ms,
            "lease_ms": self.lease_ms,
            "stop_signal": self.stop_signal,
            "grace_ms": self.grace_ms,
            "output_bytes_max": self.output_bytes_max,
            "cgroup": self.cgroup,
            "pids_max": self.pids_max,
            "memory_bytes_max": self.memory_bytes_max,
            "cpu_percent_max": self.cpu_percent_max,
            "user": self.user,
            "within": self.within,
            "job": self.job,
            "joins_output": self.joins_output,
        }
        try:
            protocol.StartRequest(message)
            return protocol.encode(message)
        except protocol.BadMessage as error:
            raise errors.Rejected("WF340", f"step {self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class LeftProcess:
    """A process that a step has left behind; the name is the kernel's, and may be anything."""

    pid: int
    name: str
    age_ms: int

    @classmethod
    def from_json(cls, process: Mapping[str, Any]) -> Self:
        """Read the runner's form; a missing field raises `KeyError`."""
        return cls(process["pid"], process["name"], process["age_ms"])


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """How a step's process ended; `reason` is one of `protocol.REASONS`, `error` a sentence when more has to be said."""

    exit_code: int | None
    signal: int | None
    reason: str
    started_at: int | None
    finished_at: int
    output_bytes: int
    output_dropped: int
    error: str | None = None
    #: The output may contain workflow commands; an earlier runner does not say.
    has_commands: bool = True
    #: Processes that run until the job ends: the first ones, and how many there were.
    left: tuple[LeftProcess, ...] = ()
    left_count: int = 0
    #: Processes that were too many to stay, so that they were ended.
    ended_count: int = 0

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> Self:
        """Read the runner's form; unknown fields are ignored, a missing one raises `KeyError`."""
        return cls(
            exit_code=result["exit_code"],
            signal=result["signal"],
            reason=result["reason"],
            started_at=result["started_at"],
            finished_at=result["finished_at"],
            output_bytes=result["output_bytes"],
            output_dropped=result["output_dropped"],
            error=result.get("error"),
            has_commands=result.get("has_commands") is not False,
            left=tuple(map(LeftProcess.from_json, result.get("left", ()))),
            left_count=result.get("left_count", 0),
            ended_count=result.get("ended_count", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStep:
    """A step that the runner holds; `state` is `running`, `stopping` or `ended` (then with its result)."""

    name: str
    state: str
    pid: int | None
    at: int | None
    output_bytes: int
    result: StepResult | None

    @classmethod
    def from_json(cls, attempt: Mapping[str, Any]) -> Self:
        """Read the runner's form; a missing field raises `KeyError`."""
        result = attempt["result"]
        return cls(
            name=attempt["name"],
            state=attempt["state"],
            pid=attempt["pid"],
            at=attempt["at"],
            output_bytes=attempt["output_bytes"],
            result=None if result is None else StepResult.from_json(result),
        )


@dataclass(frozen=True, slots=True)
class HeldSteps:
    """Everything that the runner holds: the first report after every connect."""

    attempts: tuple[HeldStep, ...]
    #: Jobs for which processes are running that ended steps have left behind.
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The process is running; sent again in answer to a repeated start."""

    name: str
    pid: int
    at: int


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The spool holds output up to this many bytes; a hint, coalesced."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class StepExited:
    """The step has ended: no process of it is left, its output is complete, and its result is on disk."""

    name: str
    result: StepResult


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Nothing is left of a job; these processes of its steps were ended."""

    job: str
    processes: tuple[LeftProcess, ...]


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The runner refused a request; `name` is None when the request was not about a step."""

    name: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerAbilities:
    """What the runner can enforce on this machine."""

    #: Steps can run as other users than the runner.
    can_switch: bool
    #: The limits that it can set: some of `memory`, `processes` and `cpu`.
    limits: frozenset[str]


RunnerReport = HeldSteps | StepStarted | StepOutput | StepExited | JobEnded | RequestRefused
