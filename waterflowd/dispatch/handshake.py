"""Whether a `Hello` may open a session: pure rules, no state.

Version, shape and size are judged here. Identity is not: who the peer is, its connection has proven; `Hello` has no field for
it. Whether another process uses the same key is judged by the sessions, which know who is there.
"""

from __future__ import annotations

from waterflow_agent.wire import codec, messages

#: A peer that was refused for its version may have been upgraded after this time.
VERSION_RETRY_MS = 60_000
#: Half of what a session carries without an acknowledgement: an offer and a cancel for each slot.
SLOTS_MAX = 2_048
#: Random per session: shorter ones might come twice.
TOKEN_LENGTH_MIN = 8
#: Names, versions and labels are for people and for placement; none is longer than a path.
_TEXT_LENGTH_MAX = 256
_LABELS_MAX = 256
_NODES_MAX = 1_024
_OWN_NODES_MAX = 256
_PARAMETERS_MAX = 64


def refusal(frame: codec.Frame, hello: messages.Hello) -> messages.Reject | None:
    """Why this `Hello` opens no session, or None if nothing speaks against it."""
    if not speaks(hello):
        return reject(
            hello,
            "WF210",
            f"the agent ({_short(hello.agent_version)}) speaks protocol {hello.protocol_min} to {hello.protocol}, the daemon "
            f"{messages.PROTOCOL_VERSION_MIN} to {messages.PROTOCOL_VERSION}: upgrade the "
            + ("agent" if hello.protocol < messages.PROTOCOL_VERSION_MIN else "daemon"),
            after_ms=VERSION_RETRY_MS,
        )
    fault = _fault(frame, hello)
    return reject(hello, "WF214", fault) if fault else None


def speaks(hello: messages.Hello) -> bool:
    """Whether there is a version that both sides speak."""
    return hello.protocol_min <= messages.PROTOCOL_VERSION and hello.protocol >= messages.PROTOCOL_VERSION_MIN


def reject(hello: messages.Hello, code: str, text: str, *, after_ms: int = 0) -> messages.Reject:
    """The answer that refuses `hello`."""
    return messages.Reject(session=hello.session, code=code, text=text, after_ms=after_ms)


def _fault(frame: codec.Frame, hello: messages.Hello) -> str:
    if len(frame.loose) != 1 or frame.numbered:
        return "a hello comes alone: nothing else may be said before the welcome"
    if frame.session != hello.session or len(hello.session) < TOKEN_LENGTH_MIN:
        return f"a hello names its frame's session by a fresh token of {TOKEN_LENGTH_MIN} characters or more"
    if not 0 <= hello.slots <= SLOTS_MAX:
        return f"an agent has 0 to {SLOTS_MAX} slots, not {hello.slots}: change `slots` in its configuration"
    texts = (hello.agent_version, hello.instance, hello.machine_id, hello.boot_id, hello.hostname, hello.os, hello.arch)
    if not (hello.instance and hello.boot_id) or any(len(text) > _TEXT_LENGTH_MAX for text in texts):
        return f"instance and boot id are needed, and no text is longer than {_TEXT_LENGTH_MAX} characters"
    if len(hello.labels) > _LABELS_MAX or any(len(k) + len(v) > _TEXT_LENGTH_MAX for k, v in hello.labels.items()):
        return (
            f"at most {_LABELS_MAX} labels of {_TEXT_LENGTH_MAX} characters: remove some from the agent's configuration"
        )
    if len(hello.nodes) > _NODES_MAX or any(len(node) > _TEXT_LENGTH_MAX for node in hello.nodes):
        return f"at most {_NODES_MAX} nodes with names of {_TEXT_LENGTH_MAX} characters"
    if len(hello.own_nodes) > _OWN_NODES_MAX or not all(map(_is_short, hello.own_nodes)):
        return f"at most {_OWN_NODES_MAX} nodes of its own, each with {_PARAMETERS_MAX} parameters and short texts"
    return ""


def _is_short(node: messages.OwnNode) -> bool:
    texts = (node.name, node.origin, node.version, node.summary, *(name for name, _ in node.parameters))
    is_few = len(node.parameters) <= _PARAMETERS_MAX and len(node.fault) <= 2 * _TEXT_LENGTH_MAX
    return is_few and all(len(text) <= _TEXT_LENGTH_MAX for text in texts)


def _short(text: str) -> str:
    return text[:32]
