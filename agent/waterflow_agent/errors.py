"""Errors whose type says what the caller should do; the agent's twin of the daemon's, with the same codes.

WF2xx link, WF3xx files of the agent, WF7xx nodes.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of all errors that the agent raises on purpose; `code` is stable, `text` is one sentence for a person."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        self.code = code
        self.text = text


class Rejected(AgentError):
    """The request, file or setting is wrong; trying it again unchanged is useless."""


class Stalled(AgentError):
    """Only a person can help."""


class Retryable(AgentError):
    """May work later; try again after `after_s` seconds."""

    def __init__(self, code: str, text: str, *, after_s: float = 1.0) -> None:
        super().__init__(code, text)
        self.after_s = after_s


class LocalProtocolError(AgentError):
    """This side used the wire session wrongly: a bug here."""


class RemoteProtocolError(AgentError):
    """The peer broke the protocol: its session ends, nothing else does."""
