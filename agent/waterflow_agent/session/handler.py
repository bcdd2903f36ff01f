"""Handles the messages of one session: what the daemon offers, cancels and acknowledges, and what the agent announces."""

from __future__ import annotations

import logging
from collections.abc import Callable

import waterflow_agent
from waterflow_agent import logs, machine
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.clock import Clock
from waterflow_agent.execution.attempt_executor import AttemptExecutor
from waterflow_agent.execution.attempt_output import AttemptOutput
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.nodes import parameters, schema
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.session.link import MessageSender
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received

logger = logging.getLogger(__name__)

#: How often leases are extended at most: a small part of the shortest one, and rare compared with frames under load.
CONFIRM_MS = 1_000


class SessionHandler:
    """Implements `link.MessageHandler`: acts on the messages of the daemon."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        executor: AttemptExecutor,
        steps: ProcessSteps,
        output: AttemptOutput,
        checkouts: CheckoutService,
        artifacts: ArtifactRelay,
        nodes: NodeCatalog,
        sender: MessageSender,
        labels: dict[str, str],
        clock: Clock,
        installation: str = "",
        describe_machine: Callable[[], machine.Machine] = machine.describe,
        problem: Callable[[], str] = lambda: "",
        docker: Callable[[], messages.DockerEngine | None] = lambda: None,
    ) -> None:
        """`problem` says why nothing can be started now, or is empty; `docker` is what is known of the engine."""
        #: As the daemon said in the last `Welcome`.
        self.groups: list[str] = []
        self._ledger = ledger
        self._executor = executor
        self._steps = steps
        self._output = output
        self._checkouts = checkouts
        self._artifacts = artifacts
        self._nodes = nodes
        self._sender = sender
        self._labels = labels
        self._clock = clock
        self._installation = installation
        self._describe_machine = describe_machine
        self._problem = problem
        self._docker = docker
        self._announced_problem = ""
        self._announced_nodes: list[messages.OwnNode] = []
        self._announced_docker: messages.DockerEngine | None = None
        self._generation = 0
        self._confirmed_at = -CONFIRM_MS

    @property
    def is_outdated(self) -> bool:
        """Whether the nodes of this server, its Docker engine or its problem have changed since the last `Hello`."""
        announced = (self._announced_nodes, self._announced_docker, self._announced_problem)
        return announced != (self._nodes.reported, self._docker(), self._problem())

    def hello(self, session: str) -> messages.Hello:
        """Returns the opening of a session, with everything that is held."""
        described = self._describe_machine()
        self._announced_nodes, self._announced_problem = self._nodes.reported, self._problem()
        self._announced_docker = self._docker()
        return messages.Hello(
            session=session,
            protocol=messages.PROTOCOL_VERSION,
            protocol_min=messages.PROTOCOL_VERSION_MIN,
            agent_version=waterflow_agent.__version__,
            instance=self._ledger.instance,
            machine_id=described.machine_id,
            boot_id=self._ledger.boot_id,
            slots=0 if self._announced_problem else self._ledger.slots,
            hostname=described.hostname,
            os=described.os,
            arch=described.arch,
            labels=self._labels,
            nodes=[*parameters.runnable(), schema.FROM_REPOSITORY, *self._nodes.names],
            held=self._ledger.held(),
            jobs=self._steps.jobs(),
            own_nodes=self._announced_nodes,
            problem=self._announced_problem,
            installation=self._installation,
            docker=self._announced_docker,
        )

    def on_opened(self, welcome: messages.Welcome) -> None:
        """Removes what the daemon does not want, and sends everything again that it has not acknowledged."""
        if welcome.generation < self._generation:
            logger.warning("the server's data is older than before: it was restored from a backup")
        self._generation = welcome.generation
        self.groups = welcome.groups
        self._steps.agent_name = welcome.name
        for action in self._ledger.forget(welcome.forget):
            self._executor.carry_out(action)
        self._executor.send_undelivered()
        self._output.sender.rewind()
        self._checkouts.on_opened()
        self._artifacts.on_opened()
        self._executor.commit()

    def on_confirmed(self, at: int) -> None:
        """Extends the leases of the steps, at most once per `CONFIRM_MS`."""
        if at >= self._confirmed_at + CONFIRM_MS:
            self._confirmed_at = at
            self._steps.confirm_leases(at)

    def on_received(self, received: Received) -> None:
        """Handles one frame: acknowledgements first, then files and output, then offers and cancellations."""
        for message in received.acknowledged:
            if isinstance(message, messages.Finished):
                self._executor.carry_out(self._ledger.result_acknowledged(message.key))
        now = self._clock.boot_ms()
        for loose in received.loose:
            if isinstance(loose, messages.FileResponse):
                self._checkouts.on_response(loose)
            elif isinstance(loose, messages.ArtifactResponse):
                self._artifacts.on_response(loose)
            elif isinstance(loose, messages.OutputAck) and self._output.sender.acknowledge(
                loose.key, loose.offset, now
            ):
                self._executor.carry_out(self._ledger.output_acknowledged(loose.key))
        for _, message in received.numbered:
            if isinstance(message, messages.Offer):
                self._executor.carry_out(
                    self._ledger.offer(self._output.with_job_secrets(message.task), self._clock.wall_ms())
                )
            elif isinstance(message, messages.Cancel):
                self._executor.carry_out(self._ledger.cancel(message, self._clock.wall_ms()))
            elif isinstance(message, messages.Release):
                self._steps.release_job(message.run, message.job, is_kept=message.is_kept)
                kept_at = self._clock.wall_ms() if message.is_kept else None
                self._output.release_job(messages.JobName(message.run, message.job), kept_at=kept_at)
        self._executor.commit()
        if received.numbered:
            self._sender.acknowledge(received.numbered[-1][0])

    def send_output(self, now: int) -> int | None:
        """Sends the output that fits its window. Returns when to call this again, at the latest."""
        outputs, broken = self._output.sender.take(now)
        for output in outputs:
            self._sender.send(output)
        for key in broken:
            fields = logs.subject(key.attempt)
            logger.warning("the output of a step was deleted on this server before it was sent", extra=fields)
            self._executor.carry_out(self._ledger.output_acknowledged(key))
        if broken:
            self._executor.commit()
        return self._output.sender.next_wake_at()

    def on_closed(self, reason: str) -> None:
        """Does nothing: what was not acknowledged is sent again when the next session opens."""
        logger.debug("session closed: %s", reason)
