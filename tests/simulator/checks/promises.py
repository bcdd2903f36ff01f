"""The checkers: what is promised, compared with what happened. The first broken promise ends the simulation.

Rules of this file:

- Each check names its promise (G1 to G9). A check looks at the truth, at the durable log and at what left the daemon,
  never at what the components say about themselves.
- The shadow of a run is the fold of its durable events, made here, one event at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulator.checks import oracle
from tests.simulator.checks.child_runs import ChildRunChecker
from tests.simulator.checks.driver import DriverChecker
from tests.simulator.checks.gates import GateChecker
from tests.simulator.checks.ref_updates import RefUpdateChecker
from tests.simulator.checks.schedules import ScheduleChecker
from tests.simulator.checks.webhooks import DeliveryChecker
from tests.simulator.checks.workflow_runs import WorkflowRunChecker
from tests.simulator.environment import Environment
from tests.simulator.faults import FORGED
from tests.simulator.outside.host import Host
from tests.simulator.outside.repository import Repository
from tests.simulator.outside.server import Server
from tests.simulator.triggered import Triggered
from tests.simulator.truth import Execution
from waterflow_agent.wire import messages
from waterflowd.engine import Run, events, evolve
from waterflowd.engine.state.blocks import Attempt, Step
from waterflowd.engine.state.runs import Job
from waterflowd.fleet.events import AgentRevoked
from waterflowd.model import plan as plans
from waterflowd.model.ids import FLEET, AgentId, AttemptId, JobId, RunId, StepId, run_stream
from waterflowd.model.records import Batch, Record
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.testing.memory_log import MemoryLog

#: How long after its time limit, or after the healing, a job may take to end: the link is found dead and reopened, the
#: stop is sent, and the grace period passes.
JOB_GRACE_MS = 40_000
#: The longest time from the answer to a revocation until the daemon has settled what the agent had sent, with the
#: daemon frozen or its disk full; then until what the agent held is lost, with a restart in between.
REVOKED_MS = 30_000
LOST_MS = 30_000


class Checks:
    """All checkers of one simulation."""

    def __init__(
        self,
        environment: Environment,
        servers: Sequence[Server],
        repositories: Sequence[Repository],
        deliveries: DeliveryChecker | None,
    ) -> None:
        self._environment = environment
        self._expect, self._fail = environment.expect, environment.fail
        self._shadows = environment.shadows
        self._servers = servers
        self._ref_updates = {one.settings.name: RefUpdateChecker(environment, one) for one in repositories}
        self._triggers: list[ScheduleChecker | WorkflowRunChecker | DeliveryChecker] = []
        for repository in repositories:
            if isinstance(repository, Triggered):
                self._triggers += [
                    ScheduleChecker(environment, repository),
                    WorkflowRunChecker(environment, repository),
                ]
        if deliveries is not None:
            self._triggers.append(deliveries)
        self._gates = GateChecker(environment)
        self._child_runs = ChildRunChecker(environment)
        self._driver = DriverChecker(environment, self._gates, self._child_runs)
        #: What was confirmed to people or agents; it must be true after every crash.
        self.acknowledged_starts: dict[str, RunId] = {}
        self._sleeps: dict[tuple[RunId, JobId, StepId], int] = {}
        self._acknowledged_cancels: set[RunId] = set()
        self._acknowledged_results: dict[messages.TaskId, messages.Finished] = {}
        self._acknowledged_output: dict[AttemptId, int] = {}
        #: Revoked agents, and when the revocation was confirmed.
        self._revoked: dict[AgentId, int] = {}
        #: Jobs that had ended before a backup was restored: agents may have been told already, or hear it only now.
        self._over_before: set[tuple[str, str]] = set()

    # The log ----------------------------------------------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """Applies a durable batch to the shadow runs and compares the driver with them (G2, G5)."""
        touched = []
        for append in batch.appends:
            if not append.stream.startswith("run/"):
                continue
            run_id = RunId(append.stream[4:])
            shadow = self._shadow(run_id, append.events)
            self._expect(shadow.seq == append.expected, f"G2: {append.stream} has a gap at {append.expected}")
            for event in append.events:
                self._check_event(shadow, event)
                self._evolve(shadow, event)
            touched.append(shadow)
        self._committed_triggers(batch)
        self._child_runs.committed(batch)
        self._driver.check(touched)

    def restored(self, memory: MemoryLog) -> None:
        """Folds the shadow runs of the older log again, and forgets confirmations that are no longer true.

        Agents were not restored: what a restored backup holds open must never start again.
        """
        self._over_before.update(
            (shadow.id, job.id) for shadow in self._shadows.values() for job in shadow.jobs if _has_ended(shadow, job)
        )
        self._shadows.clear()
        for ref_updates in self._ref_updates.values():
            ref_updates.forget()
        for checker in self._triggers:
            checker.forget()
        self._gates.forget()
        self._child_runs.forget()
        self._acknowledged_results.clear()
        self._acknowledged_output.clear()
        for batch in memory.commits:
            for append in batch.appends:
                if append.stream.startswith("run/"):
                    shadow = self._shadow(RunId(append.stream[4:]), append.events)
                    for event in append.events:
                        self._evolve(shadow, event, is_news=False)
            self._committed_triggers(batch, is_news=False)
            self._child_runs.committed(batch, is_news=False)
        for ref_updates in self._ref_updates.values():
            ref_updates.is_held = True
        known = self.acknowledged_starts.items()
        self.acknowledged_starts = {key: run for key, run in known if memory.run_for_key(key) == run}
        self._acknowledged_cancels = {
            run for run in self._acknowledged_cancels if run in self._shadows and self._shadows[run].is_cancelled
        }
        self._revoked = {agent: at for agent, at in self._revoked.items() if _is_revoked(memory, agent)}
        for shadow in self._shadows.values():
            self._expect(shadow.is_completed, f"a restored backup continues {shadow.id}")

    def _committed_triggers(self, batch: Batch, *, is_news: bool = True) -> None:
        for ref_updates in self._ref_updates.values():
            ref_updates.committed(batch)
        for checker in self._triggers:
            checker.committed(batch, is_news=is_news)

    def synced(self, repository: str, requested: dict[str, int]) -> None:
        """See `Observer`."""
        self._ref_updates[repository].synced(requested)

    def open_triggers(self) -> str:
        """Describes what should start, or be known, and is not yet; empty if there is nothing."""
        for ref_updates in self._ref_updates.values():
            if not ref_updates.is_current():
                return ref_updates.what_is_open()
        return next(filter(None, (one.what_is_open() for one in self._triggers)), "")

    def is_undone(self, agent: AgentId) -> bool:
        """Returns whether a backup without the revocation was restored."""
        return agent not in self._revoked

    def _shadow(self, run_id: RunId, happened: list[Any]) -> Run:
        shadow = self._shadows.get(run_id)
        if shadow is None:
            compiled = self._environment.memory.plan(happened[0].plan_hash)
            assert compiled is not None, "a created run's plan is in the same batch"
            shadow = self._shadows[run_id] = Run(run_id, plans.decode(compiled))
        return shadow

    def _evolve(self, shadow: Run, event: Any, *, is_news: bool = True) -> None:
        if is_news:
            self._environment.events[type(event).__name__] += 1
            self._environment.note(f"  {shadow.id[-6:]} {_shown(event)}")
        try:
            evolve(shadow, event)
        except Exception as error:  # noqa: BLE001  any error means that the log cannot be folded
            self._fail(f"G2: event {shadow.seq + 1} of {shadow.id} does not fold: {error}", error)

    def _check_event(self, shadow: Run, event: Any) -> None:
        self._gates.before(shadow, event)
        if shadow.is_completed:
            self._expect(isinstance(event, events.LateReport), f"G5: {_shown(event)} after the end of {shadow.id}")
        elif isinstance(event, events.AttemptFinished):
            self._check_finished(shadow, event)
        elif isinstance(event, events.StepSleeping):
            self._sleeps[shadow.id, event.job, event.step] = event.due_at
        elif isinstance(event, events.RunTimedOut):
            self._expect(event.at >= shadow.deadline_at, f"G7: {shadow.id} is timed out too early")
        elif isinstance(event, events.JobTimedOut):
            job = shadow.jobs_by_id[event.job]
            due_at = job.start_deadline_at if job.deadline_at is None else job.deadline_at
            self._expect(due_at is not None and event.at >= due_at, f"G7: job {job.id} of {shadow.id} ends too early")
        elif isinstance(event, events.JobCompleted):
            job = shadow.jobs_by_id[event.job]
            self._check_job_time(shadow, job, event.at)
            self._expect(job.conclusion is None, f"G5: job {event.job} of {shadow.id} completes twice")
        elif isinstance(event, events.StepCompleted):
            step = shadow.jobs_by_id[event.job].steps_by_id[event.step]
            self._expect(step.conclusion is None, f"G5: step {event.job}/{event.step} of {shadow.id} completes twice")
            self._check_step_end(shadow, step, event)

    def _check_step_end(self, shadow: Run, step: Step, event: events.StepCompleted) -> None:
        """A sleep lasted as long as requested, and what the file says to retry was retried."""
        name = f"{event.job}/{event.step} of {shadow.id}"
        due_at = self._sleeps.get((shadow.id, event.job, event.step))
        is_slept = due_at is not None and event.conclusion is Conclusion.SUCCESS
        self._expect(not is_slept or event.at >= (due_at or 0), f"{name} slept too short")
        if step.last is not None and step.last.outcome is not None and not step.stop and not step.is_held:
            is_left = oracle.is_tried_again(step)
            self._expect(not is_left, f"{name} ends {event.outcome.value}, but the file requires a retry")

    def _check_job_time(self, shadow: Run, job: Any, at: int) -> None:
        """A job ends within its time limit once daemon and agents can communicate (G7)."""
        healed_at = self._environment.healed_at
        due_at = job.start_deadline_at if job.deadline_at is None else job.deadline_at
        # A child run that must end with the job has its own time for its `always()` steps.
        has_child_run = any(attempt.child_run for step in job.steps_by_id.values() for attempt in step.attempts)
        if healed_at is not None and due_at is not None and job.retry_at is None and not has_child_run:
            late_ms = at - max(due_at, healed_at) - JOB_GRACE_MS
            self._expect(late_ms <= 0, f"G7: job {job.id} of {shadow.id} ends {late_ms} ms after its time and grace")

    def _check_finished(self, shadow: Run, event: events.AttemptFinished) -> None:
        """The outcome of an attempt is what really happened, not what is claimed (G3, G4, G5)."""
        attempt = shadow.attempt(event.job, event.step, event.attempt)
        name = f"{shadow.id[-6:]} {event.job}/{event.step}#{event.attempt}"
        if attempt is None:
            self._fail(f"G5: {name} ends and was never made")
            return
        self._expect(attempt.outcome is None, f"G5: {name} ends twice")
        self._check_revoked(attempt, event, name)
        self._expect(FORGED not in event.outputs, f"G4: {name} ends with a report that is not its lease's")
        step = shadow.jobs_by_id[event.job].steps_by_id[event.step]
        if step.is_child_run:
            self._child_runs.finished(shadow, step, event)
        if step.plan.node != "shell":
            return
        executions = self._environment.truth.by_attempt.get(
            AttemptId(shadow.id, event.job, event.step, event.attempt), []
        )
        execution = executions[0] if executions else None
        problem = oracle.contradiction(event, execution)
        if problem:
            self._fail(f"G3: {name} is recorded as {event.outcome.value} ({event.reason.text}): {problem}")
        if execution is not None and event.outcome is Outcome.SUCCESS:
            handed_back = execution.outputs if oracle.hands_back(step.plan.params) else {}
            self._expect(event.outputs == handed_back, f"G3: {name} has the outputs {event.outputs} of another")

    def _check_revoked(self, attempt: Attempt, event: events.AttemptFinished, name: str) -> None:
        """What a revoked agent held is lost, whatever it reports later; what it reported before may still arrive."""
        revoked_at = self._revoked.get(attempt.agent) if attempt.agent is not None else None
        if revoked_at is not None and event.at > revoked_at + REVOKED_MS:
            self._expect(
                event.outcome is Outcome.LOST, f"{name} ends {event.outcome.value}, by an agent that was revoked"
            )
            if not attempt.lease_ms:
                # One with a lease is lost when that has ended, counted again from each start of the daemon.
                self._expect(
                    event.at <= revoked_at + REVOKED_MS + LOST_MS, f"{name} was held by a revoked agent for too long"
                )

    def check_run(self, shadow: Run) -> None:
        """Compares the daemon's run with its shadow."""
        daemon = self._environment.daemon
        if daemon is not None:
            self._driver.check_run(daemon.live_state.runs.get(shadow.id), shadow)

    def before_commit(self) -> None:
        """See `Observer`."""
        self._driver.check_queue()

    def followed(self, record: Record, number: int) -> None:
        """A subscriber received a record: it is durable, and it is the next one."""
        self._expect(record.seq == number, f"G2: a subscriber received {record.seq} instead of {number}")

    # Acknowledgements -------------------------------------------------------------------------------------------------

    def leaves(self, agent: AgentId, message: messages.DaemonMessage, *, is_connected: bool) -> None:
        """A message is about to be sent, if the agent is connected: the facts behind it must be durable (G1)."""
        if isinstance(message, messages.Offer):
            key = message.task.key
            attempt = self._durable_attempt(key)
            is_known = attempt is not None and attempt.agent == agent and attempt.epoch == key.epoch
            self._expect(is_known, f"G1: {key} is offered and its dispatch is not in the log")
            is_allowed = agent not in self._revoked or not is_connected
            self._expect(is_allowed, f"{key} is offered to an agent that was revoked")
        elif isinstance(message, messages.OutputAck):
            size = self._environment.outputs.size(message.key.attempt)
            if self._is_unknown(message.key):
                return
            self._expect(message.offset <= size, f"G1: {message.offset} bytes are acknowledged, {size} are durable")

    def _durable_attempt(self, key: messages.TaskId) -> Any:
        shadow = self._shadows.get(key.attempt.run)
        return shadow.attempt(key.attempt.job, key.attempt.step, key.attempt.number) if shadow is not None else None

    def acknowledged(self, host: Host, message: messages.Numbered) -> None:
        """An agent received the acknowledgement of one of its reports (G1)."""
        if isinstance(message, messages.Started | messages.Finished) and self._is_unknown(message.key):
            return
        if isinstance(message, messages.Finished):
            self._acknowledged_results[message.key] = message
            self._check_result(message)
        elif isinstance(message, messages.Started):
            attempt = self._durable_attempt(message.key)
            is_there = attempt is not None and attempt.status.value in ("started", "finished")
            self._expect(
                is_there, f"G1: {host.name} received an acknowledgement, but the start of {message.key} is not durable"
            )

    def _is_unknown(self, key: messages.TaskId) -> bool:
        """Returns whether a restored backup cannot know the attempt: reports about it are accepted and not stored."""
        attempt = self._durable_attempt(key)
        return key.epoch < self._environment.restored_epoch and (attempt is None or attempt.epoch != key.epoch)

    def _check_result(self, message: messages.Finished) -> None:
        attempt = self._durable_attempt(message.key)
        is_there = attempt is not None and attempt.outcome is not None
        self._expect(is_there, f"G1: the result of {message.key} is acknowledged and not in the log")

    def output_acknowledged(self, message: messages.OutputAck) -> None:
        """An agent received the acknowledgement of output (G1)."""
        name = message.key.attempt
        if self._is_unknown(message.key):
            return
        self._acknowledged_output[name] = max(message.offset, self._acknowledged_output.get(name, 0))

    def start_acknowledged(self, key: str, run: RunId) -> None:
        """The start of a run was confirmed to a client (G1, G6)."""
        known = self.acknowledged_starts.setdefault(key, run)
        self._expect(known == run, f"G6: the key {key} started {known} and {run}")
        self._expect(run in self._shadows, f"G1: the start of {run} is acknowledged and not in the log")

    def cancel_acknowledged(self, run: RunId) -> None:
        """A cancel was confirmed to a client (G1)."""
        shadow = self._shadows[run]
        if not shadow.is_completed:
            # A run that completed in the meantime has no cancel.
            self._acknowledged_cancels.add(run)
            self._expect(shadow.is_cancelled, f"G1: the cancel of {run} is acknowledged and not in the log")

    def decision_acknowledged(self, run: RunId, job: JobId, step: StepId | None, by: str) -> None:
        """See `Observer`."""
        self._gates.decision_acknowledged(run, job, step, by)

    def revocation_acknowledged(self, agent: AgentId) -> None:
        """A revocation was confirmed to a client: from now on the agent must not get any work."""
        self._revoked[agent] = self._environment.log_ms()
        self._expect(
            _is_revoked(self._environment.memory, agent),
            f"G1: the revocation of {agent} is acknowledged and not in the log",
        )

    def daemon_crashed(self) -> None:
        """Checks the log after a crash: it holds everything acknowledged, and it folds to the shadow runs (G1, G2)."""
        memory = self._environment.memory
        for run_id, shadow in self._shadows.items():
            records = memory.read(run_stream(run_id))
            self._expect(
                [record.position for record in records] == list(range(1, shadow.seq + 1)),
                f"G2: the log of {run_id} has {len(records)} events without gap, not {shadow.seq}",
            )
        for ref_updates in self._ref_updates.values():
            ref_updates.daemon_crashed()
        for key, run_id in self.acknowledged_starts.items():
            self._expect(memory.run_for_key(key) == run_id, f"G1: the start of {run_id} was acknowledged and is lost")
        for run_id in self._acknowledged_cancels:
            self._expect(self._shadows[run_id].is_cancelled, f"G1: the cancel of {run_id} is lost")
        for message in self._acknowledged_results.values():
            self._check_result(message)
        for name, size in self._acknowledged_output.items():
            self._expect(
                self._environment.outputs.size(name) >= size, f"G1: output of {name} was acknowledged and is lost"
            )

    # Processes --------------------------------------------------------------------------------------------------------

    def process_started(self, host: Host, execution: Execution) -> None:
        """A process starts at most once per attempt, alone for its step, allowed by the file, and in a slot (G3)."""
        key, truth = execution.key, self._environment.truth
        name = f"{key.attempt.run[-6:]} {key.attempt.job}/{key.attempt.step}#{key.attempt.number}"
        self._expect(len(host.steps) <= host.slots, f"{host.name} runs {len(host.steps)} in {host.slots} slots")
        attempt = self._durable_attempt(key)
        is_older = key.epoch < self._environment.restored_epoch
        self._expect(
            is_older or (attempt is not None and attempt.status.value != "pending"),
            f"G1: {name} runs, its dispatch is not in the log",
        )
        self._expect(
            len(truth.by_attempt[key.attempt]) == 1,
            f"G3: {name} is started twice",
        )
        executions = truth.by_step[key.attempt.run, key.attempt.job, key.attempt.step]
        for earlier in executions[:-1]:
            self._expect(
                earlier.ended_at is not None or earlier.is_orphan,
                f"G3: {name} begins while attempt {earlier.key.attempt.number} runs",
            )
            is_before = earlier.key.epoch < self._environment.restored_epoch
            self._expect(is_older or not is_before, f"G3: {name} runs again after a backup was restored")
            if not is_before and not self._is_of_earlier_try(earlier):
                self._check_allowed(earlier, name)
        shadow = self._shadows.get(key.attempt.run)
        job = shadow.jobs_by_id.get(key.attempt.job) if shadow is not None else None
        if shadow is not None and job is not None:
            self._gates.process_started(shadow, execution)
            most = oracle.attempts_max(job.steps_by_id[key.attempt.step].plan) * oracle.tries_max(job.plan)
            self._expect(
                len(executions) <= most, f"G3: {name} is process {len(executions)} of a step that may have {most}"
            )

    def _is_of_earlier_try(self, earlier: Execution) -> bool:
        """Returns whether the job was tried again since: then the file allows what it did to be done again."""
        job = self._shadows[earlier.key.attempt.run].jobs_by_id[earlier.key.attempt.job]
        return job.number > 1 and earlier.key.attempt.number <= job.steps_by_id[earlier.key.attempt.step].earlier

    def _check_allowed(self, earlier: Execution, name: str) -> None:
        """The earlier attempt did run: the file must say that its outcome is retried."""
        attempt = self._durable_attempt(earlier.key)
        shadow = self._shadows[earlier.key.attempt.run]
        plan = shadow.jobs_by_id[earlier.key.attempt.job].steps_by_id[earlier.key.attempt.step].plan
        text = f"G3: {name} runs again after attempt {earlier.key.attempt.number} ended {attempt.outcome}"
        self._expect(oracle.allows(plan, attempt), text)

    def entered(self, task: messages.Task, files: dict[str, bytes]) -> None:
        """A step is about to run in its job's directory, which was created with these files."""
        tree = task.tree
        revision_files = self._environment.tree(tree.repository, tree.revision) if tree is not None else {}
        self._expect(
            files == revision_files,
            f"{task.key}: its directory began with {sorted(files)}, not with its revision's files",
        )

    def released(self, run: str, job: str) -> None:
        """An agent removes a job's working directory: nothing more of the job, or of that try, may follow."""
        shadow = self._shadows.get(RunId(run))
        found = shadow.jobs_by_id.get(JobId(job)) if shadow is not None else None
        # A restored backup may know that the run has completed without knowing what became of its jobs.
        has_ended = (shadow is not None and shadow.is_completed) or (run, job) in self._over_before
        if shadow is not None and found is not None:
            has_ended = has_ended or _has_ended(shadow, found)
        self._expect(has_ended, f"the working directory of {run} {job} is removed, and the job is not over")

    # End of a simulation ---------------------------------------------------------------------------------------------------

    def at_the_end(self) -> None:
        """All runs have completed: output is complete, and nothing is left anywhere (G5, G7, G9)."""
        for shadow in self._shadows.values():
            self._expect(shadow.is_completed, f"G7: {shadow.id} is open: {shadow.reason.text}")
            for job in shadow.jobs:
                for step in job.steps_by_id.values():
                    for attempt in step.attempts:
                        self._check_output(shadow, job.id, step, attempt)
        self.daemon_crashed()

    def _is_kept(self, step: Step, attempt: Attempt) -> bool:
        """Returns whether the server has what the attempt printed.

        It does not have what was not flushed before a power cut, nor what a node inside the agent printed while the
        disk was full, because that is in no file.
        """
        dispatched_at = (attempt.dispatched_at or 0) - self._environment.log_ms() + self._environment.now_ms
        server = next(server for server in self._servers if server.name == attempt.agent_name)
        is_in_memory = step.plan.node != "shell" and server.disk_full_at >= dispatched_at
        is_older = dispatched_at <= self._environment.restored_at
        return server.power_lost_at < dispatched_at and not (is_in_memory or server.is_revoked or is_older)

    def _check_output(self, shadow: Run, job: JobId, step: Any, attempt: Any) -> None:
        name = AttemptId(shadow.id, job, step.id, attempt.number)
        pieces = self._environment.outputs.read(name, 0, 1 << 30)
        data = b"".join(piece.data for piece in pieces)
        self._expect(attempt.outcome is not None, f"G5: {name} has no end")
        executions = self._environment.truth.by_attempt.get(AttemptId(shadow.id, job, step.id, attempt.number), [])
        if step.plan.node == "shell":
            printed = executions[0].printed if executions else b""
            self._expect(printed.startswith(data), f"G9: output of {name} is not what was printed")
        is_reported = attempt.finished_at is not None and self._is_kept(step, attempt)
        if is_reported and attempt.outcome is not Outcome.LOST:
            text = f"G9: {len(data)} bytes of output of {name}, its result says {attempt.output_bytes}"
            self._expect(len(data) == attempt.output_bytes, text)
        if attempt.outcome in (Outcome.SUCCESS, Outcome.FAILURE) and executions and is_reported:
            self._expect(data == executions[0].printed, f"G9: output of {name} is incomplete")


def _has_ended(run: Run, job: Job) -> bool:
    """Returns whether nothing more of the job, or of the try whose directory exists, can follow."""
    return run.is_completed or job.conclusion is not None or job.number > 1 or job.retry_at is not None


def _is_revoked(memory: MemoryLog, agent: AgentId) -> bool:
    facts = (record.event for record in memory.read(FLEET))
    return any(isinstance(fact, AgentRevoked) and fact.agent == agent for fact in facts)


def _shown(event: Any) -> str:
    part = "/".join(str(getattr(event, name)) for name in ("job", "step") if getattr(event, name, None) is not None)
    number = getattr(event, "attempt", None)
    end = getattr(event, "outcome", None) or getattr(event, "conclusion", None)
    cause = getattr(event, "reason", None)
    words = [type(event).__name__, part + (f"#{number}" if number is not None else "")]
    if end is not None:
        words.append(end.value)
    if cause is not None:
        words.append(f"[{cause.text}]")
    return " ".join(word for word in words if word)
