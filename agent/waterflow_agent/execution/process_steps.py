"""Steps that are processes: turns a task into a request to the runner, and the runner's result into an outcome.

The only module that knows where the files of an attempt are, and the attempt's name at the runner. The name follows from the
attempt's identity alone, so that a later process of the agent finds its steps again.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from waterflow_agent import server_paths
from waterflow_agent.artifacts.local_protocol import CACHE_SOCKET, SOCKET
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import Rejected
from waterflow_agent.execution import sharing, working_directories
from waterflow_agent.execution.job_containers import JobContainers
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.step_policy import Account, StepPolicy
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.nodes import exits, node_process, schema, script, shell, step_files
from waterflow_agent.nodes.containers import request
from waterflow_agent.nodes.outcome import NodeResult, one_line
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.runner.reports import RunnerAbilities, RunnerReport, StepResult, StepSpec
from waterflow_agent.state.ledger import LedgerEntry
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


class Runner(Protocol):
    """The step runner, as far as steps need it; implemented by `RunnerClient`."""

    @property
    def abilities(self) -> RunnerAbilities:
        """What the runner can enforce; known before its first report."""
        ...

    def directory(self, name: str) -> Path:
        """Returns the directory with the attempt's `output`."""
        ...

    def start(self, spec: StepSpec) -> None:
        """Starts the step exactly once, even if the connection is lost meanwhile."""
        ...

    def cancel(self, name: str, *, is_forced: bool = False) -> None:
        """Stops the step with its stop signal and grace period, or kills it."""
        ...

    def end_job(self, job: str) -> None:
        """Ends what steps of this job have left behind."""
        ...

    def confirm(self, at: int) -> None:
        """Extends the leases: the daemon knew at `at` (the boot clock) that the agent was alive."""
        ...

    def forget(self, name: str) -> None:
        """Forgets the attempt and deletes its files."""
        ...

    async def receive(self) -> list[RunnerReport]:
        """Returns all reports that have arrived, and waits for one; returns nothing once closed."""
        ...


#: What a node needs: its checked parameters, or code that checks them itself.
NodeInput = schema.Parameters | Code


def _git_trust(workspace: str) -> dict[str, str]:
    """The variables with which Git accepts a job's directory, which belongs to the agent, as the user of a step."""
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": workspace}


