"""The services behind the API: their protocols, and the rows that they return.

Rules of this file: Protocols and rows only. Unless a line says otherwise, the methods are called on the event loop's thread,
do not block, and what they change is durable when they return. They raise the errors of `waterflow_agent.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from waterflow_agent.wire.messages import DockerEngine, OwnNode
from waterflowd.access.repository_quotas import QuotaUse
from waterflowd.admin.metric_samples import Sample
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.engine.state.runs import Run
from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import CatchUp, InputSpec, Overlap
from waterflowd.model.records import RemovedOutput, RemovedRun, RunSummary
from waterflowd.reconcile.conditions import Condition
from waterflowd.reconcile.events import ScheduleOutcome
from waterflowd.reconcile.webhooks import Delivery


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of an approved agent."""

    fingerprint: str
    name: str
    groups: tuple[str, ...]
    is_connected: bool
    #: One sentence, such as `connected` or `silent for 42 s`.
    text: str
    #: When it was last heard from, in ms; None if never.
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
    #: None if it has not said whether it has an engine.
    docker: DockerEngine | None = None
    #: When its boot last changed, in ms; None if it has not.
    boot_changed_at: int | None = None
    #: What a person has to look at, one sentence; "" for nothing.
    alarm: str = ""
    #: Since when it starts no new jobs (ms), and who decided that; None if it does.
    drained_at: int | None = None
    drained_by: str = ""
    #: It is draining, and nothing is left that it has started.
    is_drained: bool = False
    #: It was enrolled a moment ago, and is about to connect for the first time.
    is_new: bool = False
    #: Jobs that have started on it and have not ended, as far as this daemon knows.
    jobs: tuple[tuple[RunId, JobId], ...] = ()
    #: It is not connected here, but may be to another daemon, which then knows its work.
    is_elsewhere: bool = False


class RevokedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a former agent, which is refused until it is approved again, or forgotten."""

    fingerprint: str
    #: "" if it is not known.
    name: str
    revoked_at: int
    revoked_by: str


class PendingRow(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that waits for approval."""

    fingerprint: str
    name: str
    #: The groups that it requested.
    groups: tuple[str, ...]
    hostname: str
    requested_at: int


class JoinTokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """A join token without its secret. Times are in ms."""

    id: str
    groups: tuple[str, ...]
    #: How many agents it may enroll (None: any number), and how many it has enrolled.
    uses: int | None
    used: int
    created_at: int
    created_by: str
    expires_at: int
    revoked_at: int | None = None


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent needs to know of this daemon to enroll without a token."""

    #: The public key (Z85), for the agent's `server-key`.
    key: str
    fingerprint: str
    #: The addresses, as `tcp://host:port`.
    work: str
    enroll: str


class AgentAdmin(Protocol):
    """Administration of agents, pending agents and join tokens."""

    def rows(self) -> Sequence[AgentRow]:
        """All approved agents, by name."""
        ...

    def pending(self) -> Sequence[PendingRow]:
        """Agents that wait for approval, oldest first; bounded."""
        ...

    def revoked(self) -> Sequence[RevokedRow]:
        """Revoked keys, by name."""
        ...

    def server(self) -> ServerRow:
        """The addresses and the key of this daemon."""
        ...

    async def create_token(self, groups: Sequence[str], ttl_ms: int, uses: int | None, by: str) -> tuple[str, str]:
        """A new join token: its id, and one line with the server's key and address. `uses` None means any number."""
        ...

    def tokens(self) -> Sequence[JoinTokenRow]:
        """All join tokens, oldest first, including those that are no longer valid."""
        ...

    async def revoke_token(self, token_id: str, by: str) -> JoinTokenRow:
        """The token enrolls no more agents. Idempotent. `Rejected` WF604 (404) for an unknown id."""
        ...

    async def approve(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """Approves a pending agent, or changes its groups. Idempotent. `Rejected` WF604 (404) for an unknown key."""
        ...

    async def accept(self, fingerprint: str, by: str) -> AgentRow:
        """Lets the refused server have the agent's key. `Rejected` WF606 (409) if there is none, or the agent is connected."""
        ...

    async def revoke(self, fingerprint: str, by: str) -> None:
        """Ends the agent's session and refuses its key. Idempotent. `Rejected` WF604 (404) for an unknown key."""
        ...

    async def drain(self, fingerprint: str, by: str) -> AgentRow:
        """The agent starts no new jobs. Idempotent. `Rejected` WF227 (404) for an unknown agent, also for the following."""
        ...

    async def undrain(self, fingerprint: str, by: str) -> AgentRow:
        """The agent starts new jobs again. Idempotent."""
        ...

    async def set_groups(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """The agent is in these groups, and in no others. Idempotent. `Rejected` WF225 for invalid groups."""
        ...

    async def remove(self, fingerprint: str, by: str) -> None:
        """Forgets an agent, or a revoked key. `Rejected` WF228 (409) while the agent may still work."""
        ...


class RepositoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A watched repository: the fetched, attempted and applied revision, and its conditions."""

    name: str
    #: Without credentials.
    url: str
    #: Patterns of the groups that its workflows may use.
    groups: tuple[str, ...] = ("*",)
    #: Patterns of the repositories whose jobs may read its files.
    readable_by: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    fetched_at: int | None = None
    revision_fetched: str | None = None
    revision_attempted: str | None = None
    revision_applied: str | None = None
    is_ready: bool
    #: One sentence about the state.
    text: str = ""
    conditions: tuple[Condition, ...] = ()
    quotas: tuple[QuotaUse, ...] = ()
    #: Whether it was added through the API; otherwise it is in the configuration.
    is_added: bool = False


class RepositoryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a repository as a client gives them. None: the default, or for a change what it is now."""

    url: str | None = None
    refs: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    interval_ms: int | None = None
    groups: tuple[str, ...] | None = None
    webhook_keys: tuple[str, ...] | None = None
    readable_by: tuple[str, ...] | None = None
    credentials_file: str | None = None
    ssh_key_file: str | None = None
    known_hosts_file: str | None = None
    ca_file: str | None = None
    fetch_timeout_ms: int | None = None
    fetch_bytes_max: int | None = None
    runs_per_hour: int | None = None
    output_bytes_per_hour: int | None = None


class DefinitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow of a repository."""

    #: Path in the repository: the workflow's identity.
    path: str
    name: str
    repository: str
    revision: str
    description: str = ""
    #: `push`, `change`, `dispatch`, `schedule`, `webhook`, `workflow_run`.
    triggers: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()
    #: False if the newest version has errors; nothing is started then.
    is_ready: bool = True
    text: str = ""
    errors: tuple[Diagnostic, ...] = ()


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a workflow: when it is due, and its last decision. Times are ms in UTC."""

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
    #: The next due time that is not decided yet; None if there is none.
    next_at: int | None = None
    #: Due times that are queued until the open run ends.
    waiting: tuple[int, ...] = ()
    last_due_at: int | None = None
    last_outcome: ScheduleOutcome | None = None
    #: The run that it started last.
    last_run: RunId | None = None
    #: One sentence.
    text: str = ""


class DefinitionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a definition, ready to be started."""

    plan: bytes
    repository: str
    revision: str
    ref: str | None = None
    #: The `git` context.
    git: dict[str, Any] = {}


class RepositoryAdmin(Protocol):
    """Administration of repositories, and the workflows and schedules that they define."""

    def status(self) -> Sequence[RepositoryRow]:
        """All repositories of the configuration, in its order."""
        ...

    def shared_quotas(self) -> Sequence[QuotaUse]:
        """The quotas that all workflows sent to the API share."""
        ...

    async def definitions(self) -> Sequence[DefinitionRow]:
        """The workflows of the default ref of each repository, by path."""
        ...

    async def schedules(self, name: str | None) -> Sequence[ScheduleRow]:
        """The schedules of each repository's default ref, by path, or those of one workflow (by path or name)."""
        ...

    async def plan(self, path: str, repository: str | None) -> DefinitionPlan:
        """The plan of a definition. `Rejected` WF604 (404) for an unknown path, another code (409) if it is not ready."""
        ...

    async def sync(self, name: str, *, is_awaited: bool) -> RepositoryRow:
        """Fetches now; with `is_awaited` returns when the result is applied. `Rejected` WF604 (404) for an unknown name."""
        ...

    async def suspend(self, name: str, by: str) -> RepositoryRow:
        """Ignores pushes to a repository until `resume`. Idempotent. `Rejected` WF604 (404) for an unknown name."""
        ...

    async def resume(self, name: str, by: str) -> RepositoryRow:
        """Ends a suspension and fetches at once. Idempotent. `Rejected` WF604 (404) for an unknown name."""
        ...


class RepositoryChanger(Protocol):
    """Adds, changes and removes repositories while the daemon runs; those of the configuration are changed only there.

    All methods raise `Rejected` WF606 (409) for a repository of the configuration, with the place in the file.
    """

    async def add(self, name: str, request: RepositoryRequest, by: str) -> RepositoryRow:
        """Watches one more repository. Repeating it changes nothing; `Rejected` WF606 (409) with other settings."""
        ...

    async def change(self, name: str, request: RepositoryRequest, by: str) -> RepositoryRow:
        """Changes settings. Idempotent. `Rejected` WF604 (404) for an unknown name."""
        ...

    async def remove(self, name: str, by: str, *, is_forced: bool) -> int:
        """Removes a repository; returns how many open runs it cancelled.

        `Rejected` WF604 (404) for an unknown name, WF606 (409) for one with open runs unless `is_forced`.
        """
        ...


class NoticeChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A channel for notices, and how its deliveries go. Holds no address of a webhook."""

    name: str
    #: How it sends, for people.
    way: str
    kinds: tuple[str, ...]
    #: The repository whose file has it; None: it is in the configuration.
    repository: str | None
    waiting: int
    #: The last success, in ms; None for none.
    sent_at: int | None
    #: Why the last delivery failed; empty after a success.
    failure: str
    #: Whether a message was given up or has failed several times, and none was sent since.
    keeps_failing: bool


class NoticeTest(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a test notice. `failure` is empty if the channel took it."""

    channel: str
    failure: str


class NoticeAdmin(Protocol):
    """The channels for notices."""

    async def rows(self) -> tuple[Sequence[NoticeChannelRow], dict[str, str]]:
        """All channels, and the mistakes in the files of repositories, by repository."""
        ...

    def own_rows(self) -> Sequence[NoticeChannelRow]:
        """The channels of the configuration: those of repositories are no problem of the daemon."""
        ...

    async def test(self, name: str | None) -> Sequence[NoticeTest]:
        """Sends a test notice to one channel, or to all. `Rejected` WF604 (404) for an unknown one."""
        ...


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the configuration that differs from what the daemon runs with."""

    key: str
    #: `added`, `changed` or `removed`.
    change: str
    #: False if it needs a restart.
    is_applied: bool


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload of the configuration has found."""

    #: The file.
    source: str
    changes: tuple[KeyChange, ...] = ()

    @property
    def applied(self) -> list[str]:
        """The keys that are in effect now."""
        return [change.key for change in self.changes if change.is_applied]

    @property
    def needs_restart(self) -> list[str]:
        """The keys that take effect with the next start."""
        return [change.key for change in self.changes if not change.is_applied]


class ConfigurationReloader(Protocol):
    """Reads the configuration again."""

    async def reload(self) -> Reloaded:
        """Applies what can be applied. `Rejected` WF620 for a configuration with an error, of which nothing is applied."""
        ...


class CommitRow(msgspec.Struct, frozen=True, kw_only=True):
    """A commit; its author and the first line of its message are text that anyone who may push can forge."""

    id: str
    author: str
    subject: str


class RetentionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule of `[retention]` would remove of a workflow."""

    rule: str
    repository: str | None
    path: str
    #: Runs to remove, or to remove the output of.
    runs: int
    events: int
    #: About, from the size of some of them.
    bytes: int


class RetentionAdmin(Protocol):
    """Retention: its rules, what they would remove, and what they have removed."""

    @property
    def rules(self) -> dict[str, int]:
        """The rules that are set, by key: milliseconds, counts and bytes."""
        ...

    @property
    def progress(self) -> dict[str, int | bool | None]:
        """What was removed since the daemon started: `runs`, `outputs`, `events`, `bytes`, ..."""
        ...

    async def preview(self) -> list[RetentionRow]:
        """What would be removed now, the most runs first. Looks at all runs, so it takes seconds with very many."""
        ...

    def start_now(self, by: str) -> None:
        """Removes it as soon as possible, in the name of a principal."""
        ...

    def removed_run(self, run: RunId) -> RemovedRun | None:
        """What is remembered of a removed run; None if it was not removed, or is no longer remembered."""
        ...

    async def removed_runs(self, name: str, number: int) -> list[RemovedRun]:
        """Removed runs with this number, of workflows with this name or path."""
        ...

    def removed_output(self, run: RunId) -> RemovedOutput | None:
        """When and why the output of a run was removed; None if it was not."""
        ...


class RevisionReader(Protocol):
    """Commits of the repositories of the configuration. Methods raise `Retryable` for what cannot be read."""

    async def commits(self, repository: str, newest: str, oldest: str) -> tuple[list[CommitRow], bool] | None:
        """The commits after `oldest` up to `newest`, newest first, along first parents; and whether there are more.

        None if `oldest` is not among them, or the repository is not configured.
        """
        ...

    async def file(self, repository: str, revision: str, path: str) -> bytes | None:
        """The content of a file of a commit; None if there is none."""
        ...


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a webhook with a valid signature."""

    #: The name of the webhook.
    name: str
    #: The path of the workflow that it starts.
    path: str
    repository: str
    delivery: Delivery


class WebhookService(Protocol):
    """The webhooks of all repositories."""

    def verify(self, name: str, headers: Mapping[str, str], body: bytes) -> WebhookRequest | None:
        """The request if its signature is valid; None for an invalid one and for an unknown webhook, after the same work.

        Header names are in lower case. `Rejected` 400 for a genuine request with an invalid delivery id.
        """
        ...

    async def start(self, request: WebhookRequest, payload: Any) -> tuple[RunSummary, bool]:
        """The run of the delivery, and whether it is new. `Rejected` 409 if the workflow cannot be started now."""
        ...


class AuditExportRow(msgspec.Struct, frozen=True, kw_only=True):
    """A destination that every record of the audit trail is sent to."""

    #: `file` or `syslog`.
    name: str
    #: Records that it has not received yet.
    waiting: int
    #: Why the last record could not be delivered; "" if it was, or was not tried yet.
    failure: str = ""


class AuditAdmin(Protocol):
    """How the audit trail is protected."""

    @property
    def is_sealed(self) -> bool:
        """Whether a key seals its records."""
        ...

    def exports(self) -> Sequence[AuditExportRow]:
        """The destinations of the export."""
        ...


class RunReader(Protocol):
    """The state of runs, by the durable history."""

    async def run(self, run: RunId, at: int | None = None) -> Run | None:
        """The run after its newest durable event, or after its first `at` events; None if there is none.

        `Retryable` while it cannot be read. Read it before the next `await`, after which it may change.
        """
        ...

    def stalled(self) -> Mapping[RunId, str]:
        """Runs that are stalled until a person intervenes, and the reasons."""
        ...

    def read_only_text(self) -> str | None:
        """Why no run can be started now (disk almost full), or None."""
        ...


class MetricsReader(Protocol):
    """The values of the metrics."""

    def samples(self) -> Iterable[Sample]:
        """All current values, of metrics in `METRICS` only. Does not block."""
        ...


class SealedPayload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One value as Temporal stores it, or as it is shown; bytes are base64 in JSON. Other fields are ignored."""

    metadata: dict[str, bytes] = {}
    data: bytes = b""


class DecodedPayloads(msgspec.Struct, frozen=True, kw_only=True):
    """Payloads for people, as many and in the same order as the sealed ones."""

    #: The streams that they belong to, as the seals confirm.
    streams: frozenset[str]
    payloads: Sequence[SealedPayload]


class PayloadDecoder(Protocol):
    """Opens what Temporal stores."""

    async def decode(self, payloads: Sequence[SealedPayload]) -> DecodedPayloads:
        """The content of each payload as JSON. One that is not sealed is unchanged; one that does not open is the reason."""
        ...
