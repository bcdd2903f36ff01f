"""The daemon's side of the link over real sockets, with a scripted agent and other peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.integration.dispatch_world import FINISHED, KEY, SILENCE_MS, STARTED, TASK, Peer, started, until
from tests.patience import PATIENCE_S
from waterflow_agent.wire import codec, messages


async def test_an_agent_enrolls_by_a_token_and_works_on_the_other_port(tmp_path: Path) -> None:
    """The answer contains fingerprint and work port; afterwards the key is accepted on the work port."""
    async with started(tmp_path) as world:
        stranger = Peer(world).connect(world.dispatch.endpoints.enroll)
        await stranger.socket.send(
            bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "join", "web-1", [], "h", "m", "0.1.0"))))
        )
        answer = codec.decode_enroll_answer(await stranger.socket.recv())

        assert answer.state == "approved"
        assert answer.fingerprint == stranger.agent
        assert answer.work_endpoint == f"tcp://:{world.dispatch.endpoints.work.rpartition(':')[2]}"
        agent = world.peer(pair=(stranger.public, stranger.secret))
        welcome = await agent.open()
        assert (welcome.name, welcome.groups, welcome.generation) == ("web-1", ["web"], 7)


async def test_the_desk_settles_before_it_is_told_of_the_connection(tmp_path: Path) -> None:
    """The order is settle, connected, then the host's outstanding messages; welcome and offer share one frame."""
    async with started(tmp_path) as world:
        world.desk.forget = [KEY]
        world.desk.on_connected = lambda agent: world.dispatch.send(agent, [messages.Offer(task=TASK)])
        agent = world.peer()
        await agent.hello()

        heard = await agent.hear(messages.Offer)

        assert isinstance(heard[0], messages.Welcome)
        assert heard[0].forget == [KEY]
        assert heard[1] == messages.Offer(task=TASK)
        assert world.names(agent.agent) == ["settle", "connected"]


async def test_messages_of_one_turn_leave_in_one_frame(tmp_path: Path) -> None:
    """Several messages sent in one batch share a frame."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        for _ in range(10):
            world.dispatch.send(agent.agent, [messages.Offer(task=TASK)])

        received = agent.session.receive(await agent.socket.recv(), 0)

        assert len(received.numbered) == 10


async def test_a_report_is_acknowledged_once_it_is_durable_and_not_before(tmp_path: Path) -> None:
    """The acknowledgement follows the host's confirmation of durability, not the arrival of the report."""
    async with started(tmp_path) as world:
        waiting: list[Callable[[], None]] = []
        world.desk.on_received = waiting.append
        agent = world.peer()
        await agent.open()
        await agent.say(STARTED, FINISHED)
        await until(lambda: bool(waiting))
        world.dispatch.send(agent.agent, [messages.OutputAck(key=KEY, offset=1)])

        assert await agent.hear(messages.OutputAck) == [messages.OutputAck(key=KEY, offset=1)]
        waiting[0]()
        assert await agent.hear(messages.Finished) == [STARTED, FINISHED]
        assert world.desk.reports == [STARTED, FINISHED]


async def test_durability_that_comes_after_the_session_is_nobodys_business(tmp_path: Path) -> None:
    """A late confirmation for a closed session has no effect, not even on the session that replaced it."""
    async with started(tmp_path) as world:
        waiting: list[Callable[[], None]] = []
        world.desk.on_received = waiting.append
        agent = world.peer()
        await agent.open()
        await agent.say(FINISHED)
        await until(lambda: bool(waiting))
        await agent.open()

        waiting[0]()

        await agent.say(FINISHED)
        await until(lambda: len(waiting) == 2)
        waiting[1]()
        assert await agent.hear(messages.Finished) == [FINISHED]


async def test_output_reaches_the_desk_and_its_acknowledgement_the_agent(tmp_path: Path) -> None:
    """Output is unnumbered: it carries its offset, and the host acknowledges it."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        output = messages.Output(key=KEY, offset=0, chunks=[messages.OutputChunk(at=1, stream=1, data=b"hello")])
        await agent.say(output)
        await until(lambda: world.desk.outputs == [output])


async def test_a_question_for_files_reaches_the_desk_and_its_answer_the_agent(tmp_path: Path) -> None:
    """File requests and their responses are unnumbered, like output."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        wanted = messages.FileRequest(KEY, 1, [b"1" * 20], 0)
        await agent.say(wanted)
        await until(lambda: world.desk.questions == [wanted])
        content = messages.FileResponse(KEY, 1, [messages.FileChunk(3, b"one")])
        world.dispatch.send(agent.agent, [content])
        assert await agent.hear(messages.FileResponse) == [content]


