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
        #: The runner was killed: nobody stops the process until the next one has started.
        self.is_orphan = False
        #: The concurrency groups that its run and its jobs hold, each with its holder.
        self.held: list[tuple[tuple[str, str], Any]] = []
        #: The output that it sets if it succeeds; no two attempts set the same.
        self.outputs: dict[str, Any] = {"made": f"{attempt.run}/{attempt.job}/{attempt.step}#{attempt.number}"}


class Truth:
    """All processes of steps, by attempt and by step."""

    def __init__(self) -> None:
        self.by_attempt: dict[AttemptId, list[Execution]] = {}
        self.by_step: dict[StepKey, list[Execution]] = {}
        #: The processes that run now.
        self.running: dict[Execution, None] = {}

    def started(self, key: TaskId, server: str, now: int, wall_ms: int) -> Execution:
        """Records that a process was started."""
        execution = Execution(key, server, now, wall_ms)
        attempt = key.attempt
        self.by_attempt.setdefault(attempt, []).append(execution)
        self.running[execution] = None
        self.by_step.setdefault((attempt.run, attempt.job, attempt.step), []).append(execution)
        return execution

    def ended(self, execution: Execution) -> None:
        """Records that a process has ended."""
        del self.running[execution]
