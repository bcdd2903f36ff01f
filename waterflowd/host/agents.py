"""Handles agents: settles with each one that connects, takes its reports, and gives up those that stay away too long.

Rules of this file: the link identifies an agent (by the key that ZeroMQ reports). The log says which attempts an agent should
have (`taken`), its `Hello` says which it has; the difference is settled before anything new is sent. While a commit is in
progress the runs are ahead of the log, and reports may be queued, so the settlement waits for both:

| in the log | on the agent | settlement |
|---|---|---|
| open, other boot | not finished | lost: the outcome is unknown |
| open, this boot | unknown | it never accepted the offer: offer again |
| started | unknown | lost: the agent lost its record of it |
| open | accepted, started | continues; an outstanding cancel is sent again |
| open | finished | its report follows |
| ended | accepted | forget it, or kill it if that was known too late for the `Welcome` |
| ended | started | kill it; its report is evidence |
| ended | finished | its report is acknowledged |

An attempt with a lease (engine/rules/leases.py) is lost only when its server says so, or when its lease has certainly ended:
counted from the moment at which the agent's session ended, or from the daemon's start, because the daemon confirms nothing of
that agent afterwards. The time is measured with the loop's clock, which nothing sets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.engine import Run, commands, inputs
from waterflowd.engine.outstanding import outstanding_of_job
from waterflowd.engine.rules import leases
from waterflowd.engine.state.blocks import Attempt
from waterflowd.fleet.placement import Server
from waterflowd.host.driver import Driver
from waterflowd.host.file_server import FileServer
from waterflowd.host.outputs import OutputCollector, display_name
from waterflowd.model.ids import AgentId, JobId, RunId
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import AttemptStatus, Outcome, Status

logger = logging.getLogger("waterflow.host")

#: How long servers may take to connect after the daemon's start before they count as away.
GATHER_S = 60.0


class AgentHandler:
    """Implements `ports.AgentListener` over the driver's state."""

    def __init__(
        self,
        driver: Driver,
        link: ports.Link,
        clock: ports.Clock,
        *,
        outputs: OutputCollector,
        files: FileServer,
        lost_after_ms: int,
    ) -> None:
        self._driver = driver
        self._state = driver.state
        self._link = link
        self._clock = clock
        self._outputs = outputs
        self._files = files
        self._lost_after_ms = lost_after_ms
        #: Called with an agent, `connected` or `disconnected`, and a text, for the audit trail.
        self.on_session: Callable[[AgentId, str, str], None] = lambda agent, what, detail: None
        self._hellos: dict[AgentId, messages.Hello] = {}
        #: Agents whose session gets no more acknowledgements, because it had a report for a stalled run.
        self._unacknowledged: set[AgentId] = set()
        #: When an agent's session ended, by the loop's clock; for agents that may return.
        self._away_since: dict[AgentId, float] = {}
        self._lost_timers: dict[AgentId, asyncio.TimerHandle] = {}
        #: Attempts that end as lost when their lease has ended, although their agent is connected.
        self._doubtful: dict[messages.TaskId, asyncio.TimerHandle] = {}
        self._gathering: asyncio.TimerHandle | None = None

    def recovered(self) -> None:
        """Called after recovery: agents that hold attempts have `lost-after` to return, other servers `GATHER_S`."""
        for server in self._state.placement.servers.values():
            self._await_return(server.agent)
        self._state.placement.is_gathering = True
        self._gathering = asyncio.get_running_loop().call_later(
            min(GATHER_S, self._lost_after_ms / 1000), self._gathered
        )

    def _gathered(self) -> None:
        self._state.placement.gathered()
        self._driver.wake()

    # Sessions ---------------------------------------------------------------------------------------------------------

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskId]:
        """See `ports.AgentListener`."""
        server = Server(
            agent=agent,
            instance=hello.instance,
            boot_id=hello.boot_id,
            slots=max(0, min(hello.slots, 10_000)),
            nodes=frozenset(hello.nodes),
            own_nodes=tuple(hello.own_nodes),
            facts={
                "id": agent,
                "hostname": hello.hostname,
                "os": hello.os,
                "arch": hello.arch,
                "labels": hello.labels,
            },
            version=hello.agent_version,
            problem=hello.problem,
            changed_at=self._clock.now(),
        )
        timer = self._lost_timers.pop(agent, None)
        if timer is not None:
            timer.cancel()
        self._away_since.pop(agent, None)
        self._state.placement.connect(server)
        self._hellos[agent] = hello
        self._unacknowledged.discard(agent)
        if self._driver.is_ahead:
            # An attempt that has ended only in memory may be open again after a crash; `_settle` handles it once durable.
            return []
        return [
            held.key
            for held in hello.held
            if held.state is messages.AttemptState.ACCEPTED and self._state.run_of_open_attempt(agent, held.key) is None
        ]

    def connected(self, agent: AgentId) -> None:
        """See `ports.AgentListener`."""
        hello = self._hellos[agent]
        self.on_session(agent, "connected", hello.hostname)
        self._driver.settle(agent, lambda: self._settle(agent, hello))

    def _settle(self, agent: AgentId, hello: messages.Hello) -> None:
        """Sends what is outstanding for the agent that sent `hello`, unless that session has ended."""
        if self._hellos.get(agent) is not hello:
            return
        del self._hellos[agent]
        held = {item.key: item.state for item in hello.held}
        server = self._state.placement.server(agent)
        outgoing: list[messages.DaemonMessage] = []
        lost: list[tuple[RunId, inputs.Input]] = []
        for run, attempt, key in list(self._taken(server)):
            state = held.pop(key, None)
            if state is messages.AttemptState.FINISHED:
                continue
            if self._was_elsewhere(agent, attempt):
                lost.extend(self._lost_elsewhere(agent, run, attempt, key))
                continue
            if state is None and attempt.status is AttemptStatus.STARTED:
                # It had started, and the agent has lost its record of it: another offer would run it twice.
                text = f"{attempt.agent_name} has lost its record of the running step"
                cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
                if attempt.lease_ms:
                    self._lose_later(agent, run, attempt, key, cause)
                else:
                    lost.append((run.id, _lost(agent, key, cause)))
                continue
            if attempt.boot_id != server.boot_id:
                text = f"server {attempt.agent_name} was rebooted while the step ran"
                cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
                lost.append((run.id, _lost(agent, key, cause)))
                continue
            try:
                outgoing.extend(self._outstanding(run, key, is_held=state is not None))
            except Exception as error:  # noqa: BLE001  supervision point: one run must not keep the agent out
                self._state.stall(run, error)
        for key, state in held.items():
            if state is not messages.AttemptState.FINISHED:
                # Has no effect for an attempt that the `Welcome` told the agent to forget.
                outgoing.append(messages.Cancel(key, True, "the daemon has already ended this attempt"))
        # An accepted attempt may have created its job's directory since.
        accepted = [item.key for item in hello.held if item.state is messages.AttemptState.ACCEPTED]
        jobs = dict.fromkeys([*hello.jobs, *((key.attempt.run, key.attempt.job) for key in accepted)])
        outgoing.extend(messages.Release(run, job) for run, job in jobs if self._has_ended(agent, run, job))
        if outgoing:
            self._link.send(agent, outgoing)
        if lost:
            self._driver.submit(lost)
        self._driver.wake()

    def _has_ended(self, agent: AgentId, run_id: str, job_id: str) -> bool:
        """Whether the agent will get no more of the job. False for a stalled run, and for one missing from the log."""
        run = self._state.runs.get(RunId(run_id))
        if run is None:
            return RunId(run_id) not in self._state.stalled and self._driver.knows(run_id)
        job = run.jobs_by_id.get(JobId(job_id))
        if job is None or job.status is Status.COMPLETED or job.retry_at is not None:
            return True
        # The job was retried on another server.
        return job.number > 1 and job.agent != agent

    def _outstanding(self, run: Run, key: messages.TaskId, *, is_held: bool) -> Iterator[messages.DaemonMessage]:
        for command in outstanding_of_job(run, run.jobs_by_id[key.attempt.job]):
            if not isinstance(command, commands.SendTask | commands.CancelTask):
                continue
            if (command.step, command.attempt) != (key.attempt.step, key.attempt.number):
                continue
            if isinstance(command, commands.SendTask) and not is_held:
                for offer in self._state.offers(run, command):
                    yield offer
                    # The offer before it, if there was one, may not have left before the daemon's last restart.
                    self._driver.record_secret_use(run, command)
            elif isinstance(command, commands.CancelTask):
                yield messages.Cancel(key, command.is_forced, command.reason)

    def disconnected(self, agent: AgentId, text: str) -> None:
        """See `ports.AgentListener`."""
        self._hellos.pop(agent, None)
        self.on_session(agent, "disconnected", text)
        self._state.placement.disconnect(agent, self._clock.now(), text)
        self._await_return(agent)
        self._driver.wake()

    def _await_return(self, agent: AgentId) -> None:
        old = self._lost_timers.pop(agent, None)
        if old is not None:
            old.cancel()
        loop = asyncio.get_running_loop()
        self._away_since[agent] = loop.time()
        self._lost_timers[agent] = loop.call_later(self._lost_after_ms / 1000, self._give_up, agent)

    def _give_up(self, agent: AgentId) -> None:
        """The agent has been away for `lost-after`: its attempts are lost, those with a lease when that has ended."""
        self._lost_timers.pop(agent, None)
        if self._state.placement.server(agent).is_connected:
            return
        loop = asyncio.get_running_loop()
        away_ms = (loop.time() - self._away_since[agent]) * 1000
        lost: list[tuple[RunId, inputs.Input]] = []
        waits_ms = []
        for run, attempt, key in self._taken(self._state.placement.server(agent)):
            wait_ms = self._patience_ms(run, attempt, key) - away_ms
            if wait_ms > 0:
                waits_ms.append(wait_ms)
                continue
            text = f"server {attempt.agent_name}: not connected for {round(away_ms / 1000)} s"
            lost.append((run.id, _lost(agent, key, reason(ReasonCode.SERVER_LOST, text, agent=attempt.agent_name))))
        if lost:
            self._driver.submit(lost)
        if waits_ms:
            # At least a millisecond: a difference of two floating-point numbers may be too small to let time pass.
            self._lost_timers[agent] = loop.call_later(max(1.0, min(waits_ms)) / 1000, self._give_up, agent)

    def _patience_ms(self, run: Run, attempt: Attempt, key: messages.TaskId) -> int:
        """How long after the end of its agent's session an attempt is lost."""
        if not attempt.lease_ms:
            return self._lost_after_ms
        return max(self._lost_after_ms, _lease_over_ms(run, attempt, key))

    def _lose_later(self, agent: AgentId, run: Run, attempt: Attempt, key: messages.TaskId, cause: Reason) -> None:
        """Marks an attempt as lost when its lease has ended, because nothing else will say that it has ended."""
        if key not in self._doubtful:
            delay_s = _lease_over_ms(run, attempt, key) / 1000
            loop = asyncio.get_running_loop()
            self._doubtful[key] = loop.call_later(delay_s, self._lose_doubtful, agent, run.id, key, cause)

    def _was_elsewhere(self, agent: AgentId, attempt: Attempt) -> bool:
        """Whether a person has accepted another server for the key since: the attempt may still run on the former one."""
        entry = self._state.registry.agents.get(agent)
        return entry is not None and (attempt.dispatched_at or 0) < entry.accepted_at

    def _lost_elsewhere(
        self, agent: AgentId, run: Run, attempt: Attempt, key: messages.TaskId
    ) -> list[tuple[RunId, inputs.Input]]:
        text = f"{attempt.agent_name} moved to another server while the step ran"
        cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
        if attempt.lease_ms:
            self._lose_later(agent, run, attempt, key, cause)
            return []
        return [(run.id, _lost(agent, key, cause))]

    def _lose_doubtful(self, agent: AgentId, run: RunId, key: messages.TaskId, cause: Reason) -> None:
        del self._doubtful[key]
        self._driver.submit([(run, _lost(agent, key, cause))])

    def lose(self, agent: AgentId, text: str, code: ReasonCode) -> None:
        """Marks all attempts of a revoked agent as lost, except those with a lease: they are lost when that has ended."""
        lost: list[tuple[RunId, inputs.Input]] = []
        for run, attempt, key in self._taken(self._state.placement.server(agent)):
            if attempt.lease_ms:
                continue
            cause = reason(code, f"server {attempt.agent_name}: {text}", agent=attempt.agent_name)
            lost.append((run.id, _lost(agent, key, cause)))
        if lost:
            self._driver.submit(lost)

    # Attempts ---------------------------------------------------------------------------------------------------------

    def _taken(self, server: Server) -> Iterator[tuple[Run, Attempt, messages.TaskId]]:
        for name in server.taken:
            run = self._state.runs.get(name.run)
            attempt = run.attempt(name.job, name.step, name.number) if run is not None else None
            if run is not None and attempt is not None and attempt.is_open:
                yield run, attempt, messages.TaskId(name, attempt.epoch)

    def received(
        self,
        agent: AgentId,
        reports: Sequence[messages.Started | messages.Finished],
        durable: Callable[[], None],
    ) -> None:
        """See `ports.AgentListener`."""
        accepted: list[tuple[RunId, inputs.Input]] = []
        for report in reports:
            run_id = report.key.attempt.run
            if run_id in self._state.stalled:
                # The agent keeps the result until the run can accept it. Acknowledgements are cumulative, so this session
                # gets no more of them; reports that are accepted meanwhile are sent again and ignored then.
                self._unacknowledged.add(agent)
            elif not self._is_holder(agent, report.key):
                self._link.reject(
                    agent, "WF215", f"report about {display_name(report.key)}: the agent does not have it"
                )
            elif run_id in self._state.runs and self._knows_nothing(agent, report):
                run, key = self._state.runs[run_id], report.key
                attempt = run.attempt(key.attempt.job, key.attempt.step, key.attempt.number)
                assert attempt is not None, "its lease was compared"
                accepted.extend(self._lost_elsewhere(agent, run, attempt, key))
            else:
                if isinstance(report, messages.Finished):
                    self._outputs.finished(agent, report.key, report.output_bytes)
                if run_id in self._state.runs:
                    accepted.append((run_id, _report(agent, report)))
                elif isinstance(report, messages.Finished):
                    self._driver.record_evidence(run_id, _report(agent, report))
        self._driver.submit(accepted, _do_not_acknowledge if agent in self._unacknowledged else durable)

    def _is_holder(self, agent: AgentId, key: messages.TaskId) -> bool:
        """Whether the attempt is or was the agent's, under any lease. A false report must not even become evidence."""
        attempt = self._driver.attempt(key.attempt)
        return attempt is not None and attempt.agent == agent

    def _knows_nothing(self, agent: AgentId, report: messages.Started | messages.Finished) -> bool:
        """Whether the report says nothing, because its attempt ran on the server that the key belonged to before."""
        if not isinstance(report, messages.Finished) or report.outcome not in (Outcome.LOST, Outcome.REFUSED):
            return False
        run = self._state.run_of_open_attempt(agent, report.key)
        name = report.key.attempt
        attempt = run.attempt(name.job, name.step, name.number) if run is not None else None
        return attempt is not None and self._was_elsewhere(agent, attempt)

    def output(self, agent: AgentId, output: messages.Output) -> None:
        """See `ports.AgentListener`."""
        self._outputs.received(agent, output)

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """See `ports.AgentListener`."""
        self._files.file_requested(agent, request)


