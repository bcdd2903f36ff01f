"""Lowering: from a run's attempt to the task that its agent gets. Pure; needs no socket.

Rules of this file: everything comes from the plan and the attempt's own events, so the same attempt is lowered to the same
task as often as it is offered. Only `instance` is the session's: an offer holds for one start of the agent. The values of
secrets are in the task and nowhere else; it names them once more, so that the agent can mask them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.wire import messages
from waterflowd.engine import commands
from waterflowd.engine.rules import checkout, rendering, secrets
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import AttemptId

#: What is kept of an attempt's output: 64 MiB, its first and last part.
OUTPUT_BYTES_MAX = 64 << 20
#: Of all secrets of one step; a key file has a few thousand bytes.
SECRETS_BYTES_MAX = 128 << 10

#: The value of a secret, by the name under which the sources know it. Raises `Retryable` while it is being read, `Rejected`
#: when it cannot be.
Secret = Callable[[str], str | None]


def _no_secret(name: str) -> None:
    return None


def key_of(run: Run, command: commands.SendTask | commands.CancelTask) -> messages.TaskId:
    """The attempt's name on the wire."""
    return messages.TaskId(AttemptId(run.id, command.job, command.step, command.attempt), command.epoch)


def lower(run: Run, command: commands.SendTask, instance: str, secret: Secret = _no_secret) -> messages.Task:
    """The task of an open attempt, with the secrets that its step names filled in.

    Where they cannot be, it is a task that fails with the reason and runs nothing. Raises `Retryable` while one is being read.
    """
    job = run.jobs_by_id[command.job]
    step = job.steps_by_id[command.step]
    attempt = step.attempts[command.attempt - 1]
    plan = step.plan
    node = plan.node
    params = attempt.params if attempt.params is not None else plan.params
    env = attempt.env if attempt.env is not None else rendering.environment(run, job, step)
    own = run.plan.node(node)
    values: dict[str, str] = {}
    if plan.secrets:
        try:
            values = _values(job, plan.secrets, secret)
            params, env = _filled(node, params, values), secrets.fill(env, frozenset(values), values.__getitem__)
            _check_size(values, params, env, "" if own is None else own.source)
        except Rejected as error:
            node, params, env, values, own = "fail", {"message": str(error)}, {}, {}, None
    return messages.Task(
        key=key_of(run, command),
        node=node,
        params=params,
        env=env,
        step_name=step.name,
        working_directory=plan.working_directory if attempt.working_directory is None else attempt.working_directory,
        timeout_ms=attempt.timeout_ms,
        stop_signal=plan.stop.signal,
        grace_ms=plan.stop.grace_ms,
        output_bytes_max=plan.output_bytes_max or OUTPUT_BYTES_MAX,
        boot_id=attempt.boot_id,
        instance=instance,
        secrets=sorted({value for value in values.values() if value}),
        tree=_tree(run, job, node),
        source="" if own is None else own.source,
    )


def _tree(run: Run, job: Job, node: str) -> messages.Tree | None:
    """What the job's directory begins with; a node that is no process sees no directory."""
    known = schema.find(node)
    wanted = checkout.of_job(run, job)
    if wanted is None or (known is not None and known.runs_in is schema.RunsIn.AGENT):
        return None
    return messages.Tree(wanted.repository, wanted.revision, list(wanted.patterns))


def _values(job: Job, names: Iterable[str], secret: Secret) -> dict[str, str]:
    values: dict[str, str] = {}
    for name in names:
        outer = job.scope.secret(name)
        value = secret(outer) if outer is not None else None
        if value is None:
            raise Rejected("WF623", f"the secret {name} has no value any more in any source")
        values[name] = value
    return values


def _filled(node: str, params: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """The parameters with secrets; of a process none: its arguments are for all to see, and its script is a file."""
    filled: dict[str, Any] = secrets.fill(params, frozenset(values), values.__getitem__)
    known = schema.find(node)
    if filled != params and known is not None and known.runs_in is schema.RunsIn.PROCESS:
        name = next(name for name, value in params.items() if filled[name] != value)
        raise Rejected("WF624", f"with.{name} holds a secret, which others on the server could read; give it by env")
    return filled


def _check_size(values: dict[str, str], params: dict[str, Any], env: dict[str, str], source: str) -> None:
    """What is filled in must fit a message, and what an agent has to look for must not keep it from everything else."""
    size = sum(len(value.encode("utf-8", "surrogatepass")) for value in values.values())
    if size > SECRETS_BYTES_MAX:
        raise Rejected("WF625", f"the secrets of this step have {size} bytes together; {SECRETS_BYTES_MAX} is the most")
    size += len(msgspec.msgpack.encode((params, env, source)))
    if size > messages.TASK_BYTES_MAX:
        raise Rejected("WF625", f"with its secrets this step has {size} bytes; {messages.TASK_BYTES_MAX} is the most")


def cancel(run: Run, command: commands.CancelTask) -> messages.Cancel:
    """The message that ends an attempt."""
    return messages.Cancel(key_of(run, command), command.is_forced, command.reason)
