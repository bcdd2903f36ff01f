"""The contexts of expressions, and which of them each kind of key sees.

The fields of a context are defined here once: the compiler checks names against them, and the reference lists them. A
model names the scope of a key; a test compiles every context in every key and compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Context:
    """A context, as the reference describes it."""

    description: str
    #: An expression that uses it.
    example: str
    #: Where it exists, in words.
    where: str
    #: Fields and what they hold; empty where they depend on the file or the run.
    fields: dict[str, str] = field(default_factory=dict)


_JOB_RESULT = {
    "result": "`success`, `failure`, `cancelled` or `skipped`; `timed-out` and `lost` count as `failure`",
    "conclusion": "the exact conclusion, including `timed-out` and `lost`",
    "outputs": "the outputs of the job; null for a job with instances",
    "servers": "for a job with `target: each`: `result`, `conclusion` and `outputs` by server name",
    "instances": "for a job with instances: a list with `result`, `conclusion` and `outputs` of each",
}
_AGENT = {
    "id": "the agent's fingerprint",
    "name": "the agent's name",
    "hostname": "the server's host name",
    "os": "the operating system",
    "arch": "the processor architecture",
    "group": "the group that the job requested",
    "labels": "the agent's labels",
}

_RUNNER = {
    **_AGENT,
    "os": "`Linux`, `macOS` or `Windows`",
    "arch": "`X64`, `ARM64`, `X86` or `ARM`",
    "environment": "always `self-hosted`",
    "temp": "the job's directory for temporary files; it cannot be computed with",
    "workspace": "the directory that contains the job's directory; it cannot be computed with",
}

CONTEXTS: dict[str, Context] = {
    "inputs": Context(
        description="The inputs of the workflow, or of the composite step whose file this is.",
        example="inputs.version",
        where="everywhere",
    ),
    "vars": Context(
        description="The workflow's variables, with the values that a start or a schedule overrides.",
        example="vars.image",
        where="everywhere except in composite steps; a variable sees only those above it",
    ),
    "git": Context(
        description="The commit that the run belongs to. All fields are empty for a file that was submitted directly.",
        example="git.branch == 'main'",
        where="everywhere",
        fields={
            "sha": "the commit",
            "short-sha": "its first characters",
            "ref": "the ref, such as `refs/heads/main`",
            "branch": "the branch; empty for a tag",
            "tag": "the tag; empty for a branch",
            "message": "the commit message",
            "author": "the author of the commit",
            "repository": "the repository's name in the daemon's configuration",
            "full-name": "its owner and name as the remote's address has them, such as `acme/shop`",
        },
    ),
    "event": Context(
        description="The event that started the run: its `name`, and its data, such as `changed` for a push or the"
        " request body for a webhook.",
        example="event.name",
        where="everywhere",
    ),
    "github": Context(
        description="What GitHub's names mean here. A field of GitHub that is missing has no true value here; the error names"
        " its closest counterpart.",
        example="github.ref_name == 'main'",
        where="everywhere except in `vars`",
        fields={
            "sha": "the commit",
            "ref": "the ref, such as `refs/heads/main`",
            "ref_name": "the branch or tag",
            "ref_type": "`branch` or `tag`",
            "head_ref": "always empty, as there are no pull requests",
            "base_ref": "always empty, as there are no pull requests",
            "repository": "the owner and name, as the remote's address has them; the configured name of a local repository",
            "repository_owner": "the owner alone; empty for a local repository",
            "event_name": "`push`, `schedule`, `workflow_run`, `webhook`, or `workflow_dispatch` for a start by hand",
            "event": "the data of the event, also `inputs` (as text), `ref`, `repository`, and of a push `head_commit`,"
            " `created`, `deleted`",
            "run_id": "the run's id",
            "run_number": "counts the runs of this workflow, from 1",
            "run_attempt": "always 1, because a re-run is a run with its own number",
            "workflow": "the workflow's name",
            "workflow_sha": "the commit",
            "job": "the job's id",
            "actor": "the token or user that started the run; for a push or a schedule the author of the commit, which anyone"
            " can forge",
            "triggering_actor": "the same as `actor`",
            "workspace": "the job's directory; only in what is sent to the server, and it cannot be computed with",
            "action_path": "the directory of the composite step's file; only in its steps, and there as `workspace`",
        },
    ),
    "run": Context(
        description="The run.",
        example="run.number",
        where="everywhere except in `vars`",
        fields={
            "id": "the run's id",
            "number": "counts the runs of this workflow, from 1",
            "attempt": "always 1, because a re-run is a run with its own number",
            "workflow": "the workflow's name",
            "url": "the run's address",
        },
    ),
    "needs": Context(
        description="The jobs listed in `needs`, by id.",
        example="needs.build.outputs.version",
        where="jobs with `needs`",
        fields=_JOB_RESULT,
    ),
    "jobs": Context(
        description="All jobs of the workflow, by id.",
        example="jobs.build.outputs.version",
        where="only in the outputs of `workflow_call`",
        fields=_JOB_RESULT,
    ),
    "matrix": Context(
        description="The matrix values of this instance, by name; null in a job without `strategy.matrix`.",
        example="matrix.version",
        where="jobs, except in their `if`; composite steps see the matrix of the job that uses them",
    ),
    "strategy": Context(
        description="The position of this instance among the job's instances.",
        example="strategy.job-index + 1",
        where="jobs, except in their `if`, and composite steps",
        fields={
            "job-index": "its index, from 0; 0 in a job without instances",
            "job-total": "the number of instances; 1 in a job without instances",
            "fail-fast": "the value of `strategy.fail-fast`; true in a job without a matrix",
            "max-parallel": "the value of `strategy.max-parallel`, or else the number of instances",
        },
    ),
    "env": Context(
        description="The environment variables that are set so far.",
        example="env.REGION",
        where="steps, and the `env`, `outputs` and `report` of a job",
    ),
    "steps": Context(
        description="The earlier steps that have an `id`, by id.",
        example="steps.find.outputs.version",
        where="steps, and the `outputs` and `report` of a job",
        fields={
            "outputs": "what the script wrote to `$WATERFLOW_OUTPUT`, or the outputs of the node",
            "outcome": "the conclusion before `continue-on-error` applies",
            "conclusion": "the conclusion after `continue-on-error` applies",
            "exit-code": "the exit code of the process",
            "attempt": "the number of the last attempt",
        },
    ),
    "job": Context(
        description="The job that the step belongs to.",
        example="job.status",
        where="steps",
        fields={
            "id": "the job's id",
            "status": "the status so far: `success`, `failure` or `cancelled`",
            "container": "the job's container: `id` and `network`",
            "services": "`<name>` of each service: `id`, `network`, and `ports` with the server's port for each of its ports",
        },
    ),
    "agent": Context(
        description="The server that the job runs on.", example="agent.hostname", where="steps", fields=_AGENT
    ),
    "runner": Context(
        description="The server that the job runs on, with GitHub's names of systems and architectures.",
        example="runner.os == 'Linux'",
        where="steps",
        fields=_RUNNER,
    ),
    "loop": Context(
        description="The current iteration of the enclosing loop. The item is called `item`, or what `as` says.",
        example="loop.number",
        where="the steps of a loop",
        fields={
            "index": "counts from 0",
            "number": "counts from 1",
            "total": "the number of items; null with `while`",
        },
    ),
    "secrets": Context(
        description="References to secrets. They are never evaluated or recorded: the values are filled in when a step is"
        " sent to its server. A secret can stand alone, inside text, or in `format(...)`; nothing can be computed with it.",
        example="secrets.TOKEN",
        where="`env`, `run`, and the `with` of nodes that run on a server",
    ),
}


@dataclass(frozen=True, kw_only=True)
class ExpressionScope:
    """What the expressions of a key see, and whether they may call the status functions."""

    contexts: tuple[str, ...]
    has_status: bool = False


_TRIGGER = ("inputs", "vars", "git", "event")
_RUN = (*_TRIGGER, "run", "github")
_JOB = (*_RUN, "needs", "matrix", "strategy")
_STEP = (*_JOB, "env", "steps", "job", "agent", "runner")

#: Every scope that a key can have. Loops add `item` and `loop`.
SCOPES: dict[str, ExpressionScope] = {
    "vars": ExpressionScope(contexts=_TRIGGER),
    "workflow": ExpressionScope(contexts=_RUN),
    "workflow-env": ExpressionScope(contexts=(*_RUN, "secrets")),
    "job-if": ExpressionScope(contexts=(*_RUN, "needs"), has_status=True),
    "strategy": ExpressionScope(contexts=(*_RUN, "needs")),
    "job": ExpressionScope(contexts=_JOB),
    "job-env": ExpressionScope(contexts=(*_JOB, "env", "secrets")),
    "step": ExpressionScope(contexts=_STEP),
    "step-if": ExpressionScope(contexts=_STEP, has_status=True),
    "step-secrets": ExpressionScope(contexts=(*_STEP, "secrets")),
    "call-outputs": ExpressionScope(contexts=(*_RUN, "jobs")),
}