async def test_a_new_hello_of_the_same_process_replaces_the_session(tmp_path: Path) -> None:
    """From the same or a new connection, the older session ends before the newer one settles."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        again = world.peer(pair=(agent.public, agent.secret))
        await again.open()

        assert world.names(agent.agent) == ["settle", "connected", "disconnected", "settle", "connected"]
        await world.proves_alive(again)
        await agent.say(STARTED)
        assert await agent.hear(messages.Reset)


async def test_a_result_of_another_session_is_ignored(tmp_path: Path) -> None:
    """A frame with the token of another session reaches no handler and has no effect."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        forged = codec.encode_frame("another-session", 0, 1, [codec.encode_message(FINISHED)], [])
        await agent.socket.send(forged)
        await world.proves_alive(agent)

        assert world.desk.reports == [FINISHED]
        assert world.dispatch.counters["frames_foreign"] == 1


async def test_an_unknown_connection_is_told_to_say_hello_again(tmp_path: Path) -> None:
    """After a daemon restart, an agent's frame matches no session: it is answered with a reset and never applied."""
    async with started(tmp_path) as world:
        agent = world.peer()
        agent.session.queue(FINISHED)
        await agent.say()

        assert await agent.hear(messages.Reset)
        assert world.desk.reports == []


async def test_a_silent_agent_is_disconnected(tmp_path: Path) -> None:
    """Without any frame for the agreed time the session ends, and the text says so."""
    async with started(tmp_path, silence_ms=SILENCE_MS) as world:
        agent = world.peer()
        await agent.open()

        await until(lambda: world.names(agent.agent)[-1] == "disconnected")

        assert world.desk.texts == ["no frame for 0.9 s"]


async def test_an_agent_that_is_gone_is_noticed_at_the_next_send(tmp_path: Path) -> None:
    """Sending to a closed connection fails, which ends the session at once instead of after the silence timeout."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        agent.socket.close(linger=0)

        def is_noticed() -> bool:
            world.dispatch.send(agent.agent, [messages.OutputAck(key=KEY, offset=1)])
            return world.names(agent.agent)[-1] == "disconnected"

        await until(is_noticed)
        assert world.desk.texts == ["its connection is closed"]


async def test_a_revoked_agent_is_cut_at_once_and_stays_out(tmp_path: Path) -> None:
    """Its session ends with the reason, its later frames reach no handler, and it cannot reconnect."""
    async with started(tmp_path) as world:
        good = world.peer()
        await good.open()
        agent = world.peer()
        await agent.open()
        world.enrollments.approved.remove(agent.public.decode())
        world.dispatch.revoke(agent.agent)

        (rejected,) = await agent.hear(messages.Reject)
        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF212"
        await until(lambda: world.names(agent.agent)[-1] == "disconnected")
        refused = world.dispatch.counters["frames_refused"]
        await agent.say(FINISHED)
        await agent.hello()
        Peer(world, (agent.public, agent.secret)).connect(world.dispatch.endpoints.work)
        # At least one, because ZeroMQ retries the refused handshake again and again.
        await until(lambda: world.dispatch.counters["frames_refused"] >= refused + 3)
        await world.proves_alive(good)
        assert world.desk.reports == [FINISHED]
        assert world.names(agent.agent).count("settle") == 1


async def test_a_key_that_lost_its_approval_is_cut_at_its_next_frame(tmp_path: Path) -> None:
    """The key is checked for each frame, even if `revoke` was not called."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        world.enrollments.approved.clear()
        await agent.say(FINISHED)

        assert await agent.hear(messages.Reject)
        assert world.desk.reports == []


async def test_a_clone_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    """Of two live processes with one key, the newer is refused for good and reported; the older one continues."""
    async with started(tmp_path, silence_ms=12_000) as world:
        first = world.peer()
        await first.open(instance="first")
        second = world.peer(pair=(first.public, first.secret))

        async def talk() -> None:
            while True:
                await first.beat()
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        await second.hello(instance="second")
        (rejected,) = await second.hear(messages.Reject)
        await until(lambda: world.desk.clones == [first.agent])
        await second.hello(instance="second")
        (final,) = await second.hear(messages.Reject)
        talking.cancel()

        assert isinstance(rejected, messages.Reject)
        assert isinstance(final, messages.Reject)
        assert rejected.code == final.code == "WF211"
        assert 0 < rejected.after_ms < final.after_ms
        await world.proves_alive(first)
        assert world.names(first.agent).count("settle") == 1


async def test_a_restarted_agent_is_no_clone(tmp_path: Path) -> None:
    """Once the connection of the older process is closed, a new process is accepted as soon as it connects."""
    async with started(tmp_path) as world:
        first = world.peer()
        await first.open(instance="first")
        first.socket.close(linger=0)
        second = world.peer(pair=(first.public, first.secret))

        async with asyncio.timeout(PATIENCE_S):
            while True:
                await second.hello(instance="second")
                heard = await second.hear(msgspec.Struct)
                if isinstance(heard[0], messages.Welcome):
                    break

        assert world.desk.clones == []
