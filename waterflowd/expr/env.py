"""The environment of an evaluation: contexts, status and time. Nothing else can influence a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The results of the status functions."""

    success: bool = True
    failure: bool = False
    cancelled: bool = False
    always: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """Everything that an evaluation depends on besides the expression.

    `contexts` maps lower-case names to values (its mappings may be lazy). `status` is None where the status functions
    are not available. `now_at` is in milliseconds and None where `now()` is not available; the host records it, so that
    a replay gets the same value. `hash_files` receives the patterns and returns the digest; it may raise ExpressionError.
    """

    contexts: Mapping[str, object] = field(default_factory=dict)
    status: Status | None = None
    now_at: int | None = None
    hash_files: Callable[[tuple[str, ...]], str] | None = None
