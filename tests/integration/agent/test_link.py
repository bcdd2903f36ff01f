"""The agent's link and enrollment: refused keys, silence, pauses, tokens, approval; in-process and as a child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from tests.patience import PATIENCE_S
from waterflow_agent import enrollment, keys, token_file
from waterflow_agent.agent import Agent
from waterflow_agent.attempts import Outcome
from waterflow_agent.backoff import Backoff
from waterflow_agent.clock import Clock
from waterflow_agent.config import Config
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.join_token import JoinToken
from waterflow_agent.session import link
from waterflow_agent.session.dealer import Dealer, SocketFactory
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.state import status
from waterflow_agent.testing import ScriptedDaemon, end_runner, enrolled, runner_pids
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import Received

#: How long the stopped agent may receive nothing; longer than a process waits for the CPU on a busy machine.
SILENCE_MS = 2_000


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with ScriptedDaemon() as daemon:
        yield daemon


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """Returns the data directory of an agent that may have started a runner."""
    path = tmp_path / "agent"
    path.mkdir()
    yield path
    await end_runner(path)


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        agent.stop()
        await task


async def eventually(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # What is waited for happens in other processes, so there is no event to wait on.
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_refused_key_is_reported_and_retried(
    daemon: ScriptedDaemon, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown key is reported clearly, and the agent connects once the key is approved."""
    monkeypatch.setattr(link, "REFUSED_BACKOFF", Backoff(first_s=0.05, max_s=0.1))
    monkeypatch.setattr(link, "REFUSALS_MAX", 1_000)
    enrolled(data_dir, daemon)
    daemon.is_approving = False

    async with running(Agent(Config(name="a", data_dir=str(data_dir)))):
        await daemon.until(lambda: daemon.refused_handshakes >= 1)
        await eventually(lambda: (displayed := status.read(data_dir)) and "refused this agent's key" in displayed.link)
        daemon.is_approving = True
        await daemon.session_opened()
        await eventually(lambda: (displayed := status.read(data_dir)) and displayed.is_connected)


async def test_a_key_that_stays_refused_ends_the_agent(
    daemon: ScriptedDaemon, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few refusals by all addresses; the error and the status say which server, why, and what to do."""
    monkeypatch.setattr(link, "REFUSED_BACKOFF", Backoff(first_s=0.05, max_s=0.1))
    daemon.is_approving = False
    async with ScriptedDaemon(like=daemon) as other:
        other.is_approving = False
        enrolled(data_dir, daemon)
        config = Config(name="a", data_dir=str(data_dir), server=several(daemon.endpoint, other.endpoint))
        with pytest.raises(Rejected, match=r"revoked, or is not enrolled there.*agents approve SHA256:") as caught:
            async with asyncio.timeout(PATIENCE_S):
                await Agent(config).run()
        assert caught.value.code == "WF212"
        assert daemon.refused_handshakes + other.refused_handshakes >= link.REFUSALS_MAX
        assert min(daemon.refused_handshakes, other.refused_handshakes) >= 1
    displayed = status.read_last(data_dir)
    assert displayed is not None
    assert (displayed.state, displayed.server in (daemon.endpoint, other.endpoint)) == ("refused", True)


@contextlib.contextmanager
def listener() -> Iterator[str]:
    """Yields an address at which something else than a daemon answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64)
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("is_enrolled", [True, False])
@pytest.mark.parametrize("fault", ["name", "port", "other", "key"])
async def test_each_fault_of_an_address_has_its_own_sentence(
    daemon: ScriptedDaemon, data_dir: Path, fault: str, is_enrolled: bool
) -> None:
    """In the status, with the address: a name without an address, a port without a listener, another service, another key."""
    with dead_port() as dead, listener() as service:
        endpoint = {"name": "tcp://nowhere.invalid:7233", "port": dead, "other": service, "key": daemon.endpoint}[fault]
        key = daemon.server_key if fault != "key" else zmq.curve_keypair()[0].decode()
        if is_enrolled:
            server = enrollment.Server(server_key=key, work_endpoint=endpoint, name="a", groups=[])
            enrollment.store(data_dir, server)
        config = Config(
            name="a", data_dir=str(data_dir), server=endpoint, enroll_server=endpoint, server_key=key, groups=["web"]
        )
        says = {
            "name": 'cannot resolve the host name "nowhere.invalid"',
            "port": f"connection refused: nothing listens on port {endpoint.rpartition(':')[2]} of 127.0.0.1",
            "other": "is not a port of waterflowd for agents",
            "key": "the server's key differs from the one that this agent has",
        }[fault]
        async with running(Agent(config)):
            await eventually(lambda: (displayed := status.read(data_dir)) and says in displayed.link)
            displayed = status.read(data_dir)
            assert displayed is not None
            assert displayed.server == endpoint
            states = {"resolving", "connecting"} if is_enrolled else {"enrolling"}
            assert displayed.state in states
            assert displayed.state == "resolving" or fault != "name" or not is_enrolled


