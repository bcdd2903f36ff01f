"""Enrollment: how a server becomes an agent, with a join token or by the approval of a person who compares fingerprints.

Rules of this file:

- The server's key comes from the token or from the configuration, never from the network. The agent talks to no other server.
- The result is stored in `<data-dir>/server.json` (mode 0600). After that the token is not needed; a used-up one is removed.
- The agent requests groups and a name; the answer says which ones the daemon assigned.
- One request is in flight at a time. On the enrollment port a message is one frame.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import waterflow_agent
from waterflow_agent import addresses, join_token, keys, machine, token_file
from waterflow_agent.addresses import Addresses
from waterflow_agent.backoff import Backoff
from waterflow_agent.config import TOKEN_VARIABLE, Config, enroll_endpoint
from waterflow_agent.errors import Rejected, RemoteProtocolError, Retryable, Stalled
from waterflow_agent.join_token import JoinToken
from waterflow_agent.keys import KeyPair
from waterflow_agent.wire import codec, messages

if TYPE_CHECKING:
    from waterflow_agent.session.dealer import Dealer

logger = logging.getLogger(__name__)

#: An answer takes one commit; a server that is not running is noticed after this time.
ANSWER_S_MAX = 10.0
_BACKOFF = Backoff(first_s=1.0, max_s=30.0)
_FILE_NAME = "server.json"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The server of this agent."""

    server_key: str
    #: One address, or several (addresses.py).
    work_endpoint: str
    name: str
    groups: list[str]
    #: Former keys of the server that this agent has used, and still accepts for a while; see session/server_keys.py.
    old_server_keys: list[messages.OldServerKey] = []
    #: The id of the join token that this agent has used up; its file is removed.
    spent_token: str = ""


class EnrollmentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to enroll: the enrollment ports, the server's key, and a credential, or "" for approval by a person."""

    #: One address, or several (addresses.py).
    endpoint: str
    server_key: str
    credential: str
    #: The work ports, if they are known before the answer; may be "".
    work_endpoint: str
    #: The id of the join token, and the file that it comes from; "" for none.
    token_id: str = ""
    token_file: str = ""


def load(data_dir: Path) -> Server | None:
    """Returns the server that this agent is enrolled at, or None. Raises `Stalled` WF304 for a damaged file."""
    path = data_dir / _FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Server)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Stalled("WF304", f"{path} is damaged; delete it and enroll this agent again") from error


def store(data_dir: Path, server: Server) -> None:
    """Stores the server of this agent, atomically. Raises `OSError`."""
    keys.write_private(data_dir / _FILE_NAME, msgspec.json.encode(server))


def enrollment_settings(
    config: Config, environment: Mapping[str, str], chosen_file: Path | None = None
) -> EnrollmentSettings:
    """Returns how to enroll: by `chosen_file`, the configured file, the environment, or the configured key, in this order.

    Raises `Rejected`: WF230 for an invalid token, WF232 when nothing is configured.
    """
    text = ""
    path = chosen_file or (Path(config.join_token_file) if config.join_token_file else None)
    if path is not None:
        text = token_file.read(path)
    if text:
        return _from_token(join_token.decode(text), config, str(path))
    text = environment.get(TOKEN_VARIABLE, "").strip()
    if text:
        return _from_token(join_token.decode(text), config)
    endpoint = enroll_endpoint(config)
    if config.server_key and endpoint:
        return EnrollmentSettings(
            endpoint=endpoint, server_key=config.server_key, credential="", work_endpoint=config.server
        )
    raise Rejected(
        "WF232",
        "this agent is not enrolled: create a join token on the server with `waterflowctl agents tokens create --group G`, then"
        f" set join-token-file or {TOKEN_VARIABLE}, or run `waterflow-agent enroll --token-file FILE`; or set server and"
        " server-key",
    )


async def enroll(
    config: Config, settings: EnrollmentSettings, pair: KeyPair, say: Callable[[str], None] = logger.info
) -> Server:
    """Asks until the daemon has decided, and stores its answer. Raises `Rejected` WF231 when it refuses."""
    failures = 0
    request = _request(config, settings)
    ports = Addresses(settings.endpoint, random.Random())
    while True:
        try:
            answer = await ask(msgspec.structs.replace(settings, endpoint=ports.current), pair, request)
        except Retryable as error:
            failures += 1
            say(f"{ports.current}: {error.text}; retrying")
            ports.take_next()
            await asyncio.sleep(_BACKOFF.delay_s(failures + 1, jitter=random.random()))
            continue
        failures = 0
        if answer.state == "approved":
            server = Server(
                server_key=answer.server_key or settings.server_key,
                work_endpoint=_work_endpoint(config, settings, answer.work_endpoint),
                name=answer.name,
                groups=answer.groups,
                # A token of before a rotation has an old key.
                old_server_keys=[old for old in answer.old_server_keys if old.key == settings.server_key],
                spent_token=settings.token_id if answer.is_token_spent else "",
            )
            await asyncio.to_thread(store, Path(config.data_dir), server)
            say(f"enrolled as {server.name} in {', '.join(server.groups) or 'no group'}")
            if text := await asyncio.to_thread(_after_use, settings, is_spent=answer.is_token_spent):
                say(text)
            return server
        if answer.state != "pending":
            raise Rejected("WF231", f"the server refused the enrollment: {answer.text}")
        group = config.groups[0] if config.groups else "GROUP"
        say(f"waiting for approval: waterflowctl agents approve {pair.fingerprint} --group {group}")
        await asyncio.sleep(max(answer.after_ms, 500) / 1_000)


