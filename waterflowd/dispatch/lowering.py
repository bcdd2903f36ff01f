"""Lowering: builds the task that an agent gets for a run's attempt. Pure.

Rules of this file:

- `draft` says what an attempt needs, from the plan and the attempt's own events alone, so every offer of it has the same task.
  A draft names its secrets, but never contains a value, so a host may store it (`model/codec.py`).
- `fill` turns a draft into the task, at the place that sends it. Only `instance` belongs to the session: an offer is valid for
  one instance of the agent. The values of secrets are only in the task, which also lists them, so that the agent can mask them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.wire import messages
from waterflowd.access.policy import Origin, job_origin
from waterflowd.engine import commands
from waterflowd.engine.rules import checkout, containers, environment_variables, github, secrets
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import AttemptId, JobId
from waterflowd.model.plan import LimitsPlan
from waterflowd.model.records import Checkout, CheckoutPart

#: Default size limit of an attempt's output: 64 MiB of its beginning and end are kept.
OUTPUT_BYTES_MAX = 64 << 20
#: Total size of the secrets of one step; a key file has a few thousand bytes.
SECRETS_BYTES_MAX = 128 << 10


class SecretRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The secrets of an attempt, and what the right to read them depends on."""

    #: By the name in the step: the name in the sources; None if the called workflow was not given it.
    names: dict[str, str | None]
    origin: Origin
    #: The group for which the job was placed.
    group: str
    #: The commit whose encrypted files may have the values; None without a repository.
    revision: str | None = None


class Draft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task without what is known only where it is sent: the values of secrets, and the agent's instance."""

    #: With references in place of secrets, and without an instance.
    task: messages.Task
    secrets: SecretRequest | None = None


#: The value of a secret, by its name in the sources; None if it does not exist. Raises `Retryable` while it is being read,
#: `Rejected` when it cannot be read, or the job may not read it.
ReadSecret = Callable[[SecretRequest, str], str | None]


#: Which of the requested secrets, by their names in the step, have no value in any source. Raises `Retryable` while some are
#: being read, `Rejected` when one cannot be read.
MissingSecrets = Callable[[SecretRequest], Sequence[str]]
#: Makes the task of a draft for an instance of the agent, see `fill`.
Fill = Callable[[Draft, str], messages.Task]


def no_secret(request: SecretRequest, name: str) -> None:
    """Without sources no secret has a value."""
    return


def all_missing(request: SecretRequest) -> Sequence[str]:
    """Without sources every secret is missing."""
    return list(request.names)


def key_of(run: Run, command: commands.SendTask | commands.CancelTask) -> messages.TaskId:
    """The attempt's identity on the wire."""
    return messages.TaskId(AttemptId(run.id, command.job, command.step, command.attempt), command.epoch)


def draft(run: Run, command: commands.SendTask) -> Draft:
    """What the task of an open attempt needs."""
    job = run.jobs_by_id[command.job]
    step = job.steps_by_id[command.step]
    attempt = step.attempts[command.attempt - 1]
    plan = step.plan
    node = plan.node
    container = containers.of_step(job, node)
    own = run.plan.node(node)
    task = messages.Task(
        key=key_of(run, command),
        node=node,
        params=attempt.params if attempt.params is not None else plan.params,
        env=attempt.env if attempt.env is not None else environment_variables.static(job, step),
        step_name=step.name,
        working_directory=plan.working_directory if attempt.working_directory is None else attempt.working_directory,
        timeout_ms=attempt.timeout_ms,
        stop_signal=plan.stop.signal,
        grace_ms=plan.stop.grace_ms,
        output_bytes_max=plan.output_bytes_max or OUTPUT_BYTES_MAX,
        boot_id=attempt.boot_id,
        instance="",
        tree=_tree(run, job, node),
        source="" if own is None else own.source,
        user=job.plan.user,
        group=job.group,
        limits=_limits(plan.limits),
        lease_ms=attempt.lease_ms,
        continues=_continues(run, job),
        facts=github.facts_for_scripts(run, job, step.block),
        container=container or "",
    )
    if container is None:
        # On the server itself the script would do something else.
        task = _failing(task, containers.NOT_STARTED)
    return Draft(task=task, secrets=secret_request(run, job.id, plan.secrets))


def _continues(run: Run, job: Job) -> messages.JobName | None:
    """The job of the earlier run whose directory the job starts in."""
    if job.kept is None or run.reused is None:
        return None
    return messages.JobName(run.reused.run, job.id)


