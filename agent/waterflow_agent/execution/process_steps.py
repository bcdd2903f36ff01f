"""Steps that are processes: from a task to what the runner is asked for, and from the runner's result to an outcome.

The only module that knows where an attempt's files are and what its name at the runner is. The name follows from the key
alone, so a later process of the agent finds its steps again.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.execution import working_directories
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.nodes import exits, node_process, schema, script, shell, step_files
from waterflow_agent.nodes.outcome import NodeResult
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.runner.reports import RunnerReport, StepResult, StepSpec
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskKey

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


class Runner(Protocol):
    """What is asked of the step runner; `supervision.RunnerClient` is the real one."""

    def directory(self, name: str) -> Path:
        """Where the runner keeps the attempt's `output`."""
        ...

    def start(self, spec: StepSpec) -> None:
        """Starts the step, once, whatever happens to the connection."""
        ...

    def cancel(self, name: str, *, is_forced: bool = False) -> None:
        """Stops the step by its policy, or at once."""
        ...

    def forget(self, name: str) -> None:
        """The attempt is of no use any more, and its files neither."""
        ...

    async def receive(self) -> list[RunnerReport]:
        """All reports that have come, waiting for one; empty once closed."""
        ...


class _Begun(msgspec.Struct, frozen=True):
    """What this process asked of the runner."""

    spec: StepSpec
    timeout_ms: int


class ProcessSteps:
    """All attempts of this agent that are processes."""

    def __init__(
        self,
        runner: Runner,
        workspaces: WorkingDirectories,
        directories: StepDirectories,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        #: What steps see in `WATERFLOW_AGENT`.
        self.agent_name = ""
        self._runner = runner
        self._workspaces = workspaces
        self._environment = shell.inherited(os.environ if environment is None else environment)
        self._keys: dict[str, TaskKey] = {}
        self._names: dict[TaskKey, str] = {}
        self._begun: dict[TaskKey, _Begun] = {}
        self._directories = directories
        self._places: dict[TaskKey, int] = {}

    def key_of(self, name: str) -> TaskKey | None:
        """The attempt that the runner knows by `name`."""
        return self._keys.get(name)

    def ready(self) -> None:
        """Every attempt of an earlier start was adopted: what nobody has may be used again."""
        self._directories.sweep()

    def reserve(self, key: TaskKey) -> int:
        """Takes a directory for the attempt's files, and gives its number for the journal."""
        place = self._places[key] = self._directories.take()
        return place

    def adopt(self, key: TaskKey, place: int = 0) -> str:
        """Takes notice of an attempt that the runner may have, and gives its name there; `place` is the journal's number."""
        if place:
            self._places[key] = place
            self._directories.adopt(place)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = attempt_name(key)
            self._keys[name] = key
        return name

    def spool_path(self, key: TaskKey) -> str:
        """Where the attempt's output is."""
        return f"{self._runner.directory(self.adopt(key))}/output"

    def is_asked_for(self, key: TaskKey) -> bool:
        """Whether this process has asked for the start, so that the supervisor asks again after each reconnect."""
        return key in self._begun

    def begin(self, task: messages.Task, given: schema.Parameters | Code, now_s: float) -> None:
        """Has the step started. Raises `Rejected` or `OSError` when it cannot be; then nothing of it ran or will."""
        workspace = self._workspaces.enter(task.key.run, task.key.job, now_s)
        cwd = working_directories.resolve(workspace, task.working_directory)
        stop_signal = _signal_number(task.stop_signal)
        name = self.adopt(task.key)
        files = self._directories.path(self._places[task.key])
        place = shell.AttemptLocation(files=files, workspace=str(workspace), agent=self.agent_name)
        command = prepare(task, given, place, self._environment)
        spec = StepSpec(
            name=name,
            argv=command.argv,
            cwd=str(cwd),
            env=command.env,
            timeout_ms=task.timeout_ms,
            stop_signal=stop_signal,
            grace_ms=task.grace_ms,
            output_bytes_max=task.output_bytes_max,
        )
        self._runner.start(spec)
        self._begun[task.key] = _Begun(spec, task.timeout_ms)

    def begin_again(self, key: TaskKey) -> None:
        """Repeats a start that the runner refused because it was about to end."""
        begun = self._begun.get(key)
        if begun is not None:
            self._runner.start(begun.spec)

    def stop(self, key: TaskKey, *, is_forced: bool) -> None:
        """Ends the process by its policy, or at once; its end comes back as a report."""
        self._runner.cancel(self.adopt(key), is_forced=is_forced)

    def collect(self, key: TaskKey, result: StepResult, cancel_reason: str) -> NodeResult:
        """What the end of the process means, with what the script handed back."""
        begun = self._begun.get(key)
        timeout_ms = None if begun is None else begun.timeout_ms
        end = exits.interpret(result, timeout_ms=timeout_ms, cancel_reason=cancel_reason)
        place = self._places.get(key)
        if result.reason not in exits.RAN or place is None:
            return end
        directory = self._directories.path(place)
        if node_process.is_node_directory(directory):
            return node_process.finish(end, directory)
        return shell.finish(end, step_files.locate(directory))

    def collected(self, key: TaskKey) -> None:
        """The result is in the journal: the step's own files may go."""
        place = self._places.pop(key, None)
        if place is not None:
            self._directories.release(place)

    def release(self, key: TaskKey) -> None:
        """The daemon has all of it; nothing happens for an attempt that never was a process here."""
        self.collected(key)
        self._begun.pop(key, None)
        name = self._names.pop(key, None)
        if name is None:
            return
        del self._keys[name]
        self._runner.forget(name)

    def forget_unknown(self, name: str) -> None:
        """Drops an ended attempt that the journal does not know."""
        self._runner.forget(name)

    def jobs(self) -> list[tuple[str, str]]:
        """Run and job of each working directory that is there."""
        return self._workspaces.jobs()

    def release_job(self, run: str, job: str) -> None:
        """The job is over: its working directory goes. A process that is about to end may still stand in it."""
        self._workspaces.release(run, job)

    def stop_unknown(self, name: str) -> None:
        """Ends an attempt that the journal does not know: nobody would ever ask for its result."""
        self._runner.cancel(name)


def prepare(
    task: messages.Task, given: schema.Parameters | Code, place: shell.AttemptLocation, start: Mapping[str, str]
) -> shell.Command:
    """The command of a step that is a process, with its files written; `given` is what its node needs.

    Raises `Rejected` or `OSError`.
    """
    if isinstance(given, schema.Shell):
        return shell.prepare(given, task, place, start)
    if isinstance(given, schema.Script):
        return script.prepare(given, task, place, start)
    return node_process.prepare(task, place, start, given if isinstance(given, Code) else None)


def attempt_name(key: TaskKey) -> str:
    """The attempt's name at the runner: readable, safe as a directory's name, and different for each key."""
    digest = hashlib.sha256(msgspec.msgpack.encode(key)).hexdigest()[:20]
    run = _UNSAFE.sub("_", key.run)[:40].strip("_") or "run"
    return f"{run}.{key.attempt}.{digest}"


def _signal_number(name: str) -> int:
    text = name.upper()
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].value
    except KeyError:
        raise Rejected("WF707", f'stop-signal: "{name}" is no signal') from None
