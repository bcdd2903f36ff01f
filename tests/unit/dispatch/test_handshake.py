"""Whether a hello may open a session: its content is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from waterflow_agent.wire import codec, messages
from waterflowd.dispatch import handshake

TOKEN = "0123456789abcdef"


def hello(own: list[messages.OwnNode], docker: messages.DockerEngine | None = None) -> messages.Hello:
    nodes = ["shell"]
    return messages.Hello(
        TOKEN, 1, 1, "0", "i", "m", "b", 1, "h", "l", "a", {}, nodes, [], own_nodes=own, docker=docker
    )


def judged(own: list[messages.OwnNode], docker: messages.DockerEngine | None = None) -> messages.Reject | None:
    message = hello(own, docker)
    frame = codec.decode_frame(codec.encode_frame(TOKEN, 0, 1, [], [codec.encode_message(message)]), codec.Side.AGENT)
    return handshake.check(frame, message)


def test_an_agent_may_send_the_maximum_number_of_nodes() -> None:
    """The nodes have the longest texts that an agent sends."""
    name = "a" * 64 + "/" + "b" * 64
    node = messages.OwnNode(name, "server", "f" * 64, "s" * 200, [("p" * 64, True)] * 32, "f" * 300)

    assert judged([node] * 128) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda node: [node] * 257,
        lambda node: [messages.OwnNode("n" * 300, "server", "1")],
        lambda node: [messages.OwnNode("n/m", "server", "1", "", [("p", True)] * 65)],
        lambda node: [messages.OwnNode("n/m", "server", "1", "", [("p" * 300, True)])],
        lambda node: [messages.OwnNode("n/m", "server", "1", fault="f" * 600)],
    ],
)
def test_an_agent_with_too_many_nodes_gets_no_session(
    change: Callable[[messages.OwnNode], list[messages.OwnNode]],
) -> None:
    """The daemon's memory per agent is limited."""
    refused = judged(change(messages.OwnNode("n/m", "server", "1")))

    assert refused is not None
    assert refused.code == "WF214"


def test_what_an_agent_says_of_its_docker_engine_is_bounded() -> None:
    """The text is part of reasons that are stored with runs."""
    assert judged([], messages.DockerEngine("28.5.1", "p" * 256)) is None
    for engine in (messages.DockerEngine("9" * 257), messages.DockerEngine("", "p" * 257)):
        refused = judged([], engine)
        assert refused is not None
        assert refused.code == "WF214"
