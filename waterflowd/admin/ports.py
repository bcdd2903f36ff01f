"""What the API shows and changes: the rows of its answers, and the protocols of the services that give them.

Rules of this file: Protocols and rows only. Unless a line says otherwise, the methods are called on the event loop's thread,
do not block, and what they change is durable when they return. They raise the errors of `waterflow_agent.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from waterflow_agent.wire.messages import OwnNode
from waterflowd.admin.metric_samples import Sample
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.engine.state.runs import Run
from waterflowd.model.ids import RunId
from waterflowd.model.plan import CatchUp, InputSpec, Overlap
from waterflowd.model.records import RunSummary
from waterflowd.reconcile.conditions import Condition
from waterflowd.reconcile.events import ScheduleOutcome
from waterflowd.reconcile.webhooks import Delivery


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One approved agent as it is now."""

    fingerprint: str
    name: str
    groups: tuple[str, ...]
    is_connected: bool
    #: One sentence: `connected`, `silent for 42 s`, `never seen`.
    text: str
    #: When it was last heard of, in ms; None when it never was.
    seen_at: int | None = None
    hostname: str = ""
    version: str = ""
    os: str = ""
    arch: str = ""
    slots: int = 0
    slots_busy: int = 0
    labels: dict[str, str] = {}
    nodes: tuple[str, ...] = ()
    own_nodes: tuple[OwnNode, ...] = ()


class PendingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key that has asked to become an agent and waits for a person."""

    fingerprint: str
    name: str
    #: What it asked for; the daemon decides.
    groups: tuple[str, ...]
    hostname: str
    requested_at: int


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent must know of this daemon to enroll without a token."""

    #: The public key, Z85; goes into the agent's `server-key`.
    key: str
    fingerprint: str
    #: The ports, as `tcp://host:port`.
    work: str
    enroll: str


class AgentAdmin(Protocol):
    """Who is an agent, and who may become one."""

    def rows(self) -> Sequence[AgentRow]:
        """All approved agents, by name."""
        ...

    def pending(self) -> Sequence[PendingRow]:
        """Keys that wait for approval, oldest first; bounded."""
        ...

    def server(self) -> ServerRow:
        """Where agents find this daemon, and by which key they know it."""
        ...

    async def create_token(self, groups: Sequence[str], ttl_ms: int, uses: int | None, by: str) -> str:
        """Makes a join token: one line that holds the server's key and address. `uses` None means any number."""
        ...

    async def approve(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """Makes the key an agent of these groups. Idempotent. `Rejected` WF604 (404) for a key that never asked."""
        ...

    async def revoke(self, fingerprint: str, by: str) -> None:
        """Ends the agent's session and refuses its key. Idempotent. `Rejected` WF604 (404) for an unknown key."""
        ...


class RepositoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One watched repository: what was fetched, tried and applied, and what is wrong with it."""

    name: str
    #: Without a password.
    url: str
    refs: tuple[str, ...] = ()
    fetched_at: int | None = None
    revision_fetched: str | None = None
    revision_attempted: str | None = None
    revision_applied: str | None = None
    is_ready: bool
    #: One sentence about the state, the same in the CLI, the API and the UI.
    text: str = ""
    conditions: tuple[Condition, ...] = ()


class DefinitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that a repository holds."""

    #: Path in the repository: the workflow's identity.
    path: str
    name: str
    repository: str
    revision: str
    description: str = ""
    #: `push`, `change`, `dispatch`, `schedule`, `webhook`, `workflow_run`.
    triggers: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()
    #: False when the newest file has errors; the last good version stays known but is not started.
    is_ready: bool = True
    text: str = ""
    errors: tuple[Diagnostic, ...] = ()


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a workflow: when it comes, and what became of it last. Instants are ms in UTC."""

    path: str
    #: The workflow's.
    name: str
    repository: str
    ref: str
    revision: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up: CatchUp
    #: The next instant that is not decided yet; None when the calendar has no more.
    next_at: int | None = None
    #: Instants that have come and wait for an open run.
    waiting: tuple[int, ...] = ()
    last_due_at: int | None = None
    last_outcome: ScheduleOutcome | None = None
    #: The run that it started last.
    last_run: RunId | None = None
    #: One sentence.
    text: str = ""


class DefinitionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is started when somebody starts a definition."""

    plan: bytes
    repository: str
    revision: str
    ref: str | None = None
    #: The commit's facts for the `git` context.
    git: dict[str, Any] = {}


class RepositoryAdmin(Protocol):
    """What is known from the repositories."""

    def status(self) -> Sequence[RepositoryRow]:
        """All repositories of the configuration, in its order."""
        ...

    def definitions(self) -> Sequence[DefinitionRow]:
        """All workflows known from the default ref of each repository, by path."""
        ...

    def schedules(self, name: str | None) -> Sequence[ScheduleRow]:
        """The schedules of each repository's default ref, by path, or those of one workflow (by path or name)."""
        ...

    def plan(self, path: str, repository: str | None) -> DefinitionPlan:
        """The plan of a definition. `Rejected` WF604 (404) for an unknown path, another code (409) when it is not ready."""
        ...

    async def sync(self, name: str, *, is_awaited: bool) -> RepositoryRow:
        """Fetches now; with `is_awaited` returns when it is applied. `Rejected` WF604 (404) for an unknown name."""
        ...

    async def suspend(self, name: str, by: str) -> RepositoryRow:
        """Stops looking at a repository until `resume`. Idempotent. `Rejected` WF604 (404) for an unknown name."""
        ...

    async def resume(self, name: str, by: str) -> RepositoryRow:
        """Looks at a repository again, at once. Idempotent. `Rejected` WF604 (404) for an unknown name."""
        ...


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a webhook whose signature is right."""

    #: The webhook's.
    name: str
    #: The workflow that it starts.
    path: str
    repository: str
    delivery: Delivery


class WebhookService(Protocol):
    """Webhooks of the workflows of all repositories."""

    def verify(self, name: str, headers: Mapping[str, str], body: bytes) -> WebhookRequest | None:
        """The request, when its signature is right; None for a wrong one and for an unknown hook, after the same work.

        Names of headers are in small letters. `Rejected` 400 for a genuine request whose delivery has no proper id.
        """
        ...

    async def start(self, request: WebhookRequest, payload: Any) -> tuple[RunSummary, bool]:
        """The run of the delivery, and whether it is new. `Rejected` 409 when the workflow cannot be started now."""
        ...


class RunReader(Protocol):
    """Runs as the durable log tells them."""

    def run(self, run: RunId) -> Run | None:
        """The run as of its newest durable event; None when there is none. Read it before the next `await`."""
        ...

    def run_at(self, run: RunId, position: int) -> Run | None:
        """The run after its first `position` events: time travel. Read it before the next `await`."""
        ...

    def stalled(self) -> Mapping[RunId, str]:
        """Runs that cannot go on until a person looks at them, and why."""
        ...

    def read_only_text(self) -> str | None:
        """Why nothing can be started now (disk pressure), or None."""
        ...


class MetricsReader(Protocol):
    """The values of the metrics."""

    def samples(self) -> Iterable[Sample]:
        """All current values, of metrics in `METRICS` only. Does not block."""
        ...
