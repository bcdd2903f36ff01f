"""All built-in nodes: their names, parameters and outputs, and who runs them; and what names an own node."""

from __future__ import annotations

import re

import msgspec

from waterflow_agent.nodes.schema.artifacts import ArtifactDownload, ArtifactUpload
from waterflow_agent.nodes.schema.caches import CacheRestore, CacheSave
from waterflow_agent.nodes.schema.control_flow import (
    Approval,
    Condition,
    Fail,
    Log,
    Loop,
    Parallel,
    SetOutputs,
    Sleep,
    WorkflowRun,
)
from waterflow_agent.nodes.schema.files import FileDelete, FileRead, FileTemplate, FileWrite
from waterflow_agent.nodes.schema.http import HttpRequest, HttpWait, NotifyWebhook
from waterflow_agent.nodes.schema.job_containers import JobContainers
from waterflow_agent.nodes.schema.records import Parameters, RunsIn
from waterflow_agent.nodes.schema.scripts import Script, Shell
from waterflow_agent.nodes.schema.services import (
    ComposeDown,
    ComposeUp,
    DockerExec,
    DockerPull,
    DockerRun,
    DockerStop,
    SystemdUnit,
)
from waterflow_agent.nodes.schema.storage import FileList, FilePrune, FileTransfer


class NodeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What can be known about a node without running it."""

    name: str
    parameters: type[Parameters]
    runs_in: RunsIn
    #: The outputs that it always sets; a script may add more.
    outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    #: GitHub's actions with the same parameters and meaning, in any version.
    actions: tuple[str, ...] = ()
    #: Whether a node that the engine runs can be retried; nodes that agents run always can.
    is_retried: bool = False
    #: Only the daemon puts it into plans.
    is_internal: bool = False

    @property
    def has_attempts(self) -> bool:
        """Whether a step with this node may have `retry`."""
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
        NodeSchema(name="file/list", parameters=FileList, runs_in=RunsIn.HOST, outputs=("files", "count", "bytes")),
        NodeSchema(name="file/prune", parameters=FilePrune, runs_in=RunsIn.HOST, outputs=("deleted", "kept", "bytes")),
        NodeSchema(name="file/delete", parameters=FileDelete, runs_in=RunsIn.HOST, outputs=("changed",)),
        NodeSchema(
            name="artifact/upload",
            parameters=ArtifactUpload,
            runs_in=RunsIn.HOST,
            outputs=("name", "files", "bytes", "digest", "artifact-digest"),
            actions=("actions/upload-artifact",),
        ),
        NodeSchema(
            name="artifact/download",
            parameters=ArtifactDownload,
            runs_in=RunsIn.HOST,
            outputs=("files", "bytes", "download-path"),
            actions=("actions/download-artifact",),
        ),
        NodeSchema(
            name="cache/restore",
            parameters=CacheRestore,
            runs_in=RunsIn.HOST,
            outputs=("cache-hit", "cache-primary-key", "cache-matched-key"),
            actions=("actions/cache/restore", "actions/cache"),
        ),
        NodeSchema(
            name="cache/save",
            parameters=CacheSave,
            runs_in=RunsIn.HOST,
            actions=("actions/cache/save",),
        ),
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
#: What the daemon itself puts into plans. No workflow file can name these nodes.
INTERNAL: dict[str, NodeSchema] = {
    schema.name: schema
    for schema in (
        NodeSchema(
            name="job/containers",
            parameters=JobContainers,
            runs_in=RunsIn.HOST,
            outputs=("container", "services"),
            is_internal=True,
        ),
    )
}
#: An agent with this entry among its nodes can run a repository's own nodes.
FROM_REPOSITORY = "own nodes of a repository"
#: The maximum size of a node's file. A node is one class; larger code belongs in a package.
SOURCE_BYTES_MAX = 256 << 10
#: The name of a repository's own node: a folder and a file.
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}/[a-z0-9][a-z0-9_-]{0,63}")


def path_of(name: str) -> str:
    """The path of an own node's file in its repository."""
    return f"nodes/{name}.py"


def find(name: str) -> NodeSchema | None:
    """The built-in node called `name`, by its name or an alias, with or without `@v1`, or by a GitHub action with a version."""
    plain = name.removesuffix("@v1")
    known = BUILT_IN.get(plain) or INTERNAL.get(name)
    if known is not None:
        return known
    action, _, version = name.partition("@")
    return next(
        (schema for schema in BUILT_IN.values() if plain in schema.aliases or (version and action in schema.actions)),
        None,
    )
