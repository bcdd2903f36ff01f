"""The result of a step from the exit status of its process."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes.outcome import STDERR, NodeResult, failure, one_line
from waterflow_agent.runner.reports import LeftProcess, StepResult

#: Reasons of steps that ran, so that there are results to collect.
RAN = frozenset({"exited", "timed-out", "cancelled", "limit"})


def interpret(result: StepResult, *, timeout_ms: int | None = None, cancel_reason: str = "") -> NodeResult:
    """Return the outcome and its reason. `timeout_ms` and `cancel_reason` complete the sentence if they are still known."""
    if result.reason == "exited":
        return msgspec.structs.replace(_exited(result), printed=[*_leftover_lines(result)])
    if result.reason == "timed-out":
        after = "" if timeout_ms is None else f" after {_duration(timeout_ms)}"
        return NodeResult(
            outcome=Outcome.TIMED_OUT,
            exit_code=result.exit_code,
            reason_code="timeout",
            reason_text=f"timed out{after}",
        )
    if result.reason == "cancelled":
        return NodeResult(
            outcome=Outcome.CANCELLED,
            exit_code=result.exit_code,
            reason_code="cancel-requested",
            reason_text=one_line(f"cancelled: {cancel_reason}" if cancel_reason else "cancelled"),
        )
    if result.reason == "limit":
        return failure("limit", result.error or "ended by a limit", exit_code=result.exit_code)
    if result.reason == "lease-ended":
        return _lease_ended(result)
    if result.reason == "spawn-failed":
        return failure("spawn-failed", result.error or "the process could not be started")
    # "lost", or a reason of a newer runner: the outcome is unknown.
    return NodeResult(
        outcome=Outcome.LOST,
        reason_code="outcome-unknown",
        reason_text=one_line(result.error or "outcome unknown"),
    )


def described(processes: Sequence[LeftProcess]) -> str:
    """Return processes as text for people: `17 (sleep, 3 s)`. Names come from the processes themselves, so they are escaped."""
    return ", ".join(f"{one.pid} ({one_line(one.name)}, {one.age_ms // 1_000} s old)" for one in processes)


def _leftover_lines(result: StepResult) -> Iterator[tuple[int, bytes]]:
    """Yield what is printed about processes that the step has left behind."""
    if result.left:
        more = f" and {result.left_count - len(result.left)} more" if result.left_count > len(result.left) else ""
        text = f"still running until the job ends: {described(result.left)}{more}"
        yield STDERR, f"waterflow: {text}\n".encode()
    if result.ended_count:
        text = f"ended {result.ended_count} processes that the step left behind, which are too many to run until the job ends"
        yield STDERR, f"waterflow: {text}\n".encode()


def _lease_ended(result: StepResult) -> NodeResult:
    """The step was stopped, or not started, because something else may start elsewhere."""
    text = "no connection to the daemon for too long, so that something else may start elsewhere"
    if result.started_at is None:
        return NodeResult(outcome=Outcome.REFUSED, reason_code="refused", reason_text=f"not started: {text}")
    return NodeResult(outcome=Outcome.LOST, reason_code="lease-ended", reason_text=f"stopped by its server: {text}")


def _exited(result: StepResult) -> NodeResult:
    if result.exit_code == 0:
        return NodeResult(outcome=Outcome.SUCCESS, exit_code=0)
    if result.exit_code is not None:
        return failure("exit-code", f"the process ended with exit code {result.exit_code}", exit_code=result.exit_code)
    number = result.signal or 0
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return failure("signal", f"killed by {name}, which Waterflow did not send")


def _duration(milliseconds: int) -> str:
    if milliseconds % 60_000 == 0:
        return f"{milliseconds // 60_000} min"
    return f"{milliseconds / 1_000:g} s"
