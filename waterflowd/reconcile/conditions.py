"""Conditions of a repository: its current status, each with a code, a sentence and the time of the last change.

Rules of this file: conditions are derived, never logged. `Ready` follows from the others. `since_at` changes only with a
condition's status or code, so that it shows how long a problem has existed; the sentence may change in between.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from waterflow_agent.display import escape_for_display

_TEXT_LENGTH_MAX = 500


class ConditionType(Enum):
    """The conditions of a repository."""

    #: The last push is applied: `Fetched`, `Applied` and `FilesValid` are true.
    READY = "Ready"
    #: The last read of the refs succeeded.
    FETCHED = "Fetched"
    #: Everything that was read is applied, and its runs are started.
    APPLIED = "Applied"
    #: A push is noticed at once; otherwise within the polling interval, which is not an error.
    WATCHING = "Watching"
    #: No workflow file has errors.
    FILES_VALID = "FilesValid"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition. `is_true` is None while it is unknown."""

    type: ConditionType
    is_true: bool | None
    #: `WF5xx`, or a word such as `watching`; stable.
    code: str
    text: str
    since_at: int


class Conditions:
    """The conditions of one repository."""

    def __init__(self, now: int) -> None:
        self._held = {
            type_: Condition(type=type_, is_true=None, code="unknown", text="not read yet", since_at=now)
            for type_ in ConditionType
        }

    def set(self, type_: ConditionType, is_true: bool | None, code: str, text: str, now: int) -> None:
        """Sets one condition and derives `Ready`."""
        self._replace(type_, is_true, code, text, now)
        self._derive(now)

    def get(self, type_: ConditionType) -> Condition:
        """One condition."""
        return self._held[type_]

    def all(self) -> tuple[Condition, ...]:
        """All of them, `Ready` first."""
        return tuple(self._held.values())

    def _replace(self, type_: ConditionType, is_true: bool | None, code: str, text: str, now: int) -> None:
        before = self._held[type_]
        is_same = (before.is_true, before.code) == (is_true, code)
        since_at = before.since_at if is_same else now
        text = escape_for_display(text, _TEXT_LENGTH_MAX)
        self._held[type_] = Condition(type=type_, is_true=is_true, code=code, text=text, since_at=since_at)

    def _derive(self, now: int) -> None:
        # In order of importance. Polling instead of watching is not a problem of the repository.
        required = (ConditionType.FETCHED, ConditionType.APPLIED, ConditionType.FILES_VALID)
        for type_ in required:
            condition = self._held[type_]
            if condition.is_true is not True:
                self._replace(ConditionType.READY, condition.is_true, condition.code, condition.text, now)
                return
        self._replace(ConditionType.READY, True, "ready", self._held[ConditionType.APPLIED].text, now)
