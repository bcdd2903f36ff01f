"""What the parts of a simulation report as it happens. The checkers implement it; the parts do not know them."""

from __future__ import annotations

from typing import Protocol

from tests.simulator.outside.host import Host
from tests.simulator.truth import Execution
from waterflow_agent.wire import messages
from waterflowd.model.ids import AgentId, JobId, RunId, StepId
from waterflowd.model.records import Batch, Record


class Observer(Protocol):
    """Is called synchronously. A broken promise ends the simulation; nothing is raised."""

    # The log.

    def before_commit(self) -> None:
        """The daemon is about to commit a batch."""

    def committed(self, batch: Batch) -> None:
        """A batch is durable."""

    def followed(self, record: Record, number: int) -> None:
        """A subscriber received a record, as its record of this number."""

    # Agents.

    def leaves(self, agent: AgentId, message: messages.DaemonMessage, *, is_connected: bool) -> None:
        """A message is about to be sent, if the agent is connected."""

    def acknowledged(self, host: Host, message: messages.Numbered) -> None:
        """The agent of a host received the acknowledgement of one of its reports."""

    def output_acknowledged(self, message: messages.OutputAck) -> None:
        """An agent received the acknowledgement of output."""

    def process_started(self, host: Host, execution: Execution) -> None:
        """The process of a step has started."""

    def entered(self, task: messages.Task, files: dict[str, bytes]) -> None:
        """A step is about to run in its job's directory, which was created with these files."""

    def released(self, run: str, job: str) -> None:
        """An agent removes a job's working directory."""

    # People.

    def start_acknowledged(self, key: str, run: RunId) -> None:
        """The start of a run was confirmed to a client."""

    def cancel_acknowledged(self, run: RunId) -> None:
        """The cancellation of a run was confirmed to a client."""

    def revocation_acknowledged(self, agent: AgentId) -> None:
        """The revocation of an agent was confirmed to a client."""

    def decision_acknowledged(self, run: RunId, job: JobId, step: StepId | None, by: str) -> None:
        """An approval or a rejection was confirmed to a person."""

    def synced(self, repository: str, requested: dict[str, int]) -> None:
        """A sync was confirmed; `requested` is each ref's position in its history at the time of the request."""
