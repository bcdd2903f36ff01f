"""Many agents in one process: the real link with the real protocol and keys, and a handler that runs nothing.

Each holds one attempt that runs. When it has connected again it reports the attempt's end, so that a run's end proves its
agent's settlement. `python -m bench.light_agents FILE` lives until SIGTERM; the file is a `Crew` in msgpack.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.clock import Clock
from waterflow_agent.keys import KeyPair
from waterflow_agent.session.dealer import SocketFactory
from waterflow_agent.session.link import Link
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received


class Member(msgspec.Struct):
    """One agent: its keys, and the attempt that it holds."""

    keys: KeyPair
    attempt: messages.TaskId


class Crew(msgspec.Struct):
    """The agents of one process, and where they connect to."""

    endpoint: str
    server_key: str
    boot_id: str
    members: list[Member]


class LightHandler:
    """See the file's docstring. Implements `link.MessageHandler`."""

    def __init__(self, attempt: messages.TaskId, boot_id: str) -> None:
        self.link: Link | None = None
        self._attempt = attempt
        self._boot_id = boot_id
        self._instance = os.urandom(8).hex()
        self._state: messages.AttemptState | None = messages.AttemptState.STARTED
        self._is_known = False

    def hello(self, session: str) -> messages.Hello:
        """An agent with one slot, which is taken."""
        return messages.Hello(
            session=session,
            protocol=messages.PROTOCOL_VERSION,
            protocol_min=messages.PROTOCOL_VERSION_MIN,
            agent_version="bench",
            instance=self._instance,
            machine_id=self._instance,
            boot_id=self._boot_id,
            slots=1,
            hostname="bench",
            os="linux",
            arch="x86_64",
            labels={},
            nodes=["log"],
            held=[] if self._state is None else [messages.HeldAttempt(self._attempt, self._state)],
        )

    def on_opened(self, welcome: messages.Welcome) -> None:
        """At the second time the attempt is over."""
        if self._is_known and self._state is not None:
            self._state = messages.AttemptState.FINISHED
            now = time.time_ns() // 1_000_000
            assert self.link is not None
            self.link.send(
                messages.Finished(
                    key=self._attempt,
                    outcome=Outcome.SUCCESS,
                    exit_code=0,
                    reason_code="",
                    reason_text="",
                    outputs={},
                    env={},
                    started_at=now,
                    finished_at=now,
                    output_bytes=0,
                    output_dropped=0,
                )
            )
        self._is_known = True

    def on_received(self, received: Received) -> None:
        """Takes note of the daemon's acknowledgement; has a journal for nothing else."""
        if received.acknowledged:
            self._state = None
        if received.numbered and self.link is not None:
            self.link.acknowledge(received.numbered[-1][0])

    def send_output(self, now: int) -> int | None:
        """Prints nothing."""
        return None

    def on_closed(self, reason: str) -> None:
        """The link connects again."""


async def _serve(crew: Crew) -> None:
    links = []
    for member in crew.members:
        handler = LightHandler(member.attempt, crew.boot_id)
        handler.link = Link(
            endpoint=crew.endpoint,
            sockets=SocketFactory(server_key=crew.server_key, keys=member.keys),
            new_token=lambda: os.urandom(16).hex(),
            clock=Clock(),
        )
        links.append(handler.link.run(handler))
    await asyncio.gather(*links)


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Crew)))
