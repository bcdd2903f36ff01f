"""Whether the steps of this server can use a Docker engine, which the agent reports: jobs with containers go only where one is.

Theory. Only the users of steps need access to an engine, so the question is asked as these users, by a process of theirs
(`nodes.containers.probe`). That costs some milliseconds, so it is asked rarely. Looking at the engine's socket costs nothing:
without a socket no engine runs, and an engine that starts creates a new one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from waterflow_agent.backoff import Backoff
from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.step_policy import Account
from waterflow_agent.nodes.containers import probe
from waterflow_agent.nodes.node_process import package_environment
from waterflow_agent.wire.messages import DockerEngine

logger = logging.getLogger(__name__)

#: How often an engine that answers is asked again: it may have ended without removing its socket.
INTERVAL_S = 60
#: An engine that does not answer may be starting, or somebody is giving its user access.
_RETRY = Backoff(first_s=2, max_s=INTERVAL_S)
#: For the start of the process besides the engine's answer.
_PROBE_S_MAX = probe.ANSWER_S_MAX + 40
#: Of a problem on the wire.
_PROBLEM_LENGTH_MAX = 200


class DockerEngineMonitor:
    """Keeps what is reported about the engine up to date."""

    def __init__(
        self,
        commands: UserCommands,
        accounts: Callable[[], Sequence[Account | None]],
        environment: Mapping[str, str],
        clock: Clock,
    ) -> None:
        """`accounts` are the users that steps can have, and `environment` what they inherit."""
        self._commands = commands
        self._accounts = accounts
        self._environment = environment
        self._clock = clock
        self._address = environment.get("DOCKER_HOST") or probe.DEFAULT_ADDRESS
        self._found = DockerEngine("", "the agent has not looked for a Docker engine yet")
        self._asked: tuple[int, int] | None = None
        self._due_at = 0
        self._failures = 0

    @property
    def found(self) -> DockerEngine:
        """What is known of the engine."""
        return self._found

    async def refresh(self) -> None:
        """Looks for changes, and asks the engine if there is one or if it was asked long ago."""
        socket = self._socket()
        if socket is None:
            self._report(DockerEngine("", probe.no_engine(self._address)))
            self._asked = None
            return
        if socket == self._asked and self._clock.boot_ms() < self._due_at:
            return
        if socket != self._asked:
            self._failures = 0
        self._report(await self._ask())
        self._asked = socket
        self._failures = self._failures + 1 if self._found.problem else 0
        self._due_at = self._clock.boot_ms() + round((_RETRY.delay_s(self._failures) or INTERVAL_S) * 1000)

    def _socket(self) -> tuple[int, int] | None:
        """What identifies the engine's socket; None if it does not exist."""
        if not self._address.startswith(probe.UNIX):
            return 0, 0
        try:
            found = os.stat(self._address.removeprefix(probe.UNIX))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            # The agent's own user may not look at it.
            return 0, 0
        return found.st_ino, found.st_ctime_ns

    async def _ask(self) -> DockerEngine:
        """Asks as each user of steps, until one gets an answer. The problem is that of the first one, the default."""
        problems: list[str] = []
        for account in self._accounts():
            environment = package_environment(
                {**self._environment, **(account.environment if account is not None else {})}
            )
            argv = [sys.executable, "-P", "-m", probe.__name__]
            try:
                end = await self._commands.run(account, argv, environment, _PROBE_S_MAX)
            except Rejected as error:
                problems.append(error.text)
                continue
            if end.has_succeeded:
                return DockerEngine(end.text)
            problems.append(end.text)
        return DockerEngine("", problems[0] if problems else "steps have no user on this server")

    def _report(self, found: DockerEngine) -> None:
        found = DockerEngine(found.version, found.problem[:_PROBLEM_LENGTH_MAX])
        if found == self._found:
            return
        if found.version:
            logger.info("jobs can have containers: Docker engine %s", found.version)
        elif self._found.version:
            logger.warning("jobs cannot have containers any longer: %s", found.problem)
        self._found = found
