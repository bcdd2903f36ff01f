"""Moves of a job that has become other jobs: instances that take turns, or the jobs of a workflow that it calls."""

from __future__ import annotations

from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events
from waterflowd.engine.rules import completion, contexts, matrix, rendering
from waterflowd.engine.state.runs import Children, Job, Run
from waterflowd.model import durations
from waterflowd.model import matrix as matrix_model
from waterflowd.model.ids import AgentId
from waterflowd.model.plan import TargetPlan
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import Conclusion, worst


def has_turn(job: Job) -> bool:
    """Whether an instance may start now. Once the job is halted, reused instances need not wait for their turn."""
    assert job.parent is not None
    children = job.parent.children
    assert children is not None
    if children.halted is not None:
        return True
    return (
        job.position == children.next_index
        and (children.max_parallel is None or children.active < children.max_parallel)
        and children.resume_at is None
        and (not children.batches or job.position < children.batches[children.batch])
    )


def of_parent(run: Run, job: Job, now: int) -> events.RunEvent | None:
    """The next move of the job as a whole."""
    children = job.children
    assert children is not None
    if children.open == 0:
        return _end(run, job, children, now)
    if children.scope is not None or job.is_cancelled or children.halted is not None or run.is_timed_out:
        return None
    if children.failures and (children.fail_fast or _is_too_many(children)):
        failed = next(child for child in children.jobs if child.has_failure)
        text = f'"{failed.id}" failed' if children.fail_fast else _failures(children.failures)
        cause = reason(ReasonCode.HALTED, f"{text}: no more instances start", failures=children.failures)
        return events.JobHalted(at=now, job=job.id, is_stopped=children.fail_fast, reason=cause)
    return _batch(job, children, now)


def _failures(count: int) -> str:
    return "1 instance failed" if count == 1 else f"{count} instances failed"


def _is_too_many(children: Children) -> bool:
    return children.max_failures is not None and children.failures > children.max_failures


def _batch(job: Job, children: Children, now: int) -> events.BatchCompleted | None:
    if not children.batches or children.active or children.resume_at is not None:
        return None
    if children.next_index < children.batches[children.batch] or children.batch + 1 >= len(children.batches):
        return None
    number = children.batch + 1
    text = f"batch {number} of {len(children.batches)} finished"
    if children.pause_ms:
        text += f"; next batch in {durations.text(children.pause_ms)}"
    return events.BatchCompleted(
        at=now,
        job=job.id,
        batch=number,
        resume_at=now + children.pause_ms,
        reason=reason(ReasonCode.BATCH_PAUSE, text, batch=number),
    )


def _end(run: Run, job: Job, children: Children, now: int) -> events.RunEvent:
    conclusion = worst(child.conclusion for child in children.jobs if child.conclusion is not None)
    cause = _reason(job, children, conclusion)
    call = job.plan.call
    if children.scope is None or call is None:
        return completion.completed(job, conclusion, cause, {}, contexts.for_job(run, job, now), now)
    env = contexts.for_call(run, job, children.scope, now)
    return completion.completed(job, conclusion, cause, call.outputs, env, now)


def _reason(job: Job, children: Children, conclusion: Conclusion) -> Reason:
    count = len(children.jobs)
    if conclusion is Conclusion.SUCCESS:
        others = sum(child.conclusion is not Conclusion.SUCCESS for child in children.jobs)
        text = f"{count - others} of {count} succeeded, the others were skipped" if others else f"all {count} succeeded"
        return reason(ReasonCode.SUCCEEDED, text if count > 1 else "succeeded")
    alike = [child for child in children.jobs if child.conclusion is conclusion]
    if conclusion is Conclusion.SKIPPED:
        return reason(ReasonCode.CONDITION_FALSE, "all were skipped")
    if conclusion is Conclusion.CANCELLED:
        return alike[0].reason
    more = f" and {len(alike) - 1} more of {count}" if len(alike) > 1 else ""
    text = f'"{alike[0].id}"{more}: {alike[0].reason.text}'
    return reason(ReasonCode.FAILED, text, job=alike[0].id)


# Instances ------------------------------------------------------------------------------------------------------------