async def test_back_off_of_a_refused_key_is_long() -> None:
    """Only a person can approve it, so the delay grows from seconds to half a minute, with jitter."""
    sockets = SocketFactory(keys.KeyPair(public="x" * 40, secret="y" * 40))
    one = link.Link(endpoint="", sockets=sockets, server_keys=ServerKeys(""), new_token=str, clock=Clock())
    refused = link.ConnectionEnd(link.EndReason.REFUSED, "no")

    delays = [[one._delay_s(refused, failures) for _ in range(50)] for failures in (1, 3, 20)]

    assert all(1 <= delay <= 30 for many in delays for delay in many)
    assert max(delays[0]) <= 2
    assert max(delays[2]) > 15
    assert len(set(delays[2])) > 1


class CountingSockets(SocketFactory):
    """Counts the sockets that are still open when all of them should be closed, and closes them."""

    def __init__(self, pair: keys.KeyPair) -> None:
        super().__init__(pair)
        self.opened: list[Dealer] = []
        self.left_open = 0

    def open(self, server_key: str) -> Dealer:
        self.opened.append(super().open(server_key))
        return self.opened[-1]

    def close(self) -> None:
        left_open = [dealer for dealer in self.opened if not dealer._socket.closed]
        self.left_open += len(left_open)
        for dealer in left_open:
            dealer.close(0)
        super().close()


class NoSession:
    """Handles the messages of sessions, of which there is none."""

    def hello(self, session: str) -> messages.Hello:
        raise AssertionError("nobody answers")

    def on_opened(self, welcome: messages.Welcome) -> None:
        raise AssertionError("nobody answers")

    def on_received(self, received: Received) -> None:
        raise AssertionError("nobody answers")

    def on_confirmed(self, at: int) -> None:
        raise AssertionError("nobody answers")

    def send_output(self, now: int) -> int | None:
        raise AssertionError("nobody answers")

    def on_closed(self, reason: str) -> None:
        raise AssertionError("nobody answers")


@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_while_a_connection_ends_leaves_no_socket_open(data_dir: Path, turns: int) -> None:
    """ZeroMQ waits for open sockets forever, so the agent would never end. The stop comes at each turn of the loop."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    pair = keys.load_or_create(data_dir)
    sockets = CountingSockets(pair)
    connecting = link.Link(
        endpoint=endpoint,
        sockets=sockets,
        server_keys=ServerKeys(pair.public),
        new_token=str,
        clock=Clock(),
    )
    task = asyncio.create_task(connecting.run(NoSession()))
    async with asyncio.timeout(PATIENCE_S):
        # Nothing listens there, so the connection ends by itself.
        while connecting._connection is None or not connecting._connection._ended.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert sockets.opened
    assert sockets.left_open == 0


async def test_silent_server_is_noticed(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """If nothing is received for the agreed time, the agent opens a new connection."""
    daemon.silence_ms = 300
    enrolled(data_dir, daemon)

    async with running(Agent(Config(name="a", data_dir=str(data_dir)))):
        await daemon.session_opened()
        daemon.mute()
        await daemon.until(lambda: len(daemon.hellos) >= 2)


def several(*endpoints: str) -> str:
    return ",".join(endpoints)


@contextlib.contextmanager
def dead_port() -> Iterator[str]:
    """Yields an address that nobody else gets, and at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{bound.getsockname()[1]}"


