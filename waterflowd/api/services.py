"""What the API is built on: ports, the administration services, and its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import AuditTrail
from waterflowd.access.browser_sessions import BrowserSessions
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.token_admin import TokenAdmin
from waterflowd.access.tokens import TokenRegistry
from waterflowd.admin.ports import (
    AgentAdmin,
    AuditAdmin,
    AuditExportRow,
    ConfigurationReloader,
    MetricsReader,
    NoticeAdmin,
    PayloadDecoder,
    RepositoryAdmin,
    RepositoryChanger,
    RetentionAdmin,
    RevisionReader,
    RunReader,
    WebhookRequest,
    WebhookService,
)
from waterflowd.artifacts.caches.admin import CacheAdmin
from waterflowd.artifacts.deletion import ArtifactDeleter
from waterflowd.artifacts.limits import ArtifactUsage
from waterflowd.artifacts.reading import ArtifactReader
from waterflowd.model.records import RunSummary
from waterflowd.ports import Clock, Compiler, Feed, History, OutputLogs, Runs, StreamWriter
from waterflowd.time_slices import TimeSlices
from waterflowd.web.files import WebFiles


class _NoWebhooks:
    """The webhook service of a daemon without webhooks."""

    def verify(self, name: str, headers: Mapping[str, str], body: bytes) -> WebhookRequest | None:
        """No signature is valid."""
        return None

    async def start(self, request: WebhookRequest, payload: Any) -> tuple[RunSummary, bool]:
        """Never called, because no request is verified."""
        raise Rejected("WF604", "webhook not found", status=404)


class _SealedTrail:
    """The audit trail of a daemon that exports nothing."""

    is_sealed = True

    def exports(self) -> Sequence[AuditExportRow]:
        """There are none."""
        return ()


@dataclass(kw_only=True)
class Services:
    """Everything that the API needs."""

    history: History
    #: Increases with each start or restore.
    generation: int
    outputs: OutputLogs
    runs: Runs
    compiler: Compiler
    #: Compiles files that are only validated: in a separate process, so that they never delay runs.
    validator: Compiler
    reader: RunReader
    agents: AgentAdmin
    repositories: RepositoryAdmin
    clock: Clock
    tokens: TokenRegistry
    #: Records tokens, and applies them to `tokens`.
    token_writer: StreamWriter
    #: Why tokens are not accepted at the moment: a revocation might not be known here. Empty if they are.
    blind: Callable[[], str] = lambda: ""
    metrics: MetricsReader
    version: str
    #: When the daemon started, in ms.
    started_at: int
    #: None for an engine without a common order of all events.
    feed: Feed | None = None
    webhooks: WebhookService = field(default_factory=_NoWebhooks)
    #: Commits and files, to compare runs; None without repositories.
    revisions: RevisionReader | None = None
    #: None for an engine that several daemons share: each has its repositories in its configuration.
    repository_changes: RepositoryChanger | None = None
    #: Opens what Temporal stores; None without a cluster.
    payloads: PayloadDecoder | None = None
    #: The origin of Temporal's web pages, such as `https://temporal.internal`; they may use the route for payloads.
    temporal_ui: str = ""
    #: What jobs may use, for answers to requests that start nothing; the engine checks what it starts.
    access: AccessPolicy = field(default_factory=AccessPolicy)
    #: None for an engine that keeps its runs elsewhere.
    retention: RetentionAdmin | None = None
    #: None for an engine that several daemons share.
    artifacts: ArtifactReader | None = None
    #: The same.
    caches: CacheAdmin | None = None
    artifact_deleter: ArtifactDeleter | None = None
    #: The space that all artifacts take.
    artifact_usage: Callable[[], ArtifactUsage] | None = None
    #: None for an engine without a common order of all events.
    notices: NoticeAdmin | None = None
    #: None where the configuration cannot be read again.
    reloader: ConfigurationReloader | None = None
    audit_admin: AuditAdmin = field(default_factory=_SealedTrail)
    #: Roles on the unix socket.
    peers: PeerRoles = field(default_factory=PeerRoles)
    #: How long a server may be away until its steps are lost, in ms.
    lost_after_ms: int = 600_000
    #: Requests per second of one principal, or of one address without one; 0 for no limit.
    requests_per_s: int = 200
    #: Whether requests on TCP need no token.
    is_open: bool = False
    #: The TCP address as configured, `host:port`; None without TCP.
    listen: str | None = None
    #: The address at which users reach the API, such as `https://waterflow.internal`; empty: that of `listen`.
    api_url: str = ""
    #: Fingerprint of the server's key, which tells the cookies of several daemons on one host apart.
    fingerprint: str = ""
    #: The web pages; None leaves them out.
    web: WebFiles | None = None
    #: For answers that grow with the size of a run.
    time_slices: TimeSlices = field(default_factory=TimeSlices)
    #: Whether the daemon's own work is under way, for which clients of the API have to leave time.
    is_busy: Callable[[], bool] = lambda: False
    audit: AuditTrail = field(init=False)
    token_admin: TokenAdmin = field(init=False)
    sessions: BrowserSessions = field(init=False)

    def __post_init__(self) -> None:
        self.audit = AuditTrail(self.runs, self.clock)
        self.token_admin = TokenAdmin(self.tokens, self.token_writer, self.clock)
        self.sessions = BrowserSessions(self.tokens, self.runs, self.clock, self.peers)