class ProcessSteps:
    """All attempts of this agent that are processes."""

    def __init__(
        self,
        runner: Runner,
        workspaces: WorkingDirectories,
        directories: StepDirectories,
        environment: Mapping[str, str] | None = None,
        policy: StepPolicy | None = None,
        artifacts: ArtifactRelay | None = None,
        containers: JobContainers | None = None,
    ) -> None:
        """`artifacts` and `containers` are None where no step uses them."""
        #: What steps see in `WATERFLOW_AGENT`.
        self.agent_name = ""
        self._runner = runner
        self._workspaces = workspaces
        self._environment = shell.inherited(os.environ if environment is None else environment)
        self._keys: dict[str, TaskId] = {}
        self._names: dict[TaskId, str] = {}
        #: What this process has asked the runner to start.
        self._requested: dict[TaskId, StepSpec] = {}
        self._policy = policy or StepPolicy()
        self._artifacts = artifacts
        self._containers = containers
        self._directories = directories
        self._directory_numbers: dict[TaskId, int] = {}
        #: Directories of jobs whose steps have left processes behind.
        self._left_jobs: set[str] = set()

    def key_of(self, name: str) -> TaskId | None:
        """Returns the attempt with this name at the runner."""
        return self._keys.get(name)

    def restore(self, entries: Iterable[LedgerEntry]) -> None:
        """Continues with the attempts of an earlier process of the agent, and frees the directories of all others."""
        for entry in entries:
            if entry.result is None or entry.has_spool:
                self.adopt(entry.key)
            # The directory of a finished attempt may already belong to another one.
            if entry.result is None and entry.directory:
                self._directory_numbers[entry.key] = entry.directory
                self._directories.adopt(entry.directory)
                if self._artifacts is not None:
                    self._artifacts.reopen(entry.key, self._directories.path(entry.directory))
        self._directories.sweep()

    def reserve_directory(self, key: TaskId) -> int:
        """Takes a directory for the attempt's files. Returns its number for the journal."""
        number = self._directory_numbers[key] = self._directories.take()
        return number

    def adopt(self, key: TaskId) -> str:
        """Remembers an attempt that the runner may know. Returns its name there."""
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = attempt_name(key)
            self._keys[name] = key
        return name

    def spool_path(self, key: TaskId) -> str:
        """Returns the path of the attempt's output."""
        return f"{self._runner.directory(self.adopt(key))}/output"

    def is_requested(self, key: TaskId) -> bool:
        """Whether this process has requested the start, which the runner client repeats after each reconnect."""
        return key in self._requested

    def with_paths(self, task: messages.Task) -> messages.Task:
        """Returns the task with the paths that only this server knows in place of the references to them."""
        paths = self._workspaces.paths(task.key.attempt.run, task.key.attempt.job)
        env, params = server_paths.fill(task.env, paths), server_paths.fill(task.params, paths)
        directory = server_paths.fill(task.working_directory, paths)
        if env is task.env and params is task.params and directory is task.working_directory:
            return task
        return msgspec.structs.replace(task, env=env, params=params, working_directory=directory)

    def account(self, task: messages.Task) -> Account | None:
        """Returns the user of the task's step, None for the agent's own. Raises `Rejected`."""
        return self._policy.account(task, self._runner.abilities)

    def start(self, task: messages.Task, node_input: NodeInput) -> None:
        """Requests the start of the step. Raises `Rejected` or `OSError` when that is impossible; then nothing of it runs."""
        account = self.account(task)
        limits = self._policy.limits(task, self._runner.abilities)
        workspace = self._workspaces.enter(task.key.attempt.run, task.key.attempt.job, account)
        temp = self._workspaces.temporary(task.key.attempt.run, task.key.attempt.job, account)
        stop_signal = _signal_number(task.stop_signal)
        name = self.adopt(task.key)
        files = self._directories.path(self._directory_numbers[task.key])
        location = shell.AttemptLocation(
            files=files,
            workspace=str(workspace),
            temp=str(temp),
            agent=self.agent_name,
            containers=self._start_of_containers(task, node_input, account),
        )
        cwd = working_directories.resolve(workspace, task.working_directory, account)
        environment = self._environment
        if account is not None:
            environment = {**environment, **account.environment, **_git_trust(str(workspace))}
        is_script = isinstance(node_input, schema.Shell | schema.Script)
        if is_script and task.container:
            inner = prepare(task, node_input, location, request.START)
            command = request.command(inner, task.container, _inside(workspace, cwd), location, environment)
        else:
            command = prepare(task, node_input, location, environment)
        if self._artifacts is not None and (socket := _socket_of(node_input)):
            self._artifacts.open(task.key, files, socket)
        if account is not None:
            sharing.share_files(files, account.uid)
        spec = StepSpec(
            name=name,
            argv=command.argv,
            cwd=str(cwd),
            env=command.env,
            timeout_ms=task.timeout_ms,
            lease_ms=task.lease_ms,
            stop_signal=stop_signal,
            grace_ms=task.grace_ms,
            output_bytes_max=task.output_bytes_max,
            pids_max=limits.get("processes"),
            memory_bytes_max=limits.get("memory"),
            cpu_percent_max=limits.get("cpu"),
            user=None if account is None else account.name,
            within=None if account is None else str(workspace),
            job=str(workspace) if is_script else None,
            joins_output=is_script,
        )
        self._runner.start(spec)
        self._requested[task.key] = spec

    def _start_of_containers(self, task: messages.Task, node_input: NodeInput, account: Account | None) -> str:
        """Returns the directory of the containers that the step starts; "" for any other step."""
        if self._containers is None or not isinstance(node_input, schema.JobContainers):
            return ""
        return str(self._containers.create(task.key.attempt.run, task.key.attempt.job, account))

    def start_again(self, key: TaskId) -> None:
        """Repeats a start that the runner refused because it was about to end."""
        spec = self._requested.get(key)
        if spec is not None:
            self._runner.start(spec)

    def stop(self, key: TaskId, *, is_forced: bool) -> None:
        """Stops the process with its stop signal and grace period, or kills it. Its exit is reported as usual."""
        self._runner.cancel(self.adopt(key), is_forced=is_forced)

    def confirm_leases(self, at: int) -> None:
        """Extends the leases of all steps: the daemon knew at `at` (the boot clock) that this agent was alive."""
        self._runner.confirm(at)

    def collect(self, key: TaskId, result: StepResult, cancel_reason: str) -> NodeResult:
        """Returns what the exit of the process means, with the outputs that the step has written."""
        spec = self._requested.get(key)
        timeout_ms = None if spec is None else spec.timeout_ms
        end = exits.interpret(result, timeout_ms=timeout_ms, cancel_reason=cancel_reason)
        number = self._directory_numbers.get(key)
        if result.left:
            self._left_jobs.add(self._job_directory(key.attempt.run, key.attempt.job))
            if number is not None:
                self._directories.never_reuse(number)
        if result.reason not in exits.RAN or number is None:
            return end
        directory = self._directories.path(number)
        if node_process.is_node_directory(directory):
            return node_process.finish(end, directory)
        problem = request.problem(directory)
        if problem and end.outcome is Outcome.FAILURE and end.exit_code:
            end = msgspec.structs.replace(end, reason_code="node-error", reason_text=one_line(problem))
        environment = self._environment if spec is None else spec.env
        path = request.search_path(directory) or environment.get("PATH", shell.DEFAULT_PATH)
        return shell.finish(end, step_files.locate(directory), path)

    def release_files(self, key: TaskId) -> None:
        """Frees the directory of the step's files, once the result is in the journal."""
        number = self._directory_numbers.pop(key, None)
        if self._artifacts is not None:
            self._artifacts.close_socket(key)
        if number is not None:
            self._directories.release(number)

    def release(self, key: TaskId) -> None:
        """Forgets an attempt of which the daemon has everything. Does nothing for an attempt without a process."""
        self.release_files(key)
        self._requested.pop(key, None)
        name = self._names.pop(key, None)
        if name is None:
            return
        del self._keys[name]
        self._runner.forget(name)

    def forget_unknown(self, name: str) -> None:
        """Forgets an exited step that the journal does not know."""
        self._runner.forget(name)

    def jobs(self) -> list[tuple[str, str]]:
        """Returns run and job of each working directory."""
        return self._workspaces.jobs()

    def release_job(self, run: str, job: str, *, is_kept: bool = False) -> None:
        """Deletes or keeps the working directory of a job that has ended. A process that is about to exit may still use it."""
        if self._left_jobs:
            self._end_job(self._job_directory(run, job))
        self._workspaces.release(run, job, is_kept=is_kept)
        if self._containers is not None:
            self._containers.job_ended()

    def held_jobs(self, directories: Iterable[str]) -> None:
        """Notes for which jobs the runner has processes that steps have left behind."""
        self._left_jobs.update(directories)
        self.end_lost_jobs()

    def end_lost_jobs(self) -> None:
        """Ends what steps of jobs have left behind that have no directory any longer."""
        for directory in [directory for directory in self._left_jobs if not os.path.isdir(directory)]:
            self._end_job(directory)

    def _job_directory(self, run: str, job: str) -> str:
        return self._workspaces.paths(run, job)[server_paths.WORKSPACE]

    def _end_job(self, directory: str) -> None:
        if directory in self._left_jobs:
            self._left_jobs.discard(directory)
            self._runner.end_job(directory)

    def continue_job(self, task: messages.Task) -> None:
        """Gives a job that starts in the middle the directory of the earlier one. Raises `Rejected` WF754 and `OSError`."""
        if task.continues is not None:
            self._workspaces.take_over(task.key.attempt.run, task.key.attempt.job, task.continues)

    def stop_unknown(self, name: str) -> None:
        """Stops a step that the journal does not know."""
        self._runner.cancel(name)