async def test_an_agent_finds_the_address_that_answers(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """Wherever it begins: addresses at which nobody listens cost a moment each."""
    enrolled(data_dir, daemon)
    with dead_port() as first, dead_port() as second:
        config = Config(name="a", data_dir=str(data_dir), server=several(first, daemon.endpoint, second))
        for count in range(1, 5):
            async with running(Agent(config)):
                await daemon.session_opened(count)
                await eventually(lambda: (displayed := status.read(data_dir)) and displayed.is_connected)
                displayed = status.read(data_dir)
                assert displayed is not None
                assert displayed.server == daemon.endpoint


async def test_an_agent_continues_its_steps_at_the_next_address(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """The daemon that offered a step dies; its result is reported to the other one, which says what it knows."""
    go_on = data_dir / "go-on"
    async with ScriptedDaemon(like=daemon) as other:
        enrolled(data_dir, daemon)
        config = Config(name="a", data_dir=str(data_dir), server=several(daemon.endpoint, other.endpoint))
        async with running(Agent(config)):
            await eventually(lambda: daemon.hellos or other.hellos)
            first, second = (daemon, other) if daemon.hellos else (other, daemon)
            await first.session_opened()
            task = first.task(0, run=f"while [ ! -e {go_on} ]; do sleep 0.05; done; echo done")
            first.offer(task)
            await first.until(lambda: first.started)

            await first.die()
            hello = await second.session_opened()
            go_on.touch()

            assert [held.key for held in hello.held] == [task.key]
            assert (await second.result(task.key)).outcome is Outcome.SUCCESS
            assert await second.output(task.key) == b"done\n"
            assert len(first.hellos) == 1
            await eventually(lambda: (displayed := status.read(data_dir)) and displayed.server == second.endpoint)


async def test_an_agent_that_is_refused_at_one_address_tries_the_next(
    daemon: ScriptedDaemon, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that has not heard of the approval yet keeps no agent out, if another one has."""
    monkeypatch.setattr(link, "REFUSED_BACKOFF", Backoff(first_s=0.05, max_s=0.1))
    daemon.is_approving = False
    async with ScriptedDaemon(like=daemon) as other:
        enrolled(data_dir, daemon)
        config = Config(name="a", data_dir=str(data_dir), server=several(daemon.endpoint, other.endpoint))
        for count in range(1, 5):
            async with running(Agent(config)):
                await other.session_opened(count)
    assert daemon.hellos == []


async def test_every_key_is_tried_at_every_address(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """A server that proves none of the keys does not make the agent miss the pair of address and key that fits."""
    old = messages.OldServerKey(zmq.curve_keypair()[0].decode(), 1 << 50)
    server = enrollment.Server(
        server_key=daemon.server_key, work_endpoint="", name="a", groups=[], old_server_keys=[old]
    )
    enrollment.store(data_dir, server)
    async with ScriptedDaemon() as stranger:
        config = Config(name="a", data_dir=str(data_dir), server=several(stranger.endpoint, daemon.endpoint))
        for count in range(1, 5):
            async with running(Agent(config)):
                await daemon.session_opened(count)
    assert stranger.hellos == []


async def test_suspended_agent_starts_no_outdated_offer(daemon: ScriptedDaemon, data_dir: Path, tmp_path: Path) -> None:
    """An offer that waited while the agent was suspended is not started afterwards."""
    daemon.silence_ms = SILENCE_MS
    enrolled(data_dir, daemon)
    marker = tmp_path / "ran"
    command = [sys.executable, "-m", "waterflow_agent", "run", "--data-dir", str(data_dir), "--name", "a"]
    process = await asyncio.create_subprocess_exec(*command, cwd="/")
    try:
        await daemon.session_opened()
        await daemon.run(daemon.task(0, node="log", params={"message": "the session is open there too"}))
        os.kill(process.pid, signal.SIGSTOP)
        before = len(daemon.hellos)
        daemon.offer(daemon.task(1, run=f"echo ran > {marker}"))
        # The session must expire while the agent is stopped.
        await asyncio.sleep(1.1 * SILENCE_MS / 1000)
        os.kill(process.pid, signal.SIGCONT)
        await daemon.session_opened(before + 1)
        await told_in_any_session(daemon, daemon.task(2, node="log", params={"message": "new session"}))
    finally:
        process.terminate()
        await process.wait()

    assert not marker.exists()
    assert not [held for hello in daemon.hellos[before:] for held in hello.held if held.key == daemon.task(1).key]


async def told_in_any_session(daemon: ScriptedDaemon, task: messages.Task) -> None:
    """Offers the task until it has a result: on a busy machine a session may end because of silence."""

    def is_there() -> bool:
        return any(finished.key == task.key for finished in daemon.finished)

    while not is_there():
        sessions = len(daemon.hellos)
        daemon.offer(task)
        await daemon.until(lambda: is_there() or len(daemon.hellos) > sessions)  # noqa: B023


async def test_a_rejection_for_good_ends_the_agent_but_not_its_runner(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """The agent does not connect again; its step runner continues, and its last status has the reason."""
    enrolled(data_dir, daemon)
    daemon.rejection = ("WF215", "another agent uses this key", 0)

    with pytest.raises(Rejected, match="another agent uses this key"):
        async with asyncio.timeout(PATIENCE_S):
            await Agent(Config(name="a", data_dir=str(data_dir))).run()

    assert len(daemon.hellos) == 1
    assert runner_pids(data_dir)
    displayed = status.read_last(data_dir)
    assert displayed is not None
    assert displayed.link == "another agent uses this key [WF215]"


async def test_second_agent_in_one_directory_is_refused(daemon: ScriptedDaemon, data_dir: Path) -> None:
    """The second process exits with an error, so that two processes never share a journal."""
    enrolled(data_dir, daemon)

    async with running(Agent(Config(name="a", data_dir=str(data_dir)))):
        await daemon.session_opened()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "waterflow_agent", "run", "--data-dir", str(data_dir)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, message = await process.communicate()

    assert process.returncode == 1
    assert b"another agent uses" in message


class Enrollment:
    """An enrollment port with scripted answers."""

    def __init__(self, answers: list[messages.EnrollAnswer]) -> None:
        public, secret = zmq.curve_keypair()
        self.server_key = public.decode()
        self.answers = answers
        self.requests: list[messages.EnrollRequest] = []
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_publickey = public
        self._socket.curve_secretkey = secret
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"

    async def __aenter__(self) -> Enrollment:
        self._task = asyncio.create_task(self._answer())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)

    def token(self, work: str = "tcp://127.0.0.1:1") -> JoinToken:
        return JoinToken(
            enroll_endpoint=self.endpoint, work_endpoint=work, server_key=self.server_key, token_id="t", secret="s"
        )

    async def _answer(self) -> None:
        while True:
            routing_id, part = await self._socket.recv_multipart()
            self.requests.append(codec.decode_enroll_request(part))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await self._socket.send_multipart([routing_id, bytes(codec.encode_message(answer))])


def answer(
    state: str, text: str = "", work_endpoint: str = "", after_ms: int = 1, *, is_token_spent: bool = False
) -> messages.EnrollAnswer:
    return messages.EnrollAnswer(
        state, text, "SHA256:x", "given", ["web"], work_endpoint, after_ms, is_token_spent=is_token_spent
    )


async def test_token_enrolls_an_agent(data_dir: Path) -> None:
    """The token's credential is sent, the answer is stored, and the token is not needed again."""
    async with Enrollment([answer("approved", work_endpoint="tcp://0.0.0.0:7233")]) as port:
        settings = enrollment.enrollment_settings(Config(), {"WATERFLOW_JOIN_TOKEN": port.token().encode()})
        pair = keys.load_or_create(data_dir)
        server = await enrollment.enroll(Config(name="wish", groups=["web"], data_dir=str(data_dir)), settings, pair)

    assert (port.requests[0].token, port.requests[0].name, port.requests[0].groups) == ("t.s", "wish", ["web"])
    assert (server.name, server.groups, server.work_endpoint) == ("given", ["web"], "tcp://127.0.0.1:7233")
    assert enrollment.load(data_dir) == server
    assert (data_dir / "server.json").stat().st_mode & 0o777 == 0o600


def token_at(port: Enrollment, path: Path) -> Path:
    """A file with a token for this port."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(port.token().encode() + "\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def unremovable(file: Path) -> Iterator[None]:
    """The file can be written and not removed. Root may change every folder, but removes no mount point."""
    if os.geteuid() != 0:
        file.parent.chmod(0o500)
    elif subprocess.run(["mount", "--bind", file, file], check=False, capture_output=True).returncode:
        pytest.skip("root cannot mount here")
    try:
        yield
    finally:
        if os.geteuid() != 0:
            file.parent.chmod(0o700)
        else:
            subprocess.run(["umount", file], check=True)


async def enrolled_with(port: Enrollment, data_dir: Path, file: Path | None) -> list[str]:
    """Enrolls with the token of a file, or of the environment; returns what the agent said."""
    environment = {} if file is not None else {"WATERFLOW_JOIN_TOKEN": port.token().encode()}
    settings = enrollment.enrollment_settings(Config(), environment, file)
    said: list[str] = []
    await enrollment.enroll(Config(data_dir=str(data_dir)), settings, keys.load_or_create(data_dir), said.append)
    assert not any(port.token().encode() in text for text in said)
    return said


async def test_a_used_up_token_is_removed(data_dir: Path, tmp_path: Path) -> None:
    """It is of no use to anybody, and would look like a secret that matters."""
    async with Enrollment([answer("approved", is_token_spent=True)]) as port:
        file = token_at(port, tmp_path / "token")
        said = await enrolled_with(port, data_dir, file)
    assert not file.exists()
    assert said[-1] == f"removed the join token in {file}, which is used up"


async def test_a_used_up_token_in_a_folder_of_others_is_emptied(data_dir: Path, tmp_path: Path) -> None:
    """As in the package, where only the file itself is writable for the agent."""
    async with Enrollment([answer("approved", is_token_spent=True)]) as port:
        file = token_at(port, tmp_path / "etc" / "token")
        with unremovable(file):
            said = await enrolled_with(port, data_dir, file)
            assert file.read_text() == ""
    assert said[-1] == f"emptied {file}: its join token is used up"


async def test_what_cannot_be_removed_is_said_once(data_dir: Path, tmp_path: Path) -> None:
    """A link to a secret that somebody else manages, and an environment variable."""
    async with Enrollment([answer("approved", is_token_spent=True)]) as port:
        link_to_token = tmp_path / "link"
        link_to_token.symlink_to(token_at(port, tmp_path / "token"))
        said = await enrolled_with(port, data_dir, link_to_token)
        assert said[-1].endswith("is used up, and is not removed because that is a link; remove it")
        assert link_to_token.exists()
        said = await enrolled_with(port, data_dir, None)
        assert said[-1].endswith("in the variable WATERFLOW_JOIN_TOKEN is used up; remove it from where it is set")


async def test_a_token_for_more_agents_stays(data_dir: Path, tmp_path: Path) -> None:
    """Others may use the same file; the agent says that it does not need it again."""
    async with Enrollment([answer("approved")]) as port:
        file = token_at(port, tmp_path / "token")
        said = await enrolled_with(port, data_dir, file)
        assert file.read_text().strip() == port.token().encode()
    assert "lets more agents in" in said[-1]


async def test_a_used_up_token_is_removed_at_the_next_start(data_dir: Path, tmp_path: Path) -> None:
    """The agent was killed right after its enrollment; another token in the same file is left alone."""
    async with Enrollment([answer("approved", is_token_spent=True)]) as port:
        file = token_at(port, tmp_path / "token")
        await enrolled_with(port, data_dir, file)
        token_at(port, file)
        spent = enrollment.load(data_dir)
        assert spent is not None
        for other in ("", "other"):
            token_file.discard_spent(file, other)
            assert file.exists()
        for _ in range(2):
            token_file.discard_spent(file, spent.spent_token)
            assert not file.exists()


async def test_agent_enrolls_itself_at_its_first_start(daemon: ScriptedDaemon, data_dir: Path, tmp_path: Path) -> None:
    """A token file in the configuration is enough to open a session."""
    async with Enrollment([answer("approved")]) as port:
        # The scripted daemon uses its own key, as a real daemon uses one key for both ports.
        token = JoinToken(
            enroll_endpoint=port.endpoint,
            work_endpoint=daemon.endpoint,
            server_key=port.server_key,
            token_id="t",
            secret="s",
        )
        path = tmp_path / "token"
        path.write_text(token.encode() + "\n")
        config = Config(name="a", data_dir=str(data_dir), join_token_file=str(path))
        async with running(Agent(config)):
            await eventually(lambda: enrollment.load(data_dir) is not None)
            # The runner has started, so the test can stop it.
            await eventually(lambda: runner_pids(data_dir) and (data_dir / "runner" / "runner.sock").exists())

    assert len(port.requests) == 1


async def test_an_agent_enrolls_at_the_address_that_answers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer names only the port, so all addresses of the server become addresses for work, in their order."""
    monkeypatch.setattr(enrollment, "ANSWER_S_MAX", 1.0)
    monkeypatch.setattr(enrollment, "_BACKOFF", Backoff(first_s=0.05, max_s=0.1))
    async with Enrollment([answer("approved", work_endpoint="tcp://:7233")]) as port:
        with dead_port() as first, dead_port() as second:
            endpoints = several(first.replace("127.0.0.1", "127.0.0.2"), port.endpoint, second)
            config = Config(enroll_server=endpoints, server_key=port.server_key, data_dir=str(data_dir))
            settings = enrollment.enrollment_settings(config, {})
            server = await enrollment.enroll(config, settings, keys.load_or_create(data_dir))

    assert server.work_endpoint == "tcp://127.0.0.2:7233,tcp://127.0.0.1:7233"
    assert len(port.requests) == 1


def test_a_token_has_the_addresses_of_the_server() -> None:
    """As one text each; the configuration of the agent takes precedence."""
    token = JoinToken(
        enroll_endpoint="tcp://a:1,tcp://b:1",
        work_endpoint="tcp://a:2,tcp://b:2",
        server_key="k" * 40,
        token_id="t",
        secret="s",
    ).encode()
    found = enrollment.enrollment_settings(Config(), {"WATERFLOW_JOIN_TOKEN": token})
    assert (found.endpoint, found.work_endpoint) == ("tcp://a:1,tcp://b:1", "tcp://a:2,tcp://b:2")
    own = enrollment.enrollment_settings(Config(server="tcp://c:2,tcp://d:2"), {"WATERFLOW_JOIN_TOKEN": token})
    assert (own.endpoint, own.work_endpoint) == ("tcp://c:1,tcp://d:1", "tcp://c:2,tcp://d:2")
    both = enrollment.enrollment_settings(
        Config(server="tcp://c:2", enroll_server="tcp://e:3"), {"WATERFLOW_JOIN_TOKEN": token}
    )
    assert (both.endpoint, both.work_endpoint) == ("tcp://e:3", "tcp://c:2")


async def test_agent_without_a_token_waits_for_approval(data_dir: Path) -> None:
    """Without a token the agent prints the approval command, and repeats its request until it is approved."""
    message: list[str] = []
    async with Enrollment([answer("pending"), answer("pending"), answer("approved")]) as port:
        config = Config(
            groups=["web"],
            server="tcp://127.0.0.1:9",
            enroll_server=port.endpoint,
            server_key=port.server_key,
            data_dir=str(data_dir),
        )
        pair = keys.load_or_create(data_dir)
        server = await enrollment.enroll(config, enrollment.enrollment_settings(config, {}), pair, message.append)

    assert f"waterflowctl agents approve {pair.fingerprint} --group web" in message[0]
    assert [request.token for request in port.requests] == ["", "", ""]
    assert server.work_endpoint == "tcp://127.0.0.1:9"


async def test_refused_enrollment_raises_the_reason(data_dir: Path) -> None:
    """The error contains the reason of the server."""
    async with Enrollment([answer("refused", "the token is used up")]) as port:
        settings = enrollment.enrollment_settings(Config(), {"WATERFLOW_JOIN_TOKEN": port.token().encode()})

        with pytest.raises(Rejected, match="the token is used up"):
            await enrollment.enroll(Config(data_dir=str(data_dir)), settings, keys.load_or_create(data_dir))


async def test_agent_rejects_a_server_with_another_key(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent only connects to the server whose key is in the token."""
    monkeypatch.setattr(enrollment, "ANSWER_S_MAX", 0.3)
    other, _ = zmq.curve_keypair()
    async with Enrollment([answer("approved")]) as port:
        settings = enrollment.EnrollmentSettings(
            endpoint=port.endpoint, server_key=other.decode(), credential="t.s", work_endpoint=""
        )
        request = messages.EnrollRequest(1, "t.s", "a", [], "h", "", "0")

        with pytest.raises(Retryable, match="key differs"):
            await enrollment.ask(settings, keys.load_or_create(data_dir), request)

    assert port.requests == []


async def test_command_line_enrolls_and_shows(tmp_path: Path, data_dir: Path) -> None:
    """`enroll --token-file`, `status` and `version` have their exit codes, and never show the token."""
    async with Enrollment([answer("approved")]) as port:
        token = tmp_path / "token"
        token.write_text(port.token().encode())

        none = await command("status", "--data-dir", str(data_dir))
        way = await command("run", "--data-dir", str(data_dir))
        done = await command("enroll", "--data-dir", str(data_dir), "--token-file", str(token))
        again = await command("enroll", "--data-dir", str(data_dir), "--token-file", str(token))
        displayed = await command("version")

    assert (none[0], "no agent is running" in none[1]) == (4, True)
    assert (way[0], "not enrolled" in way[1]) == (5, True)
    assert (done[0], "enrolled as given in web" in done[1]) == (0, True)
    assert (again[0], "already enrolled" in again[1]) == (0, True)
    assert displayed == (0, "waterflow-agent 0.1.0\n")
    assert "wfj1." not in done[1]
    assert len(port.requests) == 1


async def command(*arguments: str) -> tuple[int, str]:
    """Runs `waterflow-agent`; returns exit code and output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WATERFLOW")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "waterflow_agent", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    message, _ = await process.communicate()
    return process.returncode or 0, message.decode()
