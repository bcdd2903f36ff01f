"""The content of an agent's report is limited before it enters the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.engine.test_cost import AT, Feeder, plan, work
from waterflowd.engine import events, inputs, step
from waterflowd.engine.rules import result_limits
from waterflowd.model.ids import AgentId, AttemptNo, JobId, StepId
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.statuses import Outcome


def finished(**changes: Any) -> inputs.TaskFinished:
    fields: dict[str, Any] = {
        "job": JobId("a"),
        "step": StepId("1"),
        "attempt": AttemptNo(1),
        "epoch": 1,
        "agent": AgentId("agent"),
        "outcome": Outcome.SUCCESS,
        "exit_code": 0,
        "started_at": 1,
        "finished_at": 2,
    }
    return inputs.TaskFinished(**{**fields, **changes})


def nested(height: int) -> Any:
    value: Any = "x"
    for number in range(height):
        value = [value] if number % 2 else {"a": value}
    return value


def test_a_valid_result_is_kept_unchanged() -> None:
    """Outputs of every JSON type are kept unchanged."""
    outputs = {"a": None, "b": True, "c": 1, "d": 1.5, "e": "text", "f": [1, {"g": []}]}
    honest = finished(outputs=outputs, env={"A": "b"}, output_bytes=7, output_dropped=1)
    assert result_limits.enforce(honest) == honest


@pytest.mark.parametrize(
    "outputs",
    [
        {"a": 1 << 64},
        {"a": -(1 << 63) - 1},
        {"a": b"bytes"},
        {"a": {1: "a key that is no text"}},
        {"a": msgspec.msgpack.Ext(1, b"x")},
        {"a": nested(200)},
        {"a": "x" * (result_limits.RESULT_BYTES_MAX + 1)},
        {"a": "\ud800"},
    ],
    ids=["large", "negative", "bytes", "key", "extension", "deep", "huge", "surrogate"],
)
def test_unusable_outputs_turn_a_success_into_a_failure(outputs: dict[str, Any]) -> None:
    """The step's result gives the reason, and none of its outputs is kept."""
    result = result_limits.enforce(finished(outputs=outputs, env={"A": "b"}))
    assert result.outcome is Outcome.FAILURE
    assert result.reason_code == "node-error"
    assert "outputs" in result.reason_text
    assert result.outputs == {}
    assert result.env == {}


def test_a_failure_with_unusable_outputs_keeps_its_reason() -> None:
    """The agent's reason is more useful and is kept."""
    result = result_limits.enforce(finished(outcome=Outcome.TIMED_OUT, outputs={"a": b"x"}, reason_text="too slow"))
    assert (result.outcome, result.reason_text, result.outputs) == (Outcome.TIMED_OUT, "too slow", {})


@pytest.mark.parametrize("number", [-(1 << 63), -1, 1 << 63, (1 << 64) - 1])
def test_numbers_are_clamped_to_displayable_values(number: int) -> None:
    """Times become valid dates, sizes are not negative, and exit codes have 32 bits."""
    result = result_limits.enforce(
        finished(exit_code=number, started_at=number, finished_at=number, output_bytes=number, output_dropped=number)
    )
    assert result.exit_code is not None
    assert result_limits.EXIT_CODE_MIN <= result.exit_code <= result_limits.EXIT_CODE_MAX
    assert 0 <= result.started_at <= result_limits.AT_MAX
    assert 0 <= result.finished_at <= result_limits.AT_MAX
    assert 0 <= result.output_bytes <= result_limits.BYTES_MAX
    assert 0 <= result.output_dropped <= result_limits.BYTES_MAX


def test_a_value_of_the_maximum_depth_is_accepted() -> None:
    """The limit on nesting is the one of expressions."""
    honest = finished(outputs={"a": nested(100)})
    assert result_limits.enforce(honest) == honest


def test_a_report_of_another_holder_ends_nothing() -> None:
    """It is recorded as evidence, and the attempt waits for the report of the agent that holds it."""
    for changes in ({"agent": AgentId("SHA256:other")}, {"epoch": 2}):
        feeder = Feeder(plan(work()))
        task = feeder.open.popleft()
        holder: dict[str, Any] = {
            "job": task.job,
            "step": task.step,
            "attempt": task.attempt,
            "epoch": task.epoch,
            "agent": task.agent,
        }
        lost = inputs.TaskLost(**{**holder, **changes}, reason=reason(ReasonCode.OUTCOME_UNKNOWN, "lost"))
        assert not step(feeder.run, lost, AT).events
        recorded = step(feeder.run, finished(**{**holder, **changes}), AT).events
        assert [type(event) for event in recorded] == [events.LateReport]
        assert not feeder.run.is_completed
        step(feeder.run, finished(**holder), AT)
        assert feeder.run.is_completed


def test_summaries_of_a_run_are_bounded() -> None:
    """Of one attempt and of all of them; what is not kept is replaced by a short note."""
    assert result_limits.kept_summary(0, "") == ""
    assert result_limits.kept_summary(0, "# fine\n") == "# fine\n"
    assert len(result_limits.kept_summary(0, "x" * 1_000_000)) == result_limits.SUMMARY_LENGTH_MAX
    full = result_limits.SUMMARIES_LENGTH_MAX
    assert result_limits.kept_summary(full - 5, "five5") == "five5"
    assert result_limits.kept_summary(full - 4, "five5").startswith("*(not kept")
    assert result_limits.kept_summary(full, "") == ""


def test_annotations_are_bounded() -> None:
    """In number and length, and together with the summaries of a run."""
    many = ["##[error]" + "x" * 1_000] * 100
    kept = result_limits.kept_annotations(0, many)
    assert (len(kept), {len(line) for line in kept}) == (30, {300})
    assert result_limits.kept_annotations(0, ["##[notice]fine"]) == ["##[notice]fine"]
    assert result_limits.kept_annotations(result_limits.SUMMARIES_LENGTH_MAX + 1, many) == []
