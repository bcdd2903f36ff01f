"""The truth: what really ran, where and when; no component inside the simulation can know it."""

from __future__ import annotations

from typing import Any

from waterflow_agent.attempts import AttemptId
from waterflow_agent.wire.messages import TaskId

StepKey = tuple[str, str, str]


class Execution:
    """One process that was started for an attempt. Times are the simulation's milliseconds, unless their name says wall."""

    def __init__(self, key: TaskId, server: str, started_at: int, started_wall_ms: int) -> None:
        self.key = key
        attempt = key.attempt
        self.server = server
        self.started_at = started_at
        self.started_wall_ms = started_wall_ms
        self.ended_at: int | None = None
        self.exit_code: int | None = None
        #: `exited`, or what ended the process.
        self.how = ""
        self.printed = b""
        #: The output that it sets if it succeeds; no two attempts set the same.
        self.outputs: dict[str, Any] = {"made": f"{attempt.run}/{attempt.job}/{attempt.step}#{attempt.number}"}


class Truth:
    """All processes of steps, by attempt and by step."""

    def __init__(self) -> None:
        self.by_attempt: dict[AttemptId, list[Execution]] = {}
        self.by_step: dict[StepKey, list[Execution]] = {}

    def started(self, key: TaskId, server: str, now: int, wall_ms: int) -> Execution:
        """Records that a process was started."""
        execution = Execution(key, server, now, wall_ms)
        attempt = key.attempt
        self.by_attempt.setdefault(attempt, []).append(execution)
        self.by_step.setdefault((attempt.run, attempt.job, attempt.step), []).append(execution)
        return execution
