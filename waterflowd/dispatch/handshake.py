"""Decides whether a `Hello` may open a session: pure rules, no state.

Version, shape and size are checked here. Identity is not: the connection has proven who the peer is, and `Hello` has no field
for it. The sessions check whether another process uses the same key.
"""

from __future__ import annotations

from waterflow_agent.wire import codec, messages

#: When a peer with an unsupported version may try again: it may have been upgraded by then.
VERSION_RETRY_MS = 60_000
#: Half of the messages that a session carries unacknowledged: an offer and a cancel per slot.
SLOTS_MAX = 2_048
#: Tokens are random per session; shorter ones might repeat.
TOKEN_LENGTH_MIN = 8
#: Limits for names, versions and labels.
_TEXT_LENGTH_MAX = 256
_LABELS_MAX = 256
_NODES_MAX = 1_024
_OWN_NODES_MAX = 256
_PARAMETERS_MAX = 64


def check(frame: codec.Frame, hello: messages.Hello) -> messages.Reject | None:
    """Why this `Hello` opens no session; None if it may."""
    if hello.protocol_min > messages.PROTOCOL_VERSION or hello.protocol < messages.PROTOCOL_VERSION_MIN:
        outdated = "agent" if hello.protocol < messages.PROTOCOL_VERSION_MIN else "daemon"
        text = (
            f"the agent ({hello.agent_version[:32]}) supports protocol {hello.protocol_min} to {hello.protocol}, the daemon "
            f"{messages.PROTOCOL_VERSION_MIN} to {messages.PROTOCOL_VERSION}: upgrade the {outdated}"
        )
        return reject(hello, "WF210", text, after_ms=VERSION_RETRY_MS)
    problem = _problem(frame, hello)
    return reject(hello, "WF214", problem) if problem else None


def reject(hello: messages.Hello, code: str, text: str, *, after_ms: int = 0) -> messages.Reject:
    """The answer that rejects `hello`."""
    return messages.Reject(session=hello.session, code=code, text=text, after_ms=after_ms)


def _problem(frame: codec.Frame, hello: messages.Hello) -> str:
    if len(frame.loose) != 1 or frame.numbered:
        return "a hello must be the only message of its frame"
    if frame.session != hello.session or len(hello.session) < TOKEN_LENGTH_MIN:
        return f"a hello must carry its frame's session token, of at least {TOKEN_LENGTH_MIN} characters"
    if not 0 <= hello.slots <= SLOTS_MAX:
        return f"an agent has 0 to {SLOTS_MAX} slots, not {hello.slots}: change `slots` in its configuration"
    texts = (
        hello.agent_version,
        hello.instance,
        hello.machine_id,
        hello.boot_id,
        hello.hostname,
        hello.os,
        hello.arch,
        hello.problem,
        hello.installation,
    )
    if not (hello.instance and hello.boot_id) or any(len(text) > _TEXT_LENGTH_MAX for text in texts):
        return f"instance and boot id are required, and no text may exceed {_TEXT_LENGTH_MAX} characters"
    if len(hello.labels) > _LABELS_MAX or any(len(k) + len(v) > _TEXT_LENGTH_MAX for k, v in hello.labels.items()):
        return (
            f"at most {_LABELS_MAX} labels of {_TEXT_LENGTH_MAX} characters: remove some from the agent's configuration"
        )
    if len(hello.nodes) > _NODES_MAX or any(len(node) > _TEXT_LENGTH_MAX for node in hello.nodes):
        return f"at most {_NODES_MAX} nodes, with names of at most {_TEXT_LENGTH_MAX} characters"
    if len(hello.own_nodes) > _OWN_NODES_MAX or not all(map(_is_short, hello.own_nodes)):
        return f"at most {_OWN_NODES_MAX} own nodes, with at most {_PARAMETERS_MAX} parameters and short texts each"
    if hello.docker is not None and max(len(hello.docker.version), len(hello.docker.problem)) > _TEXT_LENGTH_MAX:
        return f"version and problem of the Docker engine may have {_TEXT_LENGTH_MAX} characters"
    return ""


def _is_short(node: messages.OwnNode) -> bool:
    texts = (node.name, node.origin, node.version, node.summary, *(name for name, _ in node.parameters))
    is_few = len(node.parameters) <= _PARAMETERS_MAX and len(node.fault) <= 2 * _TEXT_LENGTH_MAX
    return is_few and all(len(text) <= _TEXT_LENGTH_MAX for text in texts)
