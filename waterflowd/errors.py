"""Errors whose type says what the caller should do.

`Rejected`: the request is wrong, say so to whoever made it. `Stalled`: needs a person, stop trying.
`Retryable`: try again after a while. Everything else that is raised is a bug and crashes its task.
Codes are stable: WF1xx language, WF2xx link, WF3xx store, WF4xx replay, WF5xx repositories,
WF6xx API and access, WF7xx nodes.
"""

from __future__ import annotations


class WaterflowError(Exception):
    """Root of all errors that Waterflow raises on purpose; `code` is stable, `text` is one sentence for a person."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        self.code = code
        self.text = text


class Rejected(WaterflowError):
    """The request is wrong and trying it again unchanged is useless. `where` names the place, such as a field or a file."""

    def __init__(self, code: str, text: str, *, where: str | None = None, status: int = 400) -> None:
        super().__init__(code, text)
        self.where = where
        #: The HTTP status that tells a client the same thing.
        self.status = status


class Stalled(WaterflowError):
    """Only a person can help; whoever holds the work must stop trying and show the text."""


class Retryable(WaterflowError):
    """May work later; try again after `after_s` seconds."""

    def __init__(self, code: str, text: str, *, after_s: float = 1.0) -> None:
        super().__init__(code, text)
        self.after_s = after_s