async def ask(settings: EnrollmentSettings, pair: KeyPair, request: messages.EnrollRequest) -> messages.EnrollAnswer:
    """Sends one request, to settings with one address. Raises `Retryable` WF233 if there is no valid answer."""
    import zmq

    from waterflow_agent.session import reachability
    from waterflow_agent.session.dealer import SocketFactory

    if problem := await reachability.resolution_problem(settings.endpoint):
        raise Retryable("WF233", problem)
    sockets = SocketFactory(pair)
    dealer = sockets.open(settings.server_key)
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def take(frame: memoryview) -> None:
        if not answered.done():
            answered.set_result(bytes(frame))

    reader = asyncio.create_task(dealer.read(take), name="enrollment-reader")
    failure = asyncio.create_task(_failure(dealer, settings.endpoint), name="enrollment-monitor")
    try:
        dealer.connect(settings.endpoint)
        dealer.send(bytes(codec.encode_message(request)))
        ends: set[asyncio.Future[Any]] = {answered, reader, failure}
        await asyncio.wait(ends, timeout=ANSWER_S_MAX, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return codec.decode_enroll_answer(answered.result())
        if failure.done():
            raise Retryable("WF233", failure.result())
        if reader.done():
            reader.result()
        raise Retryable(
            "WF233", f"the server did not answer within {ANSWER_S_MAX:.0f} s; check the address and the port"
        )
    except (RemoteProtocolError, zmq.ZMQError) as error:
        raise Retryable("WF233", f"cannot reach the server: {error}") from error
    finally:
        for task in (reader, failure):
            task.cancel()
        await asyncio.gather(reader, failure, return_exceptions=True)
        dealer.close(0)
        sockets.close()


async def _failure(dealer: Dealer, endpoint: str) -> str:
    """Waits for the end of the connection, and says why it came."""
    import zmq

    from waterflow_agent.session import reachability

    is_proven = False
    while True:
        match await dealer.next_event():
            case zmq.Event.CONNECTED:
                pass
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                is_proven = True
            case zmq.Event.CLOSED:
                return await reachability.connection_problem(endpoint)
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                return reachability.KEY_DIFFERS
            case _:
                return "connection lost" if is_proven else reachability.NO_SERVER


def _enroll_ports(token: JoinToken, server: str) -> str:
    """The enrollment ports: at the hosts of the configured work ports, which override the hosts in the token."""
    port = addresses.port_of(addresses.split(token.enroll_endpoint)[0])
    hosts = [addresses.host_of(endpoint) for endpoint in addresses.split(server)]
    return addresses.join([f"tcp://{host}:{port}" for host in hosts]) or token.enroll_endpoint


def _after_use(settings: EnrollmentSettings, *, is_spent: bool) -> str:
    """What happened to the join token after the enrollment, or what a person should do with it; "" for nothing."""
    if not settings.token_id:
        return ""
    place = settings.token_file or f"the variable {TOKEN_VARIABLE}"
    if not is_spent:
        return f"the join token in {place} is no longer needed here, but lets more agents in; remove it after use"
    if settings.token_file:
        return token_file.discard(Path(settings.token_file))
    return f"the join token in {place} is used up; remove it from where it is set"


def _from_token(token: JoinToken, config: Config, file: str = "") -> EnrollmentSettings:
    return EnrollmentSettings(
        endpoint=config.enroll_server or _enroll_ports(token, config.server),
        server_key=token.server_key,
        credential=token.credential,
        work_endpoint=config.server or token.work_endpoint,
        token_id=token.token_id,
        token_file=file,
    )


def _request(config: Config, settings: EnrollmentSettings) -> messages.EnrollRequest:
    described = machine.describe()
    return messages.EnrollRequest(
        protocol=messages.PROTOCOL_VERSION,
        token=settings.credential,
        name=config.name,
        groups=config.groups,
        hostname=described.hostname,
        machine_id=described.machine_id,
        agent_version=waterflow_agent.__version__,
    )


def _work_endpoint(config: Config, settings: EnrollmentSettings, answered: str) -> str:
    """Returns the configured endpoints, or the answered one, which may omit the host, or those of the token."""
    if config.server or not answered:
        return config.server or settings.work_endpoint
    host, _, port = answered.removeprefix("tcp://").rpartition(":")
    if host not in ("", "*", "0.0.0.0", "[::]"):
        return f"tcp://{host}:{port}"
    # Each address of the enrollment port is one of the same server.
    return addresses.join([f"tcp://{addresses.host_of(each)}:{port}" for each in addresses.split(settings.endpoint)])
