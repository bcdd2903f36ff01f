"""Agents, join tokens, groups and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from waterflow_agent.nodes.schema import FROM_REPOSITORY, NodeSchema, RunsIn
from waterflow_agent.wire.messages import OwnNode
from waterflowd.admin.ports import AgentRow, JoinTokenRow, PendingRow, RevokedRow, ServerRow
from waterflowd.api.timestamps import Timestamp, timestamp

#: The group that holds every agent.
ALL_SERVERS = "all-servers"
#: Open jobs that an agent lists.
JOBS_LISTED = 10


class OwnNodeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is installed on a server: its version (the SHA-256 of its file, or its package), or why it is unusable."""

    name: str
    origin: str
    version: str
    fault: str


class DockerEngineSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The Docker engine of a server: its version (empty if none answers), and why jobs cannot have containers there."""

    version: str
    problem: str


class OpenJobSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has started on a server and has not ended."""

    run: str
    job: str


class AgentSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An approved agent."""

    fingerprint: str
    name: str
    status: Literal["connected", "disconnected"]
    text: str
    groups: tuple[str, ...]
    seen_at: Timestamp | None
    hostname: str
    version: str
    os: str
    arch: str
    slots: int
    slots_busy: int
    labels: dict[str, str]
    nodes: list[str]
    own_nodes: list[OwnNodeSchema]
    #: Null if the agent has not said; `problem` is empty if jobs can have containers there.
    docker: DockerEngineSchema | None
    #: When its boot last changed.
    boot_changed_at: Timestamp | None
    #: What a person has to look at; empty for nothing.
    alarm: str
    #: Since when it starts no new jobs, and who decided that; null if it does.
    drained_at: Timestamp | None
    drained_by: str
    #: It starts no new jobs, and none is left.
    drained: bool
    #: It is not connected to this daemon, but may be to another one, which then knows its work.
    is_elsewhere: bool
    #: How many jobs have started on it and have not ended, and the first of them.
    open_jobs: int
    jobs: list[OpenJobSchema]

    @classmethod
    def of(cls, row: AgentRow) -> AgentSchema:
        """The agent as it is now."""
        return cls(
            fingerprint=row.fingerprint,
            name=row.name,
            status="connected" if row.is_connected else "disconnected",
            text=row.text,
            groups=row.groups,
            seen_at=timestamp(row.seen_at),
            hostname=row.hostname,
            version=row.version,
            os=row.os,
            arch=row.arch,
            slots=row.slots,
            slots_busy=row.slots_busy,
            labels=row.labels,
            nodes=[name for name in row.nodes if name != FROM_REPOSITORY],
            own_nodes=[
                OwnNodeSchema(name=own.name, origin=own.origin, version=own.version, fault=own.fault)
                for own in row.own_nodes
            ],
            docker=None
            if row.docker is None
            else DockerEngineSchema(version=row.docker.version, problem=row.docker.problem),
            boot_changed_at=timestamp(row.boot_changed_at),
            alarm=row.alarm,
            drained_at=timestamp(row.drained_at),
            drained_by=row.drained_by,
            drained=row.is_drained,
            is_elsewhere=row.is_elsewhere,
            open_jobs=len(row.jobs),
            jobs=[OpenJobSchema(run=run, job=job) for run, job in row.jobs[:JOBS_LISTED]],
        )


class PendingAgentSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that waits for approval."""

    fingerprint: str
    name: str
    status: Literal["pending"]
    text: str
    groups: tuple[str, ...]
    hostname: str
    requested_at: Timestamp | None

    @classmethod
    def of(cls, row: PendingRow) -> PendingAgentSchema:
        """The agent, with the command that approves it."""
        return cls(
            fingerprint=row.fingerprint,
            name=row.name,
            status="pending",
            text=f"waiting for approval: waterflowctl agents approve {row.fingerprint} --group GROUP",
            groups=row.groups,
            hostname=row.hostname,
            requested_at=timestamp(row.requested_at),
        )


class ServerSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of this daemon for agents, and the key by which they recognize it."""

    key: str
    fingerprint: str
    work: str
    enroll: str

    @classmethod
    def of(cls, row: ServerRow) -> ServerSchema:
        """The daemon's own addresses and key."""
        return cls(key=row.key, fingerprint=row.fingerprint, work=row.work, enroll=row.enroll)


class AgentList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of approved agents, with the pending ones and the daemon's addresses."""

    agents: list[AgentSchema]
    next: str | None
    pending: list[PendingAgentSchema]
    server: ServerSchema


class RevokedAgentSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that has been revoked."""

    fingerprint: str
    status: Literal["revoked"] = "revoked"


class RevokedKeySchema(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a former agent, which is refused. Keys that an older release has revoked have no name."""

    fingerprint: str
    name: str
    status: Literal["revoked"]
    text: str
    revoked_at: Timestamp | None

    @classmethod
    def of(cls, row: RevokedRow) -> RevokedKeySchema:
        """The key, with the command that forgets it."""
        return cls(
            fingerprint=row.fingerprint,
            name=row.name,
            status="revoked",
            text=f"revoked by {row.revoked_by}; forget it: waterflowctl agents remove {row.name or row.fingerprint}",
            revoked_at=timestamp(row.revoked_at),
        )


