"""Rotation of the server's key: agents in this process, and the daemon's ports with lists of keys that a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.dispatch.link_harness import LinkHarness, Peer, started, until
from waterflow_agent import enrollment
from waterflow_agent.agent import Agent
from waterflow_agent.config import Config
from waterflow_agent.errors import Retryable
from waterflow_agent.keys import KeyPair, load_or_create
from waterflow_agent.state import status
from waterflow_agent.testing import end_runner
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import OldServerKey
from waterflowd.dispatch import keys
from waterflowd.dispatch.keys import ServerKeyPair, ServerKeys, fresh_pair
from waterflowd.model.ids import AgentId

HOUR_MS = 3_600_000
NOW = time.time_ns() // 1_000_000
SOON, PAST = NOW + HOUR_MS, NOW - HOUR_MS
#: The server's first key, its second one, and one that is not the server's.
FIRST, SECOND, STRANGE = (fresh_pair(NOW - 2 * HOUR_MS) for _ in range(3))


def until_at(pair: ServerKeyPair, at: int) -> ServerKeyPair:
    """The pair as an old one."""
    return msgspec.structs.replace(pair, accepted_until=at)


@contextlib.asynccontextmanager
async def daemon(
    folder: Path, *pairs: ServerKeyPair, agent: AgentDirectory | None = None
) -> AsyncIterator[LinkHarness]:
    """A daemon with these keys that approves this agent."""
    keys.load_server_keys(folder)
    keys.replace_server_keys(folder, ServerKeys(pairs))
    async with started(folder) as link:
        if agent is not None:
            link.enroller.approved.add(agent.pair.public)
        yield link


class AgentDirectory:
    """An agent's data directory, for an agent that knows the server by this key."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.pair: KeyPair = load_or_create(path)

    def knows(self, current: ServerKeyPair, *old: OldServerKey) -> None:
        server = enrollment.Server(
            server_key=current.public, work_endpoint="", name="a", groups=["web"], old_server_keys=list(old)
        )
        enrollment.store(self.path, server)

    @property
    def id(self) -> AgentId:
        return AgentId(self.pair.fingerprint)

    @property
    def stored(self) -> tuple[str, list[OldServerKey]]:
        """The server's keys in the agent's file."""
        server = enrollment.load(self.path)
        assert server is not None
        return server.server_key, server.old_server_keys

    @property
    def link(self) -> str:
        """What `waterflow-agent status` shows."""
        found = status.read(self.path)
        return found.link if found is not None else ""

    @contextlib.asynccontextmanager
    async def running(self, link: LinkHarness) -> AsyncIterator[None]:
        """Runs the agent against this daemon."""
        agent = Agent(Config(name="a", data_dir=str(self.path), server=link.dispatch.endpoints.work))
        task = asyncio.create_task(agent.run())
        try:
            yield
        finally:
            agent.stop()
            await task


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[AgentDirectory]:
    made = AgentDirectory(tmp_path / "agent")
    made.knows(FIRST)
    yield made
    await end_runner(made.path)


async def test_an_agent_follows_a_rotation_and_gets_its_session_with_the_new_key(
    agent: AgentDirectory, tmp_path: Path
) -> None:
    """The old key only serves to learn the new one: there is one session, and nothing is settled before."""
    async with daemon(tmp_path / "daemon", SECOND, until_at(FIRST, SOON), agent=agent) as link, agent.running(link):
        await until(lambda: "connected" in link.names(agent.id))

        assert link.names(agent.id) == ["settle", "connected"]
        assert link.dispatch.counters["key_rotations_sent"] == 1
        assert agent.stored == (SECOND.public, [OldServerKey(FIRST.public, SOON)])
        await until(lambda: (now := status.read(agent.path)) is not None and now.is_connected)
        displayed = status.read(agent.path)
        assert displayed is not None
        assert displayed.server_fingerprint == SECOND.fingerprint


async def test_an_agent_that_missed_several_rotations_follows_to_the_newest_key(
    agent: AgentDirectory, tmp_path: Path
) -> None:
    """Each old key leads directly to the current one."""
    newest = fresh_pair(NOW)
    pairs = (newest, until_at(SECOND, SOON), until_at(FIRST, SOON))
    async with daemon(tmp_path / "daemon", *pairs, agent=agent) as link, agent.running(link):
        await until(lambda: "connected" in link.names(agent.id))

        assert agent.stored == (newest.public, [OldServerKey(FIRST.public, SOON)])


async def test_an_expired_key_is_refused(agent: AgentDirectory, tmp_path: Path) -> None:
    """It is in the file still, and opens no handshake; the agent says what may have happened."""
    async with daemon(tmp_path / "daemon", SECOND, until_at(FIRST, PAST), agent=agent) as link, agent.running(link):
        await until(lambda: "If its key was rotated and the old one has expired" in agent.link)
        # The same port is open for an agent with the current key.
        await link.peer().open()

        assert link.names(agent.id) == []
        assert agent.stored == (FIRST.public, [])


async def test_a_peer_with_an_old_key_gets_the_new_one_and_no_session(tmp_path: Path) -> None:
    """Whatever it sends besides `Hello` reaches nothing, and the session that the agent has is not affected."""
    async with daemon(tmp_path / "daemon", SECOND, until_at(FIRST, SOON)) as link:
        current = link.peer()
        await current.open()
        old = Peer(link, (current.public, current.secret))
        old.socket.curve_publickey, old.socket.curve_secretkey = old.public, old.secret
        old.socket.curve_serverkey = FIRST.public.encode()
        old.socket.connect(link.dispatch.endpoints.work)

        await old.hello()
        answer = (await old.hear(messages.KeyRotated))[0]

        assert isinstance(answer, messages.KeyRotated)
        assert (answer.server_key, answer.old_server_keys) == (SECOND.public, [OldServerKey(FIRST.public, SOON)])
        await link.proves_alive(current)
        assert link.names(current.agent) == ["settle", "connected", "received"]


