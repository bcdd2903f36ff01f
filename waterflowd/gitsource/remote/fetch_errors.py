"""Why a fetch came to nothing: raised inside a fetch child, where it becomes the answer."""

from __future__ import annotations

from waterflowd.gitsource.remote.fetch_protocol import Refused
from waterflowd.reconcile import codes


class FetchRefused(Exception):
    """A fetch that ends with an answer for a person."""

    def __init__(self, code: str, text: str, *, is_retryable: bool = False) -> None:
        super().__init__(text)
        self.answer = Refused(code=code, text=text, is_retryable=is_retryable)


def unreachable(text: str) -> FetchRefused:
    """The remote cannot be talked to now; it may come back."""
    return FetchRefused(codes.NOT_THERE, text, is_retryable=True)


def no_access(text: str) -> FetchRefused:
    """The remote does not let the daemon in, or the daemon cannot trust it."""
    return FetchRefused(codes.ACCESS, text)


def no_repository(text: str) -> FetchRefused:
    """What answers is no repository that can be read."""
    return FetchRefused(codes.NOT_A_REPOSITORY, text)


def past_limit(text: str) -> FetchRefused:
    """More came than the limits allow."""
    return FetchRefused(codes.FETCH_LIMIT, text)
