"""What the API is built on: ports, the administration services, and the settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.registry import Access
from waterflowd.admin.ports import AgentAdmin, MetricsReader, RepositoryAdmin, RunReader, WebhookRequest, WebhookService
from waterflowd.model.records import RunSummary
from waterflowd.ports import Clock, Compiler, Feed, Log, OutputLogs, Runs


class _NoWebhooks:
    """A daemon without webhooks."""

    def verify(self, name: str, headers: Mapping[str, str], body: bytes) -> WebhookRequest | None:
        """Nobody has signed anything."""
        return None

    async def start(self, request: WebhookRequest, payload: Any) -> tuple[RunSummary, bool]:
        """Nothing comes this far."""
        raise Rejected("WF604", "there is no such webhook", status=404)


@dataclass(kw_only=True)
class Services:
    """All that the API needs."""

    log: Log
    outputs: OutputLogs
    runs: Runs
    feed: Feed
    compiler: Compiler
    reader: RunReader
    agents: AgentAdmin
    repositories: RepositoryAdmin
    clock: Clock
    access: Access
    metrics: MetricsReader
    version: str
    #: When the daemon came up, ms.
    started_at: int
    webhooks: WebhookService = field(default_factory=_NoWebhooks)
    #: Who may do what on the unix socket.
    peers: PeerRoles = field(default_factory=PeerRoles)
    #: Requests a second of one principal, or of one address without one; 0 for no bound.
    requests_per_s: int = 200
    #: No token is needed on TCP.
    is_open: bool = False
    #: The TCP address as configured, `host:port`; None without TCP.
    listen: str | None = None
    #: Names that `Host` may hold beside loopback names and the listen address.
    hosts: frozenset[str] = field(default_factory=frozenset)
