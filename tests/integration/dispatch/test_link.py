"""The daemon's side of the link over real sockets, with a scripted agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.integration.dispatch.link_harness import FINISHED, KEY, SILENCE_MS, STARTED, TASK, Peer, started, until
from tests.patience import PATIENCE_S
from waterflow_agent.wire import codec, messages


async def test_an_agent_enrolls_by_a_token_and_works_on_the_other_port(tmp_path: Path) -> None:
    """The answer contains fingerprint and work port, which then accepts the key."""
    async with started(tmp_path) as link:
        stranger = Peer(link).connect(link.dispatch.endpoints.enroll)
        await stranger.socket.send(
            bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "join", "web-1", [], "h", "m", "0.1.0"))))
        )
        answer = codec.decode_enroll_answer(await stranger.socket.recv())

        assert answer.state == "approved"
        assert answer.fingerprint == stranger.agent
        assert answer.work_endpoint == f"tcp://:{link.dispatch.endpoints.work.rpartition(':')[2]}"
        agent = link.peer(pair=(stranger.public, stranger.secret))
        welcome = await agent.open()
        assert (welcome.name, welcome.groups, welcome.generation) == ("web-1", ["web"], 7)


async def test_settlement_precedes_the_connected_callback(tmp_path: Path) -> None:
    """Settle, connected, then the host's messages; welcome and offer arrive in one frame."""
    async with started(tmp_path) as link:
        link.listener.forget = [KEY]
        link.listener.on_connected = lambda agent: link.dispatch.send(agent, [messages.Offer(task=TASK)])
        agent = link.peer()
        await agent.hello()

        received_messages = await agent.hear(messages.Offer)

        assert isinstance(received_messages[0], messages.Welcome)
        assert received_messages[0].forget == [KEY]
        assert received_messages[1] == messages.Offer(task=TASK)
        assert link.names(agent.agent) == ["settle", "connected"]


async def test_messages_of_one_turn_share_a_frame(tmp_path: Path) -> None:
    """Several sends in one turn of the event loop."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        for _ in range(10):
            link.dispatch.send(agent.agent, [messages.Offer(task=TASK)])

        received = agent.session.receive(await agent.socket.recv(), 0)

        assert len(received.numbered) == 10


async def test_a_report_is_acknowledged_only_once_it_is_durable(tmp_path: Path) -> None:
    """The acknowledgement follows the host's callback, not the arrival."""
    async with started(tmp_path) as link:
        waiting: list[Callable[[], None]] = []
        link.listener.on_received = waiting.append
        agent = link.peer()
        await agent.open()
        await agent.say(STARTED, FINISHED)
        await until(lambda: bool(waiting))
        link.dispatch.send(agent.agent, [messages.OutputAck(key=KEY, offset=1)])

        assert await agent.hear(messages.OutputAck) == [messages.OutputAck(key=KEY, offset=1)]
        waiting[0]()
        assert await agent.hear(messages.Finished) == [STARTED, FINISHED]
        assert link.listener.reports == [STARTED, FINISHED]


async def test_durability_after_the_end_of_a_session_has_no_effect(tmp_path: Path) -> None:
    """Not even on the session that replaced it."""
    async with started(tmp_path) as link:
        waiting: list[Callable[[], None]] = []
        link.listener.on_received = waiting.append
        agent = link.peer()
        await agent.open()
        await agent.say(FINISHED)
        await until(lambda: bool(waiting))
        await agent.open()

        waiting[0]()

        await agent.say(FINISHED)
        await until(lambda: len(waiting) == 2)
        waiting[1]()
        assert await agent.hear(messages.Finished) == [FINISHED]


async def test_output_reaches_the_listener_and_its_acknowledgement_the_agent(tmp_path: Path) -> None:
    """Output is unnumbered: it carries its offset, and the host answers it."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        output = messages.Output(key=KEY, offset=0, chunks=[messages.OutputChunk(at=1, stream=1, data=b"hello")])
        await agent.say(output)
        await until(lambda: link.listener.outputs == [output])


async def test_a_file_request_reaches_the_listener_and_its_response_the_agent(tmp_path: Path) -> None:
    """Both are unnumbered, like output."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        requested = messages.FileRequest(KEY, 1, [b"1" * 20], 0)
        await agent.say(requested)
        await until(lambda: link.listener.questions == [requested])
        content = messages.FileResponse(KEY, 1, [messages.FileChunk(3, b"one")])
        link.dispatch.send(agent.agent, [content])
        assert await agent.hear(messages.FileResponse) == [content]