def secret_request(run: Run, job_id: JobId, names: Sequence[str]) -> SecretRequest | None:
    """The request of an attempt of the job for its secrets; None if it has none."""
    job = run.jobs_by_id[job_id]
    if not names:
        return None
    return SecretRequest(
        names={name: job.scope.secret(name) for name in names},
        origin=job_origin(run, job),
        group=job.group,
        revision=run.revision,
    )


def fill(draft: Draft, instance: str, read: ReadSecret = no_secret) -> messages.Task:
    """The task of a draft for an instance of the agent, with the secrets of its step filled in.

    If they cannot be filled in, returns a task that fails with the reason. Raises `Retryable` while a secret is being read.
    """
    task = draft.task
    if draft.secrets is None:
        return msgspec.structs.replace(task, instance=instance)
    try:
        values = _values(draft.secrets, read)
        params = _filled(task.node, task.params, values)
        env = secrets.fill(task.env, frozenset(values), values.__getitem__)
        _check_size(values, params, env, task.source)
    except Rejected as error:
        # The node runs in the agent, without a directory.
        return msgspec.structs.replace(_failing(task, str(error)), instance=instance)
    found = sorted({value for value in values.values() if value})
    return msgspec.structs.replace(task, instance=instance, params=params, env=env, secrets=found)


def _failing(task: messages.Task, message: str) -> messages.Task:
    """A task that fails with this message in place of one that cannot run."""
    return msgspec.structs.replace(
        task, node="fail", params={"message": message}, env={}, tree=None, source="", container=""
    )


def _limits(limits: LimitsPlan | None) -> messages.Limits | None:
    if limits is None:
        return None
    return messages.Limits(limits.memory_bytes, limits.processes, limits.cpu_percent)


def _tree(run: Run, job: Job, node: str) -> messages.Tree | None:
    """The repository files of the job's directory; None for a node that runs in the agent and has no directory."""
    known = schema.find(node)
    files = checkout.of_job(run, job)
    if files is None or (known is not None and known.runs_in is schema.RunsIn.AGENT):
        return None
    return tree_of(files)


def tree_of(checkout: Checkout) -> messages.Tree:
    """The files of a job's directory, as they are in a task."""
    parts = tuple(messages.TreePart(**msgspec.structs.asdict(part)) for part in checkout.parts)
    return messages.Tree(checkout.repository, checkout.revision, list(checkout.patterns), parts)


def checkout_of(tree: messages.Tree) -> Checkout:
    """The reverse of `tree_of`."""
    parts = tuple(CheckoutPart(**msgspec.structs.asdict(part)) for part in tree.parts)
    return Checkout(repository=tree.repository, revision=tree.revision, patterns=tuple(tree.patterns), parts=parts)


def _values(request: SecretRequest, read: ReadSecret) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, outer in request.names.items():
        value = read(request, outer) if outer is not None else None
        if value is None:
            raise Rejected("WF623", f"the secret {name} no longer has a value in any source")
        values[name] = value
    return values


def _filled(node: str, params: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """The parameters with secrets filled in. Rejects secrets for a process: others can read its arguments and its script."""
    filled: dict[str, Any] = secrets.fill(params, frozenset(values), values.__getitem__)
    known = schema.find(node)
    if filled != params and known is not None and known.runs_in is schema.RunsIn.PROCESS:
        name = next(name for name, value in params.items() if filled[name] != value)
        raise Rejected(
            "WF624", f"with.{name} contains a secret, which others on the server could read; use env instead"
        )
    return filled


def _check_size(values: dict[str, str], params: dict[str, Any], env: dict[str, str], source: str) -> None:
    """Checks that the task fits a message, and that masking the secrets does not overload the agent."""
    size = sum(len(value.encode("utf-8", "surrogatepass")) for value in values.values())
    if size > SECRETS_BYTES_MAX:
        raise Rejected(
            "WF625", f"the secrets of this step have {size} bytes in total; the maximum is {SECRETS_BYTES_MAX}"
        )
    size += len(msgspec.msgpack.encode((params, env, source)))
    if size > messages.TASK_BYTES_MAX:
        raise Rejected(
            "WF625", f"with its secrets this step has {size} bytes; the maximum is {messages.TASK_BYTES_MAX}"
        )


def cancel(run: Run, command: commands.CancelTask) -> messages.Cancel:
    """The message that ends an attempt."""
    return messages.Cancel(key_of(run, command), command.is_forced, command.reason)
