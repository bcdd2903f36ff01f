"""Handles agents: settles with each one that connects, takes its reports, and gives up those that stay away too long.

Rules of this file: the link identifies an agent (by the key that ZeroMQ reports). The recorded facts (`ports.Attempts`) say
which attempts an agent should have, its `Hello` says which it has; the difference is settled before anything new is sent.
While a commit is in progress the runs are ahead of the log, and reports may be queued, so the settlement waits for both:

| recorded | on the agent | settlement |
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
from collections.abc import Callable, Sequence

from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.engine import inputs
from waterflowd.fleet.placement import Placement, Server
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.file_server import FileServer
from waterflowd.host.agents.outputs import OutputCollector, display_name
from waterflowd.model.ids import AgentId, JobId, RunId
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.records import HeldAttempt
from waterflowd.model.statuses import Outcome

#: How long servers may take to connect after the daemon's start before they count as away.
GATHER_S = 60.0

#: A report, and the run that it is for.
_Report = tuple[RunId, inputs.TaskReport]


class AgentHandler:
    """Implements `ports.AgentListener` over `ports.Attempts` and the servers that are connected here."""

    def __init__(
        self,
        attempts: ports.Attempts,
        placement: Placement,
        registry: Registry,
        link: ports.Link,
        clock: ports.Clock,
        *,
        outputs: OutputCollector,
        files: FileServer,
        artifacts: ArtifactServer,
        lost_after_ms: int,
    ) -> None:
        self._attempts = attempts
        self._placement = placement
        self._registry = registry
        self._link = link
        self._clock = clock
        self._outputs = outputs
        self._files = files
        self._artifacts = artifacts
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
        for server in self._placement.servers.values():
            self._await_return(server.agent)
        self._placement.is_gathering = True
        self._gathering = asyncio.get_running_loop().call_later(
            min(GATHER_S, self._lost_after_ms / 1000), self._gathered
        )

    def _gathered(self) -> None:
        self._placement.gathered()
        self._attempts.servers_changed()

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
            docker=hello.docker,
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
        self._placement.connect(server)
        self._hellos[agent] = hello
        self._unacknowledged.discard(agent)
        # `_settle` handles the rest.
        accepted = [held.key for held in hello.held if held.state is messages.AttemptState.ACCEPTED]
        return self._attempts.ended(agent, accepted)

    def connected(self, agent: AgentId) -> None:
        """See `ports.AgentListener`."""
        hello = self._hellos[agent]
        self.on_session(agent, "connected", hello.hostname)
        self._attempts.settle(agent, hello, lambda: self._settle(agent, hello))

    def _settle(self, agent: AgentId, hello: messages.Hello) -> None:
        """Sends what is outstanding for the agent that sent `hello`, unless that session has ended."""
        if self._hellos.get(agent) is not hello:
            return
        del self._hellos[agent]
        held = {item.key: item.state for item in hello.held}
        outgoing: list[messages.DaemonMessage] = []
        lost: list[_Report] = []
        for attempt in self._attempts.open_attempts(agent):
            self._resume(agent, attempt, held.pop(_key(attempt), None), outgoing, lost)
        for key, state in held.items():
            if state is not messages.AttemptState.FINISHED:
                # Has no effect for an attempt that the `Welcome` told the agent to forget.
                outgoing.append(messages.Cancel(key, True, "the daemon has already ended this attempt"))
        # An accepted attempt may have created its job's directory since.
        accepted = [item.key for item in hello.held if item.state is messages.AttemptState.ACCEPTED]
        jobs = dict.fromkeys([*hello.jobs, *((key.attempt.run, key.attempt.job) for key in accepted)])
        # Whether such a job failed may not be known here, so its directory is kept.
        outgoing.extend(
            messages.Release(run, job, is_kept=True)
            for run, job in jobs
            if self._attempts.has_job_ended(agent, RunId(run), JobId(job))
        )
        self._settled(agent, outgoing, lost)
        self._attempts.servers_changed()

    def arrived(self, agent: AgentId, attempt: HeldAttempt, state: messages.AttemptState | None) -> None:
        """An open attempt has become known after its agent's session was settled; the agent has it in this state."""
        outgoing: list[messages.DaemonMessage] = []
        lost: list[_Report] = []
        self._resume(agent, attempt, state, outgoing, lost)
        self._settled(agent, outgoing, lost)

    def _resume(
        self,
        agent: AgentId,
        attempt: HeldAttempt,
        state: messages.AttemptState | None,
        outgoing: list[messages.DaemonMessage],
        lost: list[_Report],
    ) -> None:
        """Adds what the agent should get for an open attempt that it has in this state, or the report that it is lost."""
        if state is messages.AttemptState.FINISHED:
            return
        if self._was_elsewhere(agent, attempt):
            lost.extend(self._lost_elsewhere(agent, attempt))
        elif state is None and attempt.is_started:
            # It had started, and the agent has lost its record of it: another offer would run it twice.
            text = f"{attempt.agent_name} has lost its record of the running step"
            lost.extend(self._lost_now_or_later(agent, attempt, text))
        elif attempt.boot_id != self._placement.server(agent).boot_id:
            text = f"server {attempt.agent_name} was rebooted while the step ran"
            cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
            lost.append(_lost(agent, attempt, cause))
        else:
            outgoing.extend(self._attempts.outstanding(agent, _key(attempt), is_held=state is not None))

    def _settled(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage], lost: Sequence[_Report]) -> None:
        if outgoing:
            self._link.send(agent, outgoing)
        if lost:
            self._attempts.report(agent, lost)

    def disconnected(self, agent: AgentId, text: str) -> None:
        """See `ports.AgentListener`."""
        self._hellos.pop(agent, None)
        self.on_session(agent, "disconnected", text)
        self._placement.disconnect(agent, self._clock.now(), text)
        self._await_return(agent)
        self._attempts.session_ended(agent)
        self._attempts.servers_changed()

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
        if self._placement.server(agent).is_connected:
            return
        loop = asyncio.get_running_loop()
        away_ms = (loop.time() - self._away_since[agent]) * 1000
        lost: list[_Report] = []
        waits_ms = []
        for attempt in self._attempts.open_attempts(agent):
            wait_ms = max(self._lost_after_ms, attempt.lease_over_ms) - away_ms
            if wait_ms > 0:
                waits_ms.append(wait_ms)
                continue
            text = f"server {attempt.agent_name}: not connected for {round(away_ms / 1000)} s"
            lost.append(_lost(agent, attempt, reason(ReasonCode.SERVER_LOST, text, agent=attempt.agent_name)))
        if lost:
            self._attempts.report(agent, lost)
        if waits_ms:
            # At least a millisecond: a difference of two floating-point numbers may be too small to let time pass.
            self._lost_timers[agent] = loop.call_later(max(1.0, min(waits_ms)) / 1000, self._give_up, agent)

    def _was_elsewhere(self, agent: AgentId, attempt: HeldAttempt) -> bool:
        """Whether a person has accepted another server for the key since: the attempt may still run on the former one."""
        entry = self._registry.agents.get(agent)
        return entry is not None and attempt.dispatched_at < entry.accepted_at

    def _lost_elsewhere(self, agent: AgentId, attempt: HeldAttempt) -> list[_Report]:
        return self._lost_now_or_later(
            agent, attempt, f"{attempt.agent_name} moved to another server while the step ran"
        )

    def _lost_now_or_later(self, agent: AgentId, attempt: HeldAttempt, text: str) -> list[_Report]:
        """Reports an attempt as lost: at once, or when its lease has ended, because nothing else will say that it has ended."""
        cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
        if not attempt.lease_over_ms:
            return [_lost(agent, attempt, cause)]
        key = _key(attempt)
        if key not in self._doubtful:
            loop = asyncio.get_running_loop()
            delay_s = attempt.lease_over_ms / 1000
            self._doubtful[key] = loop.call_later(delay_s, self._lose_doubtful, agent, attempt, cause)
        return []

    def _lose_doubtful(self, agent: AgentId, attempt: HeldAttempt, cause: Reason) -> None:
        del self._doubtful[_key(attempt)]
        self._attempts.report(agent, [_lost(agent, attempt, cause)])

    def lose(self, agent: AgentId, text: str, code: ReasonCode) -> None:
        """Marks all attempts of a revoked agent as lost, except those with a lease: they are lost when that has ended."""
        lost: list[_Report] = []
        for attempt in self._attempts.open_attempts(agent):
            if attempt.lease_over_ms:
                continue
            cause = reason(code, f"server {attempt.agent_name}: {text}", agent=attempt.agent_name)
            lost.append(_lost(agent, attempt, cause))
        if lost:
            self._attempts.report(agent, lost)

    # Attempts ---------------------------------------------------------------------------------------------------------

    def received(
        self,
        agent: AgentId,
        reports: Sequence[messages.Started | messages.Finished],
        durable: Callable[[], None],
    ) -> None:
        """See `ports.AgentListener`."""
        accepted: list[_Report] = []
        for report in reports:
            name = report.key.attempt
            if self._attempts.is_stalled(name.run):
                # The agent keeps the result until the run can accept it. Acknowledgements are cumulative, so this session
                # gets no more of them; reports that are accepted meanwhile are sent again and ignored then.
                self._unacknowledged.add(agent)
                continue
            attempt = self._attempts.find(agent, name)
            # Under any lease: a report with an old one is evidence. A false report must not even become that.
            if attempt is None:
                self._link.reject(
                    agent, "WF215", f"report about {display_name(report.key)}: the agent does not have it"
                )
            elif self._knows_nothing(agent, report, attempt):
                accepted.extend(self._lost_elsewhere(agent, attempt))
            else:
                if isinstance(report, messages.Finished):
                    self._outputs.finished(agent, attempt, report)
                accepted.append((name.run, _report(agent, report)))
        self._attempts.report(agent, accepted, lambda: self._recorded(agent, accepted, durable))

    def _recorded(self, agent: AgentId, reports: Sequence[_Report], durable: Callable[[], None]) -> None:
        """Acknowledges reports, unless one has stalled its run: it was not recorded, so the agent must keep it."""
        if any(self._attempts.is_stalled(run) for run, _ in reports):
            self._unacknowledged.add(agent)
        if agent not in self._unacknowledged:
            durable()

    def _knows_nothing(
        self, agent: AgentId, report: messages.Started | messages.Finished, attempt: HeldAttempt
    ) -> bool:
        """Whether the report says nothing, because its attempt ran on the server that the key belonged to before."""
        return (
            isinstance(report, messages.Finished)
            and report.outcome in (Outcome.LOST, Outcome.REFUSED)
            and attempt.is_open
            and attempt.epoch == report.key.epoch
            and self._was_elsewhere(agent, attempt)
        )

    def output(self, agent: AgentId, output: messages.Output) -> None:
        """See `ports.AgentListener`."""
        self._outputs.received(agent, output)

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        """See `ports.AgentListener`."""
        self._files.file_requested(agent, request)

    def artifact_requested(self, agent: AgentId, request: messages.ArtifactRequest) -> None:
        """See `ports.AgentListener`."""
        self._artifacts.requested(agent, request)


def _key(attempt: HeldAttempt) -> messages.TaskId:
    return messages.TaskId(attempt.name, attempt.epoch)


def _lost(agent: AgentId, attempt: HeldAttempt, cause: Reason) -> _Report:
    name = attempt.name
    lost = inputs.TaskLost(
        job=name.job, step=name.step, attempt=name.number, epoch=attempt.epoch, agent=agent, reason=cause
    )
    return name.run, lost


def _report(agent: AgentId, report: messages.Started | messages.Finished) -> inputs.TaskReport:
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
        summary=report.summary,
        annotations=report.annotations,
    )