async def test_a_new_hello_of_the_same_process_replaces_the_session(tmp_path: Path) -> None:
    """From the same or a new connection: the older session ends first, then the newer one settles."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        again = link.peer(pair=(agent.public, agent.secret))
        await again.open()

        assert link.names(agent.agent) == ["settle", "connected", "disconnected", "settle", "connected"]
        await link.proves_alive(again)
        await agent.say(STARTED)
        assert await agent.hear(messages.Reset)


async def test_a_result_of_another_session_is_ignored(tmp_path: Path) -> None:
    """A frame with another session's token has no effect."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        forged = codec.encode_frame("another-session", 0, 1, [codec.encode_message(FINISHED)], [])
        await agent.socket.send(forged)
        await link.proves_alive(agent)

        assert link.listener.reports == [FINISHED]
        assert link.dispatch.counters["frames_foreign"] == 1


async def test_an_unknown_connection_gets_a_reset(tmp_path: Path) -> None:
    """After the daemon's restart an agent's frame finds no session: it is answered with a reset, never applied."""
    async with started(tmp_path) as link:
        agent = link.peer()
        agent.session.queue(FINISHED)
        await agent.say()

        assert await agent.hear(messages.Reset)
        assert link.listener.reports == []


async def test_a_silent_agent_is_disconnected(tmp_path: Path) -> None:
    """Without any frame for the agreed time the session ends, and the text says so."""
    async with started(tmp_path, silence_ms=SILENCE_MS) as link:
        agent = link.peer()
        await agent.open()

        await until(lambda: link.names(agent.agent)[-1] == "disconnected")

        assert link.listener.texts == ["no frame for 0.9 s"]


async def test_a_closed_connection_is_noticed(tmp_path: Path) -> None:
    """The session ends at once, not at the next send or after the silence limit."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        agent.socket.close(linger=0)

        await until(lambda: link.names(agent.agent)[-1] == "disconnected")
        assert link.listener.texts == ["its connection is closed"]


async def test_a_revoked_agent_is_disconnected_at_once_and_cannot_reconnect(tmp_path: Path) -> None:
    """Its session ends with the reason, its further frames have no effect, and it cannot reconnect."""
    async with started(tmp_path) as link:
        good = link.peer()
        await good.open()
        agent = link.peer()
        await agent.open()
        link.enroller.approved.remove(agent.public.decode())
        link.dispatch.revoke(agent.agent)

        (rejected,) = await agent.hear(messages.Reject)
        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF212"
        await until(lambda: link.names(agent.agent)[-1] == "disconnected")
        refused = link.dispatch.counters["frames_refused"]
        await agent.say(FINISHED)
        await agent.hello()
        Peer(link, (agent.public, agent.secret)).connect(link.dispatch.endpoints.work)
        # At least: ZeroMQ connects again by itself.
        await until(lambda: link.dispatch.counters["frames_refused"] >= refused + 2)
        await link.proves_alive(good)
        assert link.listener.reports == [FINISHED]
        assert link.names(agent.agent).count("settle") == 1


async def test_a_key_without_approval_is_disconnected_at_its_next_frame(tmp_path: Path) -> None:
    """Even without a call of revoke: the key is checked for each frame."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        link.enroller.approved.clear()
        await agent.say(FINISHED)

        assert await agent.hear(messages.Reject)
        assert link.listener.reports == []


async def test_a_clone_is_rejected_while_the_first_process_works(tmp_path: Path) -> None:
    """Two live processes with one key: the newer one is rejected for good and reported; the older one continues."""
    async with started(tmp_path, silence_ms=12_000) as link:
        first = link.peer()
        await first.open(instance="first")
        second = link.peer(pair=(first.public, first.secret))

        async def talk() -> None:
            while True:
                await first.beat()
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        await second.hello(instance="second")
        (rejected,) = await second.hear(messages.Reject)
        await until(lambda: link.listener.clones == [first.agent])
        await second.hello(instance="second")
        (final,) = await second.hear(messages.Reject)
        talking.cancel()

        assert isinstance(rejected, messages.Reject)
        assert isinstance(final, messages.Reject)
        assert rejected.code == final.code == "WF211"
        assert 0 < rejected.after_ms < final.after_ms
        await link.proves_alive(first)
        assert link.names(first.agent).count("settle") == 1


async def test_a_restarted_agent_is_not_a_clone(tmp_path: Path) -> None:
    """When the older process's connection is closed, a new process is accepted at once."""
    async with started(tmp_path) as link:
        first = link.peer()
        await first.open(instance="first")
        first.socket.close(linger=0)
        second = link.peer(pair=(first.public, first.secret))

        async with asyncio.timeout(PATIENCE_S):
            while True:
                await second.hello(instance="second")
                received_messages = await second.hear(msgspec.Struct)
                if isinstance(received_messages[0], messages.Welcome):
                    break

        assert link.listener.clones == []
