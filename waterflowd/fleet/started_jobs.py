"""The jobs that have started on an agent and have not ended: what an agent that is draining still has to finish.

A job between two steps (asleep, or waiting for an approval) holds no slot, but it keeps its server, and its files are there.
"""

from __future__ import annotations

from waterflowd.model.ids import AgentId, JobId, RunId


class StartedJobs:
    """By agent. The cost of a change does not grow with the number of jobs, except for the run's own."""

    def __init__(self) -> None:
        self._of_agents: dict[AgentId, dict[tuple[RunId, JobId], None]] = {}
        self._of_runs: dict[RunId, dict[JobId, AgentId]] = {}

    def start(self, agent: AgentId, run: RunId, job: JobId) -> None:
        """The job has this server from now on. Idempotent."""
        if self._of_runs.get(run, {}).get(job, agent) != agent:
            self.end(run, job)
        self._of_runs.setdefault(run, {})[job] = agent
        self._of_agents.setdefault(agent, {})[run, job] = None

    def end(self, run: RunId, job: JobId) -> None:
        """The job no longer has a server. Idempotent."""
        jobs = self._of_runs.get(run, {})
        agent = jobs.pop(job, None)
        if agent is None:
            return
        if not jobs:
            del self._of_runs[run]
        of_agent = self._of_agents[agent]
        del of_agent[run, job]
        if not of_agent:
            del self._of_agents[agent]

    def forget(self, run: RunId) -> None:
        """Drops all jobs of a run."""
        for job in list(self._of_runs.get(run, ())):
            self.end(run, job)

    def of(self, agent: AgentId) -> list[tuple[RunId, JobId]]:
        """The jobs of an agent, the oldest first."""
        return list(self._of_agents.get(agent, ()))
