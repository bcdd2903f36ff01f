"""The built-in nodes' parameters and outputs, and nothing else of them, so that the daemon can check a file against them.

Rules of this file: one frozen record per node; its fields are the keys of `with`, spelled with hyphens in the file. A field
without a default is required. The record is the one source for validation, completion and the nodes' reference page.
`runs_in` says who runs the node: the agent's runner as a process, the agent itself, or the daemon's engine (which holds no
server while it waits).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec


class RunsIn(Enum):
    """Who runs a node."""

    #: A process under the runner.
    PROCESS = "process"
    #: A process of its own under the runner, with a class of ours in it.
    HOST = "host"
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


class Script(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs a script of the job's directory (`path`) or a text (`content`): by `interpreter`, its line `#!`, or `sh`."""

    path: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    content: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    interpreter: Annotated[str, msgspec.Meta(min_length=1)] | None = None
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


class WorkflowRun(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Starts a run of another `workflow` of the repository, at the same commit, and waits for its end."""

    #: A path from the root of the repository, or the name of a file beside the workflow that runs.
    workflow: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    inputs: dict[str, Any] = {}
    #: Without it the step ends as soon as the run exists.
    wait: bool = True


class HttpRequest(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Sends one HTTP request; fails when the status is not an expected one."""

    url: Annotated[str, msgspec.Meta(min_length=1)]
    method: str = "GET"
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    #: One of these three.
    body: str | None = None
    json: Any = None
    form: dict[str, str] | None = None
    timeout: str | int | float = "30s"
    #: False takes any certificate; a text is the file of an authority's.
    verify: bool | str = True
    #: A status or several; `2xx` is all of them.
    expect_status: int | str | list[int | str] = "2xx"
    #: After these trying again can help.
    retry_status: int | str | list[int | str] = "408, 429, 5xx"
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 34)] = 1 << 20
    #: Puts the body of a good answer into this file.
    save_to: str | None = None


