"""Why a fetch came to nothing: raised inside a fetch child, where it becomes the answer."""

from __future__ import annotations

from waterflowd.gitsource.remote.fetch_protocol import FetchFailed
from waterflowd.reconcile import codes


class FetchError(Exception):
    """A fetch that ends with an answer for a person."""

    def __init__(self, code: str, text: str, *, is_retryable: bool = False) -> None:
        super().__init__(text)
        self.answer = FetchFailed(code=code, text=text, is_retryable=is_retryable)


def unreachable(text: str) -> FetchError:
    """The remote cannot be talked to now; it may come back."""
    return FetchError(codes.NOT_THERE, text, is_retryable=True)


def no_access(text: str) -> FetchError:
    """The remote does not let the daemon in, or the daemon cannot trust it."""
    return FetchError(codes.ACCESS, text)


def no_repository(text: str) -> FetchError:
    """What answers is no repository that can be read."""
    return FetchError(codes.NOT_A_REPOSITORY, text)


def past_limit(text: str) -> FetchError:
    """More came than the limits allow."""
    return FetchError(codes.FETCH_LIMIT, text)
