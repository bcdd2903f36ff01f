"""Nodes that the engine or the agent itself carries out: waiting, decisions, loops, results, child runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from waterflow_agent.nodes.schema.records import Parameters, about


class Sleep(Parameters, frozen=True, kw_only=True):
    """Waits for a `duration` such as `30s`, or `until` a point in time, without occupying a server.

    Exactly one of the two is required. The wait survives restarts of the daemon and of servers, and does not count against
    the job's `timeout-minutes`.
    """

    duration: Annotated[
        str | int | float | None,
        about("`30s`, `2d`, or a number of seconds; at most 366 days.", "duration: 90s"),
    ] = None
    until: Annotated[
        str | int | None,
        about(
            "A time such as `2030-01-31T08:00:00Z`, or milliseconds since 1970. A time in the past ends the wait at once.",
            "until: '2030-01-31T08:00:00Z'",
        ),
    ] = None


class Log(Parameters, frozen=True, kw_only=True):
    """Prints `message` to the step's output log."""

    message: Annotated[str, about("The text to print.", 'message: "run ${{ run.number }}"')]


class Fail(Parameters, frozen=True, kw_only=True):
    """Fails the step with `message`."""

    message: Annotated[str, about("The text to print, and the reason of the failure.", "message: too many")] = (
        "failed by the workflow"
    )
    exit_code: Annotated[
        int, msgspec.Meta(ge=1, le=255), about("The value of `steps.<id>.exit-code`, 1 to 255.", "exit-code: 2")
    ] = 1


class SetOutputs(Parameters, frozen=True, kw_only=True):
    """Sets the step's outputs, at most 1 MiB."""

    outputs: Annotated[
        dict[str, Any],
        about("Names and values of any JSON type.", "outputs: {targets: [web-1, web-2], count: 2}"),
    ]


class Condition(Parameters, frozen=True, kw_only=True):
    """Runs the steps of `then` if the condition `if` is true, otherwise those of `else`.

    An inner step sees the named steps before it, in its own block and in the enclosing ones; from outside, only the outputs
    of this step are visible.
    """

    if_: str | bool = msgspec.field(name="if")
    then: Annotated[list[Any], msgspec.Meta(min_length=1)]
    else_: list[Any] = msgspec.field(name="else", default=[])


class Loop(Parameters, frozen=True, kw_only=True):
    """Runs `steps` for each of `items`, or as long as the condition `while` is true.

    `loop.index` counts from 0, `loop.number` from 1, and `loop.total` is the number of items. `outputs.results` has a
    result for each iteration. An inner step sees the named steps before it, in its own block and in the enclosing ones; from
    outside, only the outputs of this step are visible.
    """

    items: str | list[Any] | None = None
    as_: str = msgspec.field(name="as", default="item")
    max_parallel: str | int = 1
    while_: str | bool | None = msgspec.field(name="while", default=None)
    max_iterations: str | int | None = None
    steps: Annotated[list[Any], msgspec.Meta(min_length=1)]


class Parallel(Parameters, frozen=True, kw_only=True):
    """Runs `branches`, each a list of steps, at the same time, and ends when all have ended.

    An inner step sees the named steps before it, in its own block and in the enclosing ones; from outside, only the outputs
    of this step are visible.
    """

    branches: Annotated[list[list[Any]], msgspec.Meta(min_length=1)]
    max_parallel: str | int | None = None


class Approval(Parameters, frozen=True, kw_only=True):
    """Waits until people approve, or one of them rejects.

    It occupies no server and no slot of a concurrency group while it waits.
    """

    approvers: str | list[str] = []
    minimum: str | int = 1
    message: str = ""
    timeout: str | None = None
    default: Literal["approve", "reject"] = "reject"


class WorkflowRun(Parameters, frozen=True, kw_only=True):
    """Starts a child run of another workflow of the repository, at the same commit, and waits until it has completed.

    It occupies no server while it waits, survives restarts of the daemon and of servers, and starts one child run per
    attempt. Its outputs are those that the workflow declares under `on.workflow_call.outputs`, `run-id`, and `conclusion`
    if it waited. The step fails unless the child run succeeds; if the step is cancelled, the child run is cancelled too.
    """

    workflow: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=400),
        about(
            "A path from the root of the repository, or the name of a file next to the workflow that is running.",
            "workflow: other.yml",
            pitfalls=(
                "Child runs can be nested eight levels deep.",
                "A file that was submitted directly has no other workflow to start.",
            ),
        ),
    ]
    inputs: Annotated[
        dict[str, Any],
        about(
            "The inputs of the child run: those of `on.workflow_dispatch`, or of `on.workflow_call` if the workflow can only"
            " be called.",
            "inputs: {version: '1.2'}",
        ),
    ] = {}
    wait: Annotated[
        bool, about("With `false` the step ends as soon as the child run exists, with its `run-id`.", "wait: false")
    ] = True
