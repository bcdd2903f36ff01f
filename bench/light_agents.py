"""Many agents in one process: the real link with the real protocol and keys, and a handler that runs nothing.

Each agent holds one running attempt. After it has reconnected, it reports the attempt as finished, so a completed run
proves that its agent was settled. `python -m bench.light_agents FILE` runs until SIGTERM; the file is a `Crew` in
msgpack.
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
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received


class Member(msgspec.Struct):
    """One agent: its keys, and the attempt that it holds."""

    keys: KeyPair
    attempt: messages.TaskId


class Crew(msgspec.Struct):
    """The agents of one process, and the address of their daemon."""

    endpoint: str
    server_key: str
    boot_id: str
    members: list[Member]


class LightHandler:
    """Holds one attempt and runs nothing. Implements `link.MessageHandler`."""

    def __init__(self, attempt: messages.TaskId, boot_id: str) -> None:
        self.link: Link | None = None
        self._attempt = attempt
        self._boot_id = boot_id
        self._instance = os.urandom(8).hex()
        self._state: messages.AttemptState | None = messages.AttemptState.STARTED
        self._is_known = False

    def hello(self, session: str) -> messages.Hello:
        """Introduces an agent with one slot, which is taken until the daemon has the result."""
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
        """Reports the attempt as finished when the second session opens."""
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
        """Forgets the attempt once the daemon has acknowledged its result, and acknowledges the daemon's messages."""
        if received.acknowledged:
            self._state = None
        if received.numbered and self.link is not None:
            self.link.acknowledge(received.numbered[-1][0])

    def on_confirmed(self, at: int) -> None:
        """Does nothing, because the steps of the benchmark have no leases."""

    def send_output(self, now: int) -> int | None:
        """Sends nothing, because there is no output."""
        return None

    def on_closed(self, reason: str) -> None:
        """Does nothing: the link reconnects."""


async def _serve(crew: Crew) -> None:
    links = []
    for member in crew.members:
        handler = LightHandler(member.attempt, crew.boot_id)
        handler.link = Link(
            endpoint=crew.endpoint,
            sockets=SocketFactory(member.keys),
            server_keys=ServerKeys(crew.server_key),
            new_token=lambda: os.urandom(16).hex(),
            clock=Clock(),
        )
        links.append(handler.link.run(handler))
    await asyncio.gather(*links)


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Crew)))