def _lease_over_ms(run: Run, attempt: Attempt, key: messages.TaskId) -> int:
    """How long after the daemon's last confirmation an attempt with a lease has certainly ended."""
    step = run.jobs_by_id[key.attempt.job].steps_by_id[key.attempt.step]
    return leases.over_after_ms(attempt.lease_ms, step.plan.stop.grace_ms)


def _do_not_acknowledge() -> None:
    """Takes the place of the acknowledgement after a report that was not accepted."""


def _lost(agent: AgentId, key: messages.TaskId, cause: Reason) -> inputs.TaskLost:
    return inputs.TaskLost(
        job=key.attempt.job,
        step=key.attempt.step,
        attempt=key.attempt.number,
        epoch=key.epoch,
        agent=agent,
        reason=cause,
    )


def _report(agent: AgentId, report: messages.Started | messages.Finished) -> inputs.Input:
    key = report.key
    if isinstance(report, messages.Started):
        return inputs.TaskStarted(
            job=key.attempt.job,
            step=key.attempt.step,
            attempt=key.attempt.number,
            epoch=key.epoch,
            agent=agent,
            started_at=report.at,
        )
    return inputs.TaskFinished(
        job=key.attempt.job,
        step=key.attempt.step,
        attempt=key.attempt.number,
        epoch=key.epoch,
        agent=agent,
        outcome=report.outcome,
        exit_code=report.exit_code,
        reason_code=report.reason_code,
        reason_text=report.reason_text,
        outputs=report.outputs,
        env=report.env,
        started_at=report.started_at,
        finished_at=report.finished_at,
        output_bytes=report.output_bytes,
        output_dropped=report.output_dropped,
    )
