"""Errors of a fetch: raised inside a fetch child, which sends them as its response."""

from __future__ import annotations

from waterflowd.gitsource.remote.fetch_protocol import FetchFailed, FetchRequest
from waterflowd.reconcile import codes


class FetchError(Exception):
    """A fetch failed, with a message for a person."""

    def __init__(self, code: str, text: str, *, is_retryable: bool = False) -> None:
        super().__init__(text)
        self.failure = FetchFailed(code=code, text=text, is_retryable=is_retryable)


def unreachable(text: str) -> FetchError:
    """The remote cannot be reached now; this may be temporary."""
    return FetchError(codes.NOT_THERE, text, is_retryable=True)


def no_access(text: str) -> FetchError:
    """The remote refuses access, or cannot be trusted."""
    return FetchError(codes.ACCESS, text)


def no_repository(text: str) -> FetchError:
    """There is no readable repository at the URL."""
    return FetchError(codes.NOT_A_REPOSITORY, text)


def past_limit(text: str) -> FetchError:
    """The fetch exceeds its limits."""
    return FetchError(codes.FETCH_LIMIT, text)


def timed_out(request: FetchRequest) -> FetchFailed:
    """The fetch exceeds its time limit."""
    text = f"fetching from {request.url.authority} timed out after {request.limits.time_s:g} s"
    return FetchFailed(code=codes.TOO_SLOW, text=f"{text}; raise fetch-timeout if the server is slow")