def expand(run: Run, job: Job, env: expr.Env, now: int) -> events.JobExpanded:
    """The instances of a matrix. Raises `Rejected`."""
    strategy = job.plan.strategy
    assert strategy is not None
    many = _matrix(job, env)
    instances = [
        events.Instance(key=key, name=_name(run, job, values, None, now), matrix=values)
        for key, values in zip(matrix.keys(many), many, strict=True)
    ]
    return events.JobExpanded(
        at=now,
        job=job.id,
        instances=instances,
        max_parallel=_count(strategy.max_parallel, len(instances), env),
        fail_fast=rendering.is_continued(strategy.fail_fast, env),
        reason=reason(ReasonCode.STARTED, f"{len(instances)} instances", instances=len(instances)),
    )


def _matrix(job: Job, env: expr.Env) -> list[dict[str, Any]]:
    strategy = job.plan.strategy
    if strategy is None or strategy.matrix is None:
        return [{}]
    plan = strategy.matrix
    whole = {**plan.dimensions, "include": _listed(plan.include), "exclude": _listed(plan.exclude)}
    rendered = expr.render(whole if plan.expression is None else plan.expression, env)
    if not isinstance(rendered, dict):
        raise Rejected("WF111", "matrix must be a mapping of dimensions")
    dimensions = dict(rendered)
    include, exclude = dimensions.pop("include", ()), dimensions.pop("exclude", ())
    return matrix_model.instances(dimensions, include, exclude)


def _listed(part: Any) -> Any:
    return list(part) if isinstance(part, tuple) else part


def _name(run: Run, job: Job, values: dict[str, Any], server: str | None, now: int) -> str:
    text = job.plan.name
    if "${{" in text:
        name = rendering.label(expr.render(text, contexts.for_instance(run, job, values, now)))
        if "matrix." in text:
            return name
        text = name
    parts = [part for part in (server, matrix.label(values)) if part]
    return rendering.label(f"{text} ({', '.join(parts)})" if parts else text)


def _count(value: int | str | None, total: int, env: expr.Env) -> int | None:
    if value is None:
        return None
    rendered = expr.render(value, env) if isinstance(value, str) else value
    return max(1, matrix.size(rendered, total, "max-parallel", is_rounded_up=True))


def expand_servers(run: Run, job: Job, servers: list[tuple[AgentId, str]], now: int) -> events.RunEvent:
    """The instances on these servers, each as many times as the matrix says. Never empty, never raises."""
    target = job.plan.target
    assert target is not None
    env = contexts.for_job(run, job, now)
    try:
        return _expand_servers(run, job, servers, target, env, now)
    except Rejected as error:
        cause = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        return completion.complete(job, Conclusion.FAILURE, cause, now)


def _expand_servers(
    run: Run, job: Job, servers: list[tuple[AgentId, str]], target: TargetPlan, env: expr.Env, now: int
) -> events.JobExpanded:
    many = _matrix(job, env)
    total = len(servers) * len(many)
    if total > matrix.SERVERS_MAX:
        raise Rejected("WF112", f"{total} instances on {len(servers)} servers; the limit is {matrix.SERVERS_MAX}")
    has_matrix = many != [{}]
    keys = matrix.keys(many) if has_matrix else [""]
    instances = [
        events.Instance(
            key=f"{name},{key}" if has_matrix else name,
            name=_name(run, job, values, name, now),
            matrix=values,
            agent=agent,
            agent_name=name,
        )
        for agent, name in servers
        for key, values in zip(keys, many, strict=True)
    ]
    sizes = [matrix.size(_rendered(size, env), len(servers), "batch", is_rounded_up=True) for size in target.batch]
    failures = target.max_failures
    return events.JobExpanded(
        at=now,
        job=job.id,
        instances=instances,
        max_parallel=_count(target.max_parallel, len(servers), env),
        batches=[end * len(many) for end in matrix.batches(sizes, len(servers))] if sizes else [],
        pause_ms=target.pause_ms,
        max_failures=None
        if failures is None
        else matrix.size(_rendered(failures, env), len(servers), "max-failures", is_rounded_up=False),
        reason=reason(
            ReasonCode.STARTED, f'{len(servers)} servers of group "{job.group}"', group=job.group, servers=len(servers)
        ),
    )


def _rendered(value: int | str, env: expr.Env) -> object:
    return expr.render(value, env) if isinstance(value, str) else value
