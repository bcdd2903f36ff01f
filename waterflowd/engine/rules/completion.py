"""The events that end a job or a run."""

from __future__ import annotations

from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events
from waterflowd.engine.rules import contexts, rendering
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import FAILURES, Conclusion, verb, worst

#: Outputs of a job or a run, encoded.
OUTPUTS_BYTES_MAX = 1 << 20


def complete(job: Job, conclusion: Conclusion, cause: Reason, now: int) -> events.JobCompleted:
    """The completion of a job, without outputs."""
    return events.JobCompleted(at=now, job=job.id, outcome=conclusion, conclusion=conclusion, reason=cause)


def completed(
    job: Job, outcome: Conclusion, cause: Reason, expressions: dict[str, Any], env: expr.Env, now: int
) -> events.JobCompleted:
    """The completion of a job, with its outputs; `continue-on-error` may turn a failure into a success."""
    outputs: dict[str, object] = {}
    conclusion = outcome
    try:
        if expressions:
            rendered = expr.render(expressions, env)
            assert isinstance(rendered, dict)
            rendering.check_size("the job's outputs", rendered, OUTPUTS_BYTES_MAX)
            outputs = rendered
        if outcome in FAILURES and not job.is_template and rendering.is_continued(job.plan.continue_on_error, env):
            conclusion = Conclusion.SUCCESS
            cause = reason(ReasonCode.CONTINUED, f"{verb(outcome)}, but continue-on-error is set: {cause.text}")
    except Rejected as error:
        cause = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        outcome = conclusion = worst((outcome, Conclusion.FAILURE))
    return events.JobCompleted(
        at=now, job=job.id, outcome=outcome, conclusion=conclusion, outputs=outputs, reason=cause
    )


def run_completed(run: Run, conclusion: Conclusion, cause: Reason, now: int) -> events.RunCompleted:
    """The completion of a run, with its outputs. Outputs that cannot be evaluated fail the run."""
    expressions = run.plan.outputs
    if not expressions:
        return events.RunCompleted(at=now, conclusion=conclusion, reason=cause)
    try:
        outputs = expr.render(expressions, contexts.for_outputs(run, now))
        assert isinstance(outputs, dict)
        rendering.check_size("the run's outputs", outputs, OUTPUTS_BYTES_MAX)
    except Rejected as error:
        cause = reason(ReasonCode.EXPRESSION_ERROR, f"outputs: {error.text}", error=error.code)
        return events.RunCompleted(at=now, conclusion=worst((conclusion, Conclusion.FAILURE)), reason=cause)
    return events.RunCompleted(at=now, conclusion=conclusion, outputs=outputs, reason=cause)
