"""The built-in nodes' parameters and outputs, and nothing else of them, so that the daemon can check a file against them.

Rules of this file: one frozen record per node; its fields are the keys of `with`, spelled with hyphens in the file. A field
without a default is required. The record is the one source for validation, completion and the nodes' reference page.
`runs_in` says who runs the node: the agent's runner as a process, the agent itself, or the daemon's engine (which holds no
server while it waits).
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec


class RunsIn(Enum):
    """Who runs a node."""

    #: A process under the runner.
    PROCESS = "process"
    #: The agent's own process; only for what ends at once.
    AGENT = "agent"
    #: The engine: an entry in the log.
    ENGINE = "engine"


class Parameters(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of the parameter records: keys with hyphens, unknown ones refused."""


class Shell(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs a script. `shell` is `bash`, `sh`, `python`, `pwsh` or a template with `{0}`; default: bash, else sh."""

    run: Annotated[str, msgspec.Meta(min_length=1)]
    shell: str | None = None
    args: list[str] = []


class Sleep(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Waits in the log and holds no server: for a `duration` such as `30s`, or `until` an instant (RFC 3339 or ms)."""

    duration: str | int | float | None = None
    until: str | int | None = None


class Log(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Prints `message` to the step's output log."""

    message: str


class Fail(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Fails with `message`; `exit-code` shows in `steps.<id>.exit-code`."""

    message: str = "failed by the workflow"
    exit_code: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1


class SetOutputs(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Sets the step's outputs to the given names and values of any JSON type."""

    outputs: dict[str, Any]


class Condition(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs the steps of `then` when the condition `if` holds, else those of `else`."""

    if_: Annotated[str | bool, msgspec.Meta(description="A condition, as the `if` of a step.")] = msgspec.field(
        name="if"
    )
    then: Annotated[list[Any], msgspec.Meta(min_length=1)]
    else_: list[Any] = msgspec.field(name="else", default=[])


class Loop(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs `steps` for each of `items`, or `while` a condition holds; `steps.<id>.outputs.results` has a result of each."""

    items: str | list[Any] | None = None
    as_: str = msgspec.field(name="as", default="item")
    max_parallel: str | int = 1
    while_: str | bool | None = msgspec.field(name="while", default=None)
    max_iterations: str | int | None = None
    steps: Annotated[list[Any], msgspec.Meta(min_length=1)]


class Parallel(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs `branches`, each a list of steps, at the same time, and ends when all have ended."""

    branches: Annotated[list[list[Any]], msgspec.Meta(min_length=1)]
    max_parallel: str | int | None = None


class Approval(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Waits for people: `minimum` of `approvers` approve, or one rejects. After `timeout` comes `default`."""

    approvers: str | list[str] = []
    minimum: str | int = 1
    message: str = ""
    timeout: str | None = None
    default: Literal["approve", "reject"] = "reject"


class NodeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a node without running it."""

    name: str
    parameters: type[Parameters]
    runs_in: RunsIn
    #: Names of the outputs that it always sets; a script may add more.
    outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the parameter record's docstring."""
        return (self.parameters.__doc__ or "").strip().splitlines()[0]


BUILT_IN: dict[str, NodeSchema] = {
    schema.name: schema
    for schema in (
        NodeSchema(
            name="shell", parameters=Shell, runs_in=RunsIn.PROCESS, outputs=("exit-code",), aliases=("exec/shell",)
        ),
        NodeSchema(name="sleep", parameters=Sleep, runs_in=RunsIn.ENGINE),
        NodeSchema(name="log", parameters=Log, runs_in=RunsIn.AGENT),
        NodeSchema(name="fail", parameters=Fail, runs_in=RunsIn.AGENT),
        NodeSchema(name="set-outputs", parameters=SetOutputs, runs_in=RunsIn.AGENT),
        NodeSchema(name="condition", parameters=Condition, runs_in=RunsIn.ENGINE, outputs=("result",)),
        NodeSchema(name="loop", parameters=Loop, runs_in=RunsIn.ENGINE, outputs=("results",)),
        NodeSchema(name="parallel", parameters=Parallel, runs_in=RunsIn.ENGINE),
        NodeSchema(name="approval", parameters=Approval, runs_in=RunsIn.ENGINE),
    )
}

#: Nodes that the language knows and this version cannot run yet; using one is an error that says so.
NOT_BUILT_YET: frozenset[str] = frozenset(
    [
        "script",
        "exec/script",
        "http/request",
        "http/wait",
        "file/transfer",
        "file/write",
        "file/read",
        "file/template",
        "file/delete",
        "docker/exec",
        "docker/pull",
        "docker/run",
        "docker/stop",
        "docker/compose-up",
        "docker/compose-down",
        "systemd/unit",
        "notify/webhook",
        "workflow/run",
    ]
)


def find(name: str) -> NodeSchema | None:
    """The built-in node called `name`, by its name or an alias, with or without `@v1`."""
    plain = name.removesuffix("@v1")
    known = BUILT_IN.get(plain)
    if known is not None:
        return known
    return next((schema for schema in BUILT_IN.values() if plain in schema.aliases), None)
