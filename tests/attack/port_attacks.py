"""Attacks on the ports for agents, each in its own process (attack_process.py).

An attack prints a line when everything is sent, and then holds what it has opened until it is killed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import zmq

from tests.attack import attack_process
from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What to attack, and how much of it."""

    work: str = ""
    enroll: str = ""
    server_key: str = ""
    #: The key pair of an approved agent.
    public: str = ""
    secret: str = ""
    #: Connections, or frames.
    count: int = 800
    #: What is sent on each connection, or in each frame.
    repeat: int = 200
    #: The attempt that a dishonest agent names; it does not have it.
    run: str = "01J00000000000000000000000"


def _dealer(context: zmq.Context[zmq.Socket[bytes]], aim: Aim, endpoint: str) -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    made.linger = 0
    if aim.public:
        made.curve_publickey, made.curve_secretkey = aim.public.encode(), aim.secret.encode()
    else:
        made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()
    made.curve_serverkey = aim.server_key.encode()
    # It never reads: a few answers fill its queue, then TCP holds the rest back.
    made.setsockopt(zmq.RCVHWM, 1)
    made.setsockopt(zmq.RCVBUF, 4_096)
    made.setsockopt(zmq.SNDHWM, 0)
    made.connect(endpoint)
    return made


def unread_requests(aim: Aim) -> None:
    """Many connections with unapproved keys that send requests to enroll and never read an answer."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
    context.set(zmq.MAX_SOCKETS, 8_192)
    request = bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "", "n" * 64, [], "h", "m", "v"))))
    sockets = [_dealer(context, aim, aim.enroll) for _ in range(aim.count)]
    for sock in sockets:
        for _ in range(aim.repeat):
            sock.send(request)
    _hold()


def handshakes_only(aim: Aim) -> None:
    """Many connections that prove a key on the enrollment port and send no request."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
    context.set(zmq.MAX_SOCKETS, 8_192)
    for _ in range(aim.count):
        _dealer(context, aim, aim.enroll)
    _hold()


def silence(aim: Aim) -> None:
    """Many TCP connections that send nothing, or the beginning of a greeting."""
    host, _, port = (aim.enroll or aim.work).removeprefix("tcp://").rpartition(":")
    connections = []
    for number in range(aim.count):
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connections.append(connection)
            connection.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f"[: number % 11])
    _hold()


def unread_reports(aim: Aim) -> None:
    """One approved agent that sends frames as fast as it can and never reads."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = _dealer(context, aim, aim.work)
    token = "a-token-of-an-attacker"
    sock.send(codec.encode_frame(token, 0, 1, [], [codec.encode_message(_hello(token))]))
    report = codec.encode_message(messages.Started(_foreign(aim, 1), 1))
    for number in range(aim.count * aim.repeat):
        # A new number each time would need an acknowledgement; a repeated one is answered as well.
        sock.send(codec.encode_frame(token, 0, 1, [report] * (number % 3), []))
    _hold()


def empty_outputs(aim: Aim) -> None:
    """An approved agent that sends frames of many empty outputs, each for an attempt of another agent."""
    _send_again_and_again(aim, [messages.Output(_foreign(aim, 1), 0, [])] * aim.repeat)


def foreign_artifacts(aim: Aim) -> None:
    """An approved agent that stores blocks and artifacts, and reads them, in the name of an attempt of another agent."""
    data = bytes(16 << 10)
    digest = hashlib.sha256(data).digest()
    actions: list[messages.ArtifactAction] = [
        messages.StoreBlock(digest, data),
        messages.FindBlocks([digest]),
        messages.CommitArtifact("stolen", True, 0, 0, [digest], [digest]),
        messages.ListArtifacts(),
        messages.ReadBlock("shop", digest, messages.ArtifactPart.CONTENT, 0),
    ]
    _send_again_and_again(
        aim, [messages.ArtifactRequest(_foreign(aim, 1), number, actions[number % 5]) for number in range(aim.repeat)]
    )


def _send_again_and_again(aim: Aim, loose: Sequence[messages.AgentMessage]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for attempt in itertools.count():
        sock = _dealer(context, aim, aim.work)
        token = f"a-token-of-an-attacker-{attempt}"
        sock.send(codec.encode_frame(token, 0, 1, [], [codec.encode_message(_hello(token))]))
        frame = codec.encode_frame(token, 0, 1, [], [codec.encode_message(message) for message in loose])
        for _ in range(aim.count):
            sock.send(frame)
        if not attempt:
            print("sent", flush=True)
        # Whatever the daemon does about it, this agent comes back.
        time.sleep(1)
        if sock.poll(0):
            sock.close(linger=0)


def false_results(aim: Aim) -> None:
    """An approved agent that reports results of an attempt that another agent has."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = _dealer(context, aim, aim.work)
    token = "a-token-of-a-liar"
    sock.send(codec.encode_frame(token, 0, 1, [], [codec.encode_message(_hello(token))]))
    numbers = itertools.count(1)
    for _ in range(aim.count):
        reports = [codec.encode_message(_finished(_foreign(aim, 1))) for _ in range(aim.repeat)]
        first = next(numbers)
        sock.send(codec.encode_frame(token, 0, first, reports, []))
        numbers = itertools.count(first + len(reports))
    _hold()


def _hello(token: str) -> messages.Hello:
    return messages.Hello(token, 1, 1, "0", token, "m", "b", 1, "h", "linux", "arm", {}, [], [])


def _foreign(aim: Aim, number: int) -> messages.TaskId:
    return task_id(aim.run, "a", "s", number, 1)


def _finished(key: messages.TaskId) -> messages.Finished:
    return messages.Finished(key, Outcome.FAILURE, 1, "", "", {}, {}, 1, 2, 0, 0)


def _hold() -> None:
    print("sent", flush=True)
    signal.pause()


ATTACKS: dict[str, Callable[[Aim], None]] = {
    attack.__name__: attack
    for attack in (
        *(unread_requests, handshakes_only, silence, unread_reports, empty_outputs, false_results),
        foreign_artifacts,
    )
}


#: Runs one of these attacks, see `attack_process.attack`.
attack = functools.partial(attack_process.attack, "tests.attack.port_attacks")


def main(name: str, aim: str) -> None:
    """Runs the attack `name`."""
    attack_process.prepare()
    ATTACKS[name](msgspec.json.decode(aim, type=Aim))


if __name__ == "__main__":
    main(*sys.argv[1:])