def prepare(
    task: messages.Task, node_input: NodeInput, location: shell.AttemptLocation, environment: Mapping[str, str]
) -> shell.Command:
    """Writes the files of a step and returns its command. Raises `Rejected` or `OSError`."""
    if isinstance(node_input, schema.Shell):
        return shell.prepare(node_input, task, location, environment)
    if isinstance(node_input, schema.Script):
        return script.prepare(node_input, task, location, environment)
    return node_process.prepare(task, location, environment, node_input if isinstance(node_input, Code) else None)


def _socket_of(node_input: NodeInput) -> str:
    """The socket that a node needs, or empty."""
    if isinstance(node_input, schema.CacheRestore | schema.CacheSave) and node_input.scope == "server":
        return CACHE_SOCKET
    needs = schema.ArtifactUpload | schema.ArtifactDownload | schema.CacheRestore | schema.CacheSave
    return SOCKET if isinstance(node_input, needs) else ""


def _inside(workspace: Path, cwd: Path) -> str:
    """Returns the path of a step's directory in the job's container, which has the job's directory under the same path."""
    return os.path.normpath(workspace / os.path.relpath(os.path.realpath(cwd), os.path.realpath(workspace)))


def attempt_name(key: TaskId) -> str:
    """Returns the attempt's name at the runner: readable, safe as a directory name, and unique."""
    digest = hashlib.sha256(msgspec.msgpack.encode(key)).hexdigest()[:20]
    run = _UNSAFE.sub("_", key.attempt.run)[:40].strip("_") or "run"
    return f"{run}.{key.attempt.number}.{digest}"


def _signal_number(name: str) -> int:
    text = name.upper()
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].value
    except KeyError:
        raise Rejected("WF707", f'stop-signal: unknown signal "{name}"') from None