class HttpWait(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Asks an address until it answers with an expected status."""

    url: Annotated[str, msgspec.Meta(min_length=1)]
    expect_status: int | str | list[int | str] = "2xx"
    timeout: str | int | float = "2m"
    interval: str | int | float = "1s"
    verify: bool | str = True


class NotifyWebhook(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Posts a message to a webhook: `template` is `slack`, `teams` or `discord`; or any `json`."""

    url: Annotated[str, msgspec.Meta(min_length=1)]
    message: str = ""
    template: Literal["slack", "teams", "discord"] | None = None
    json: Any = None
    #: Signs the body: HMAC-SHA256 in the header `X-Hub-Signature-256`.
    secret: str | None = None
    timeout: str | int | float = "30s"


class FileWrite(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Makes a file with this content; `changed` says whether anything differed."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    content: str
    #: Such as "0644"; default: that of the file, or 0644.
    mode: str | None = None
    #: `user`, `user:group` or `:group`.
    owner: str | None = None
    #: Keeps the old file beside it.
    backup: bool = False
    create_directories: bool = False
    #: Writes the file that a link leads to, in place of refusing it.
    follow: bool = False


class FileTemplate(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Makes a file from a template in which `${name}` stands for one of `values`."""

    source: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1)]
    values: dict[str, Any] = {}
    mode: str | None = None
    owner: str | None = None
    backup: bool = False
    create_directories: bool = False
    follow: bool = False


class FileRead(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Gives the content of a text file to later steps."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 256 << 10


class FileDelete(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Removes a file, or with `recursive` a directory; `changed` says whether it was there."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    recursive: bool = False


class FileTransfer(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Copies a file, a folder or what matches a pattern between this server, S3, SFTP and HTTP servers."""

    source: Annotated[str, msgspec.Meta(min_length=1)]
    destination: Annotated[str, msgspec.Meta(min_length=1)]
    #: `sha256:...` of the one file; verified before it is seen at the destination.
    checksum: str | None = None
    #: As of `file/write`; for local and SFTP destinations.
    mode: str | None = None
    owner: str | None = None
    #: How long a server may be silent.
    timeout: str | int | float = "2m"
    #: Of HTTPS servers, S3 too: as of `http/request`.
    verify: bool | str = True
    #: S3. What is not given comes from the environment (`AWS_*`).
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    #: SFTP. A key or the path of one, and its passphrase; or a password.
    private_key: str | None = None
    passphrase: str | None = None
    password: str | None = None
    #: A known hosts file; or the one right key, as `SHA256:...` or as a public key.
    known_hosts: str | None = None
    host_key: str | None = None
    #: HTTP.
    headers: dict[str, str] = {}


class SystemdUnit(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Starts, stops, enables or reloads a unit of systemd, if it is not as it should be."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    state: Literal["started", "stopped", "restarted", "reloaded"] | None = None
    enabled: bool | None = None
    #: Reloads the unit, or restarts it, when it runs.
    reload: bool = False
    #: Has systemd read its files again first.
    daemon_reload: bool = False


class DockerExec(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs a docker `command` line (no shell), or `run` inside of a `container`."""

    command: str | None = None
    container: str | None = None
    run: str | None = None


class DockerPull(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Gets an image; `changed` says whether it is a new one."""

    image: Annotated[str, msgspec.Meta(min_length=1)]
    #: False: an image that is there is good enough.
    always: bool = True


class DockerRun(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Runs a container to its end, or in the background with `detach`."""

    image: Annotated[str, msgspec.Meta(min_length=1)]
    command: str | list[str] | None = None
    name: str | None = None
    env: dict[str, str] = {}
    #: As `host:container[:ro]`.
    volumes: list[str] = []
    #: Port of the container to port of the host, as the SDK takes them: `80/tcp`: 8080.
    ports: dict[str, int | list[int]] = {}
    network: str | None = None
    user: str | None = None
    working_dir: str | None = None
    entrypoint: str | list[str] | None = None
    labels: dict[str, str] = {}
    restart: Literal["always", "on-failure", "unless-stopped"] | None = None
    detach: bool = False
    remove: bool = True


class DockerStop(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Stops a container, if it runs."""

    container: Annotated[str, msgspec.Meta(min_length=1)]
    grace: str | int | float = "10s"
    remove: bool = False


class ComposeUp(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Brings the services of a compose file up."""

    file: Annotated[str, msgspec.Meta(min_length=1)]
    project: str | None = None
    env: dict[str, str] = {}
    profiles: list[str] = []
    build: bool = False
    #: Until all services run, or are healthy where they have a check.
    wait: bool = True
    pull: Literal["always", "missing", "never"] | None = None
    remove_orphans: bool = False


class ComposeDown(Parameters, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Takes the services of a compose file down."""

    file: Annotated[str, msgspec.Meta(min_length=1)]
    project: str | None = None
    env: dict[str, str] = {}
    profiles: list[str] = []
    volumes: bool = False
    remove_orphans: bool = False


class NodeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a node without running it."""

    name: str
    parameters: type[Parameters]
    runs_in: RunsIn
    #: Names of the outputs that it always sets; a script may add more.
    outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    #: Of a node of the engine: whether it can be tried again as a whole, as those of agents can.
    is_retried: bool = False

    @property
    def has_attempts(self) -> bool:
        """Whether `retry` goes with it."""
        return self.is_retried or self.runs_in is not RunsIn.ENGINE

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
        NodeSchema(
            name="script", parameters=Script, runs_in=RunsIn.PROCESS, outputs=("exit-code",), aliases=("exec/script",)
        ),
        NodeSchema(
            name="http/request",
            parameters=HttpRequest,
            runs_in=RunsIn.HOST,
            outputs=("status", "headers", "body", "json", "elapsed-ms"),
        ),
        NodeSchema(name="http/wait", parameters=HttpWait, runs_in=RunsIn.HOST, outputs=("attempts", "status")),
        NodeSchema(name="notify/webhook", parameters=NotifyWebhook, runs_in=RunsIn.HOST, outputs=("status",)),
        NodeSchema(
            name="file/write", parameters=FileWrite, runs_in=RunsIn.HOST, outputs=("changed", "path", "checksum")
        ),
        NodeSchema(
            name="file/template", parameters=FileTemplate, runs_in=RunsIn.HOST, outputs=("changed", "path", "checksum")
        ),
        NodeSchema(
            name="file/read", parameters=FileRead, runs_in=RunsIn.HOST, outputs=("content", "checksum", "bytes")
        ),
        NodeSchema(
            name="file/transfer", parameters=FileTransfer, runs_in=RunsIn.HOST, outputs=("bytes", "files", "checksum")
        ),
        NodeSchema(name="file/delete", parameters=FileDelete, runs_in=RunsIn.HOST, outputs=("changed",)),
        NodeSchema(
            name="systemd/unit",
            parameters=SystemdUnit,
            runs_in=RunsIn.HOST,
            outputs=("changed", "active", "sub-state", "enabled"),
        ),
        NodeSchema(name="docker/exec", parameters=DockerExec, runs_in=RunsIn.HOST, outputs=("exit-code", "stdout")),
        NodeSchema(name="docker/pull", parameters=DockerPull, runs_in=RunsIn.HOST, outputs=("image", "changed")),
        NodeSchema(name="docker/run", parameters=DockerRun, runs_in=RunsIn.HOST, outputs=("id", "name", "exit-code")),
        NodeSchema(name="docker/stop", parameters=DockerStop, runs_in=RunsIn.HOST, outputs=("changed",)),
        NodeSchema(name="docker/compose-up", parameters=ComposeUp, runs_in=RunsIn.HOST, outputs=("services",)),
        NodeSchema(name="docker/compose-down", parameters=ComposeDown, runs_in=RunsIn.HOST),
        NodeSchema(name="sleep", parameters=Sleep, runs_in=RunsIn.ENGINE),
        NodeSchema(name="log", parameters=Log, runs_in=RunsIn.AGENT),
        NodeSchema(name="fail", parameters=Fail, runs_in=RunsIn.AGENT),
        NodeSchema(name="set-outputs", parameters=SetOutputs, runs_in=RunsIn.AGENT),
        NodeSchema(name="condition", parameters=Condition, runs_in=RunsIn.ENGINE, outputs=("result",)),
        NodeSchema(name="loop", parameters=Loop, runs_in=RunsIn.ENGINE, outputs=("results",)),
        NodeSchema(name="parallel", parameters=Parallel, runs_in=RunsIn.ENGINE),
        NodeSchema(name="approval", parameters=Approval, runs_in=RunsIn.ENGINE),
        NodeSchema(
            name="workflow/run",
            parameters=WorkflowRun,
            runs_in=RunsIn.ENGINE,
            outputs=("run-id", "conclusion"),
            is_retried=True,
        ),
    )
}

#: What an agent that runs nodes of a repository has among its nodes.
FROM_REPOSITORY = "own nodes of a repository"
#: A node's file. A node is a class, not an application: what is larger belongs into a package.
SOURCE_BYTES_MAX = 256 << 10
#: An own node's name: a folder and a file.
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}/[a-z0-9][a-z0-9_-]{0,63}")


def path_of(name: str) -> str:
    """Where the file of an own node stands in its repository."""
    return f"nodes/{name}.py"


def find(name: str) -> NodeSchema | None:
    """The built-in node called `name`, by its name or an alias, with or without `@v1`."""
    plain = name.removesuffix("@v1")
    known = BUILT_IN.get(plain)
    if known is not None:
        return known
    return next((schema for schema in BUILT_IN.values() if plain in schema.aliases), None)