class RevokedKeyList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of revoked keys."""

    agents: list[RevokedKeySchema]
    next: str | None


class RemovedAgentSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that has been forgotten."""

    fingerprint: str
    status: Literal["removed"] = "removed"


class GroupsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The groups of an agent."""

    groups: list[str]


# Join tokens ----------------------------------------------------------------------------------------------------------


class JoinTokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """A join token to create: `ttl` is a duration such as `1h`, or seconds; `uses` null means any number of agents.

    `address` is the host name or address at which these agents reach the daemon, or several separated by commas; null means
    `agents.address` of the configuration.
    """

    groups: list[str]
    ttl: str | int | None = None
    uses: int | None = 1
    address: Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)] | None = None


class JoinTokenSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A join token without its secret. `used` agents have joined with it; `uses` null means any number."""

    id: str
    groups: tuple[str, ...]
    status: Literal["valid", "used-up", "expired", "revoked"]
    uses: int | None
    used: int
    created_at: Timestamp | None
    created_by: str
    expires_at: Timestamp | None
    revoked_at: Timestamp | None

    @classmethod
    def of(cls, row: JoinTokenRow, now: int) -> JoinTokenSchema:
        """The token as it is now."""
        return cls(
            id=row.id,
            groups=row.groups,
            status=_join_token_status(row, now),
            uses=row.uses,
            used=row.used,
            created_at=timestamp(row.created_at),
            created_by=row.created_by,
            expires_at=timestamp(row.expires_at),
            revoked_at=timestamp(row.revoked_at),
        )


def _join_token_status(row: JoinTokenRow, now: int) -> Literal["valid", "used-up", "expired", "revoked"]:
    if row.revoked_at is not None:
        return "revoked"
    if row.uses is not None and row.used >= row.uses:
        return "used-up"
    return "expired" if now >= row.expires_at else "valid"


class JoinTokenList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of join tokens."""

    tokens: list[JoinTokenSchema]
    next: str | None


class NewJoinTokenSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A new join token. `token` is shown only once; its `id` names it in the list. `address` and `enroll_address` are in it."""

    token: str
    address: str
    enroll_address: str
    id: str
    groups: tuple[str, ...]
    uses: int | None
    expires_at: Timestamp | None


# Groups ---------------------------------------------------------------------------------------------------------------


class GroupSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A named set of servers."""

    name: str
    agents: list[str]
    connected: int
    slots: int
    slots_busy: int

    @classmethod
    def of_agents(cls, rows: Sequence[AgentRow]) -> list[GroupSchema]:
        """All groups of the agents, by name; `all-servers` holds every agent."""
        members: dict[str, list[AgentRow]] = {ALL_SERVERS: list(rows)} if rows else {}
        for row in rows:
            for group in row.groups:
                members.setdefault(group, []).append(row)
        return [
            cls(
                name=name,
                agents=[row.name for row in found],
                connected=sum(row.is_connected for row in found),
                slots=sum(row.slots for row in found if row.is_connected),
                slots_busy=sum(row.slots_busy for row in found if row.is_connected),
            )
            for name, found in sorted(members.items())
        ]


class GroupList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of groups."""

    groups: list[GroupSchema]
    next: str | None


# Nodes ----------------------------------------------------------------------------------------------------------------


class NodeParameterSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a node's `with`."""

    name: str
    required: bool


class NodeDescriptionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A node that steps can use. `agents` is the number of servers that have it."""

    name: str
    summary: str
    runs_in: RunsIn
    origin: str
    parameters: list[NodeParameterSchema]
    outputs: tuple[str, ...]
    aliases: tuple[str, ...]
    agents: int

    @classmethod
    def of_built_in(cls, node: NodeSchema, agents: Sequence[AgentRow]) -> NodeDescriptionSchema:
        """A node of Waterflow."""
        return cls(
            name=node.name,
            summary=node.summary,
            runs_in=node.runs_in,
            origin="waterflow",
            parameters=[
                NodeParameterSchema(name=field.encode_name, required=field.required)
                for field in msgspec.structs.fields(node.parameters)
            ],
            outputs=node.outputs,
            aliases=node.aliases,
            agents=sum(node.name in row.nodes for row in agents),
        )

    @classmethod
    def of_own_node(cls, node: OwnNode, agents: Sequence[AgentRow]) -> NodeDescriptionSchema:
        """A node that is installed on servers."""
        return cls(
            name=node.name,
            summary=node.summary,
            runs_in=RunsIn.HOST,
            origin=node.origin,
            parameters=[NodeParameterSchema(name=name, required=is_required) for name, is_required in node.parameters],
            outputs=(),
            aliases=(),
            agents=sum(node.name in row.nodes for row in agents),
        )


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of nodes."""

    nodes: list[NodeDescriptionSchema]
    next: str | None
