"""The errors of agent and daemon. Their type says what the caller should do.

`Rejected`: the request is wrong; report that to its sender. `Stalled`: only a person can help; stop retrying.
`Retryable`: try again later. Any other exception is a bug and crashes its task.
Codes are stable: WF1xx language, WF2xx link, WF3xx files and store, WF4xx replay, WF5xx repositories, WF6xx API and access,
WF7xx nodes, WF8xx Temporal.
"""

from __future__ import annotations


class WaterflowError(Exception):
    """Root of all errors that Waterflow raises on purpose; `code` is stable, `text` is one sentence for a person."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        self.code = code
        self.text = text


class Rejected(WaterflowError):
    """The request, file or setting is wrong; retrying it unchanged is useless. `where` names the field or the file.

    With status 429 it exceeds a limit, and may succeed later: in `after_s` seconds, if that is known.
    """

    def __init__(
        self, code: str, text: str, *, where: str | None = None, status: int = 400, after_s: float = 0.0
    ) -> None:
        super().__init__(code, text)
        self.where = where
        #: The HTTP status that the API answers with.
        self.status = status
        self.after_s = after_s

    @property
    def is_limit(self) -> bool:
        """Whether a limit is exceeded, so that the same may succeed later."""
        return self.status == 429


class Stalled(WaterflowError):
    """Only a person can help: stop retrying and show the text."""


class Retryable(WaterflowError):
    """May work later; try again after `after_s` seconds."""

    def __init__(self, code: str, text: str, *, after_s: float = 1.0) -> None:
        super().__init__(code, text)
        self.after_s = after_s


class LocalProtocolError(WaterflowError):
    """This side used the wire session wrongly: a bug here."""


class RemoteProtocolError(WaterflowError):
    """The peer broke the protocol: its session ends, nothing else does."""
