"""The shapes of requests and answers for `/openapi.json`, from which clients in other languages are generated.

Rules of this file and run_shapes.py: they describe what rendering.py and run_rendering.py make and are checked against it by a
test; nothing is parsed with them, so a shape that lags cannot break an answer. Fields may be added, never renamed.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from waterflowd.api.views.run_shapes import ApprovalShape, ReasonShape, RunRow, Shape

#: The two ways to send a workflow.
WORKFLOW_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["yaml"],
                    "additionalProperties": False,
                    "properties": {
                        "yaml": {"type": "string"},
                        "vars": {"type": "object"},
                        "inputs": {"type": "object"},
                        "dry_run": {"type": "boolean", "default": False},
                        "path": {"type": "string", "default": "workflow.yml"},
                    },
                }
            },
        },
    }
}


class EventShape(BaseModel):
    """An event; its own fields stand beside these."""

    model_config = ConfigDict(extra="allow")
    seq: int
    log_seq: int
    stream: str
    at: str
    type: str


class EventList(Shape):
    """A page of events."""

    events: list[EventShape]
    next: str | None


class StartedShape(Shape):
    """What a start answers."""

    id: str
    number: int
    name: str
    status: str
    url: str


class RerunShape(Shape):
    """What a re-run keeps and does again, jobs and `job/step`s, the first 1,000 of each; `id` is null for a dry run."""

    id: str | None
    number: int | None
    name: str
    status: str
    url: str | None
    rerun_of: str
    revision: str | None
    kept: list[str]
    kept_total: int
    again: list[str]
    again_total: int


class DryRunShape(Shape):
    """What a start would have begun."""

    valid: bool
    name: str
    path: str
    inputs: dict[str, Any]
    status: str


class ValidJob(Shape):
    """A job of a valid file."""

    id: str
    group: str
    steps: int


class Valid(Shape):
    """A file without errors."""

    valid: bool
    name: str
    path: str
    jobs: list[ValidJob]
    errors: list[Any]


class FileError(Shape):
    """One error of a workflow file, with its place."""

    code: str
    path: str
    line: int
    column: int
    message: str
    snippet: str
    caret: int
    suggestion: str
    help: str


class Problem(BaseModel):
    """What was wrong with a request (RFC 9457)."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FileError] = []


class OwnNodeShape(Shape):
    """A node of a server's own: its file's SHA-256 or its package, and why its newest version cannot be used."""

    name: str
    origin: str
    version: str
    fault: str


class AgentShape(Shape):
    """An approved agent."""

    fingerprint: str
    name: str
    status: str
    text: str
    groups: list[str]
    seen_at: str | None
    hostname: str
    version: str
    os: str
    arch: str
    slots: int
    slots_busy: int
    labels: dict[str, str]
    nodes: list[str]
    own_nodes: list[OwnNodeShape]


class PendingShape(Shape):
    """A key that waits for approval."""

    fingerprint: str
    name: str
    status: str
    text: str
    groups: list[str]
    hostname: str
    requested_at: str | None


class ServerShape(Shape):
    """Where agents find this daemon, and by which key they know it."""

    key: str
    fingerprint: str
    work: str
    enroll: str


class AgentList(Shape):
    """A page of agents."""

    agents: list[AgentShape]
    next: str | None
    pending: list[PendingShape]
    server: ServerShape


class JoinTokenShape(Shape):
    """A new join token; `token` is shown this once."""

    token: str
    groups: list[str]
    uses: int | None
    expires_at: str | None


class RevokedAgent(Shape):
    """An agent that is none any more."""

    fingerprint: str
    status: str


class GroupShape(Shape):
    """A named set of servers."""

    name: str
    agents: list[str]
    connected: int
    slots: int
    slots_busy: int


class GroupList(Shape):
    """A page of groups."""

    groups: list[GroupShape]
    next: str | None


class NodeParameter(Shape):
    """A key of a node's `with`."""

    name: str
    required: bool


class NodeShape(Shape):
    """What a step can use."""

    name: str
    summary: str
    runs_in: str
    origin: str
    parameters: list[NodeParameter]
    outputs: list[str]
    aliases: list[str]
    agents: int


class NodeList(Shape):
    """A page of nodes."""

    nodes: list[NodeShape]
    next: str | None


class RepositoryShape(Shape):
    """A watched repository."""

    name: str
    url: str
    refs: list[str]
    status: str
    text: str
    fetched_at: str | None
    revision_fetched: str | None
    revision_attempted: str | None
    revision_applied: str | None
    conditions: list[dict[str, Any]]


class RepositoryList(Shape):
    """A page of repositories."""

    repositories: list[RepositoryShape]
    next: str | None


class InputShape(Shape):
    """An input of a workflow."""

    name: str
    type: str
    description: str
    required: bool
    default: Any
    options: list[str]
    pattern: str | None


class DefinitionShape(Shape):
    """A workflow known from a repository."""

    path: str
    name: str
    repository: str
    revision: str
    description: str
    status: str
    text: str
    triggers: list[str]
    inputs: list[InputShape]
    errors: list[dict[str, Any]]


class DefinitionList(Shape):
    """A page of workflows."""

    definitions: list[DefinitionShape]
    next: str | None


class TokenShape(Shape):
    """An API token without its secret."""

    id: str
    name: str
    role: str
    groups: list[str]
    status: str
    created_at: str | None
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    used_at: str | None


class NewTokenShape(TokenShape):
    """A new API token; `secret` is shown this once."""

    secret: str


class TokenList(Shape):
    """A page of tokens."""

    tokens: list[TokenShape]
    next: str | None


class AuditShape(Shape):
    """What somebody did, or was refused."""

    seq: int
    at: str | None
    by: str
    what: str
    target: str
    facts: dict[str, Any]


class AuditList(Shape):
    """A page of the audit trail."""

    audit: list[AuditShape]
    next: str | None


class Health(Shape):
    """Alive or ready."""

    status: str


class Version(Shape):
    """Which release this is."""

    name: str
    version: str


class DaemonShape(Shape):
    """The daemon itself."""

    version: str
    started_at: str | None
    now: str | None
    generation: int
    log_seq: int


class WaitingShape(Shape):
    """Something that waits, and why; without a job it is the run."""

    run: str
    name: str
    job: str | None
    step: str | None
    reason: ReasonShape


class WaitingApprovalShape(ApprovalShape):
    """Something that waits for people."""

    run: str
    name: str
    job: str
    step: str | None
    reason: ReasonShape


class ScheduleShape(Shape):
    """A schedule of a workflow; all instants in UTC."""

    path: str
    name: str
    repository: str
    ref: str
    revision: str
    cron: str
    timezone: str
    overlap: str
    catch_up: str
    next: list[str]
    waiting: list[str]
    last_instant: str | None
    last_outcome: str | None
    last_run: str | None
    text: str


class ScheduleList(Shape):
    """A page of schedules."""

    schedules: list[ScheduleShape]
    next: str | None


class StatusShape(Shape):
    """The whole system in one screen."""

    status: str
    problems: list[str]
    daemon: DaemonShape
    repositories: list[RepositoryShape]
    agents: list[AgentShape]
    agents_total: int
    pending: list[PendingShape]
    open_runs: int
    running: list[RunRow]
    waiting: list[WaitingShape]
    approvals: list[WaitingApprovalShape]
    failed: list[RunRow]
    schedules: list[ScheduleShape]
