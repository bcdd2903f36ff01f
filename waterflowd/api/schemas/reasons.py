"""Reasons: why a run, job, step or attempt is in its state."""

from __future__ import annotations

from typing import TypedDict, cast

from waterflowd.model.reasons import Reason, ReasonCode


class ReasonSchema(TypedDict):
    """Why something is in its state. The values that the text mentions are further fields."""

    code: ReasonCode
    text: str


def reason_schema(reason: Reason) -> ReasonSchema:
    """The code and the sentence, with the facts beside them."""
    # A TypedDict cannot declare the facts: their names depend on the code.
    return cast(ReasonSchema, {**reason.facts, "code": reason.code, "text": reason.text})