async def test_a_stranger_with_the_old_key_is_refused_like_any_other(tmp_path: Path) -> None:
    """Knowing an old public key of the server, which every join token contains, gives nothing."""
    async with daemon(tmp_path / "daemon", SECOND, until_at(FIRST, SOON)) as link:
        stranger = Peer(link)
        stranger.socket.curve_publickey, stranger.socket.curve_secretkey = stranger.public, stranger.secret
        stranger.socket.curve_serverkey = FIRST.public.encode()
        stranger.socket.connect(link.dispatch.endpoints.work)
        await stranger.hello()

        await until(lambda: link.dispatch.counters["frames_refused"] > 0)

        assert link.dispatch.counters["key_rotations_sent"] == 0


async def test_a_join_token_of_before_the_rotation_enrolls_with_the_new_key(
    agent: AgentDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the old key expires; afterwards the daemon does not answer it."""
    config = Config(name="a", data_dir=str(agent.path))
    async with daemon(tmp_path / "daemon", SECOND, until_at(FIRST, SOON)) as link:
        server = await enrollment.enroll(config, settings_of(link), agent.pair)

        assert server.server_key == SECOND.public
        assert agent.stored == (SECOND.public, [OldServerKey(FIRST.public, SOON)])
    async with daemon(tmp_path / "later", SECOND, until_at(FIRST, PAST)) as link:
        request = messages.EnrollRequest(1, "join", "n", [], "h", "m", "v")
        monkeypatch.setattr(enrollment, "ANSWER_S_MAX", 1.0)
        with pytest.raises(Retryable):
            await enrollment.ask(settings_of(link), agent.pair, request)
        assert link.enroller.requests == []


def settings_of(link: LinkHarness) -> enrollment.EnrollmentSettings:
    """A join token that was made with the first key."""
    return enrollment.EnrollmentSettings(
        endpoint=link.dispatch.endpoints.enroll,
        server_key=FIRST.public,
        credential="join",
        work_endpoint=link.dispatch.endpoints.work,
    )


async def test_an_agent_drops_a_retired_key_with_its_next_session(agent: AgentDirectory, tmp_path: Path) -> None:
    """Before its time, because the daemon no longer lists it."""
    agent.knows(SECOND, OldServerKey(FIRST.public, SOON))
    async with daemon(tmp_path / "daemon", SECOND, agent=agent) as link, agent.running(link):
        await until(lambda: "connected" in link.names(agent.id))
        await until(lambda: agent.stored == (SECOND.public, []))


async def test_a_daemon_restored_from_before_the_rotation_is_reached_until_the_old_key_expires(
    agent: AgentDirectory, tmp_path: Path
) -> None:
    """The agent alternates between the keys, works, says until when it will, and still prefers the newer key."""
    agent.knows(SECOND, OldServerKey(FIRST.public, SOON))
    async with daemon(tmp_path / "daemon", FIRST, agent=agent) as link, agent.running(link):
        await until(lambda: "connected" in link.names(agent.id))
        await until(lambda: "the server uses an old key" in agent.link)

    assert agent.stored == (SECOND.public, [OldServerKey(FIRST.public, SOON)])


# Somebody else has the old key ----------------------------------------------------------------------------------------------


async def test_the_old_key_does_not_play_the_daemon_after_its_time(agent: AgentDirectory, tmp_path: Path) -> None:
    """An impostor with the leaked key, at the daemon's address: an agent that has followed never says a word to it."""
    agent.knows(SECOND, OldServerKey(FIRST.public, PAST))
    async with daemon(tmp_path / "impostor", FIRST, agent=agent) as impostor, agent.running(impostor):
        # The agent has tried, several times, only with the key that the impostor does not have.
        await until(lambda: impostor.dispatch.counters["frames_refused"] >= 4)

        assert impostor.dispatch.counters["frames_received"] == 0
        assert impostor.listener.calls == []


async def test_the_old_key_cannot_give_an_agent_another_key(agent: AgentDirectory, tmp_path: Path) -> None:
    """An impostor with the leaked key announces its own key while the old one is accepted: the agent does not follow.

    So its time is over when the old key expires.
    """
    agent.knows(SECOND, OldServerKey(FIRST.public, SOON))
    pairs = (STRANGE, until_at(FIRST, NOW + 1_000 * HOUR_MS))
    async with daemon(tmp_path / "impostor", *pairs, agent=agent) as impostor, agent.running(impostor):
        await until(lambda: impostor.dispatch.counters["key_rotations_sent"] >= 2)
        await until(lambda: "it was not accepted" in agent.link)

        assert impostor.listener.calls == []
    assert agent.stored == (SECOND.public, [OldServerKey(FIRST.public, SOON)])


async def test_an_impostor_cannot_extend_the_time_of_the_old_key(agent: AgentDirectory, tmp_path: Path) -> None:
    """A session with the old key changes nothing in what the agent accepts."""
    agent.knows(SECOND, OldServerKey(FIRST.public, SOON))
    pairs = (FIRST, until_at(STRANGE, NOW + 1_000 * HOUR_MS))
    async with daemon(tmp_path / "impostor", *pairs, agent=agent) as impostor, agent.running(impostor):
        await until(lambda: "connected" in impostor.names(agent.id))

    assert agent.stored == (SECOND.public, [OldServerKey(FIRST.public, SOON)])
