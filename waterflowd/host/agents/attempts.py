"""The attempts of agents, by the live state and the log.

Rules of this file: an open attempt is in the live state, which is ahead of the log while a commit is in progress; an ended one
is read from the log. What is outstanding for an agent comes from the engine, so a new session gets the same as the live path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from waterflow_agent.wire import messages
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands, inputs
from waterflowd.engine.outstanding import outstanding_of_job
from waterflowd.engine.rules import checkout, leases
from waterflowd.engine.state.blocks import Attempt
from waterflowd.host.driver import Driver
from waterflowd.host.queries import RunQueries
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId
from waterflowd.model.plan import StepPlan
from waterflowd.model.records import Checkout, HeldAttempt
from waterflowd.model.statuses import AttemptStatus, Status


class LiveAttempts:
    """Implements `ports.Attempts`."""

    def __init__(self, driver: Driver, queries: RunQueries) -> None:
        self._driver = driver
        self._state = driver.state
        self._queries = queries

    def find(self, agent: AgentId, name: AttemptId) -> HeldAttempt | None:
        """See the port."""
        run = self._queries.find(self._state.runs, name.run)
        held = None if run is None else held_attempt(run, name)
        return held if held is not None and held.agent == agent else None

    def is_foreign(self, agent: AgentId, key: messages.TaskId) -> bool:
        """See the port. The live state and the log know every attempt."""
        held = self.find(agent, key.attempt)
        return held is None or held.epoch != key.epoch

    async def confirm(self, agent: AgentId, keys: Sequence[messages.TaskId]) -> list[HeldAttempt | None]:
        """See the port."""
        return [None if self.is_foreign(agent, key) else self.find(agent, key.attempt) for key in keys]

    def open_attempts(self, agent: AgentId) -> list[HeldAttempt]:
        """See the port."""
        found = (self._open(name) for name in self._state.placement.server(agent).taken)
        return [held for held in found if held is not None]

    def _open(self, name: AttemptId) -> HeldAttempt | None:
        run = self._state.runs.get(name.run)
        held = None if run is None else held_attempt(run, name)
        return held if held is not None and held.is_open else None

    def ended(self, agent: AgentId, keys: Sequence[messages.TaskId]) -> list[messages.TaskId]:
        """See the port."""
        if self._driver.is_ahead:
            # An attempt that has ended only in memory may be open again after a crash.
            return []
        return [key for key in keys if self._open_run(agent, key) is None]

    def _open_run(self, agent: AgentId, key: messages.TaskId) -> Run | None:
        """The run of an open attempt that the agent has under this lease; None for any other attempt."""
        held = self._open(key.attempt)
        return self._state.runs[key.attempt.run] if held is not None and held.is_of(agent, key.epoch) else None

    def has_job_ended(self, agent: AgentId, run_id: RunId, job_id: JobId) -> bool:
        """See the port."""
        run = self._state.runs.get(run_id)
        if run is None:
            return run_id not in self._state.stalled and self._driver.knows(run_id)
        job = run.jobs_by_id.get(job_id)
        if job is None or job.status is Status.COMPLETED or job.retry_at is not None:
            return True
        # The job was retried on another server.
        return job.number > 1 and job.agent != agent

    def is_stalled(self, run: RunId) -> bool:
        """See the port."""
        return run in self._state.stalled

    def checkout(self, agent: AgentId, key: messages.TaskId) -> Checkout | None:
        """See the port."""
        run = self._open_run(agent, key)
        return None if run is None else checkout.of_job(run, run.jobs_by_id[key.attempt.job])

    def outstanding(self, agent: AgentId, key: messages.TaskId, *, is_held: bool) -> list[messages.DaemonMessage]:
        """See the port."""
        run = self._state.runs.get(key.attempt.run)
        if run is None:
            return []
        try:
            return list(self._outstanding(run, key, is_held=is_held))
        except Exception as error:  # noqa: BLE001  supervision point: one run must not keep the agent out
            self._state.stall(run, error)
            return []

    def _outstanding(self, run: Run, key: messages.TaskId, *, is_held: bool) -> Iterator[messages.DaemonMessage]:
        for command in outstanding_of_job(run, run.jobs_by_id[key.attempt.job]):
            if not isinstance(command, commands.SendTask | commands.CancelTask):
                continue
            if (command.step, command.attempt) != (key.attempt.step, key.attempt.number):
                continue
            if isinstance(command, commands.SendTask) and not is_held:
                draft = lowering.draft(run, command)
                offer = self._state.offer(draft, command)
                if offer is None:
                    continue
                yield offer
                if offer.task.secrets:
                    # The offer before it, if there was one, may not have left before the daemon's last restart.
                    self._driver.record_secret_use(run, command, draft)
            elif isinstance(command, commands.CancelTask):
                yield messages.Cancel(key, command.is_forced, command.reason)

    def report(
        self,
        agent: AgentId,
        reports: Sequence[tuple[RunId, inputs.TaskReport]],
        durable: Callable[[], None] = lambda: None,
    ) -> None:
        """See the port."""
        current: list[tuple[RunId, inputs.Input]] = []
        for run, report in reports:
            if run in self._state.runs:
                current.append((run, report))
            elif isinstance(report, inputs.TaskFinished):
                self._driver.record_evidence(run, report)
        self._driver.submit(current, durable)

    def settle(self, agent: AgentId, hello: messages.Hello, call: Callable[[], None]) -> None:
        """See the port. The log knows what the agent holds."""
        self._driver.settle(agent, call)

    def confirms(self, agent: AgentId) -> bool:
        """See the port. Only this daemon can end the attempt: when the agent has been away for long enough."""
        return True

    def session_ended(self, agent: AgentId) -> None:
        """See the port. The agent's attempts continue."""

    def servers_changed(self) -> None:
        """See the port."""
        self._driver.wake()


def held_attempt(run: Run, name: AttemptId) -> HeldAttempt | None:
    """The attempt by the facts of its run; None if there is none, or no agent has had it."""
    attempt = run.attempt(name.job, name.step, name.number)
    if attempt is None or attempt.agent is None:
        return None
    return HeldAttempt(
        name=name,
        epoch=attempt.epoch,
        agent=attempt.agent,
        agent_name=attempt.agent_name,
        boot_id=attempt.boot_id,
        dispatched_at=attempt.dispatched_at or 0,
        repository=run.repository,
        is_open=attempt.is_open,
        is_started=attempt.status is AttemptStatus.STARTED,
        output_bytes=attempt.output_bytes,
        output_bytes_max=_plan(run, name).output_bytes_max or lowering.OUTPUT_BYTES_MAX,
        lease_over_ms=_lease_over_ms(run, attempt, name) if attempt.lease_ms else 0,
    )


def _lease_over_ms(run: Run, attempt: Attempt, name: AttemptId) -> int:
    return leases.over_after_ms(attempt.lease_ms, _plan(run, name).stop.grace_ms)


def _plan(run: Run, name: AttemptId) -> StepPlan:
    return run.jobs_by_id[name.job].steps_by_id[name.step].plan
