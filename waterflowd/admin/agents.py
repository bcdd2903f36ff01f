"""Administration of agents: who they are, approval, revocation and join tokens."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflow_agent import join_token, keys
from waterflow_agent.clock import utc_time
from waterflow_agent.display import escape_for_display
from waterflowd import ports
from waterflowd.admin.ports import AgentRow, JoinTokenRow, PendingRow, RevokedRow, ServerRow
from waterflowd.fleet.placement import Placement, Server
from waterflowd.fleet.registry import Enrolled, JoinToken, Registry
from waterflowd.fleet.server_keys import ServerKey, ends_at
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.identities import AgentIdentities
from waterflowd.host.agents.maintenance import AgentMaintenance
from waterflowd.model.ids import AgentId

#: An agent connects within a second of its enrollment; on a busy machine it may take longer.
_NEW_MS = 30_000


class FleetAgentAdmin:
    """Implements `admin.ports.AgentAdmin`."""

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        enrollment: EnrollmentService,
        identities: AgentIdentities,
        maintenance: AgentMaintenance,
        server_keys: Sequence[ServerKey],
        clock: ports.Clock,
    ) -> None:
        """`server_keys` are the keys of the server, the current one first."""
        self._registry = registry
        self._server_keys = server_keys
        self._clock = clock
        self._identities = identities
        self._maintenance = maintenance
        self._placement = placement
        self._enrollment = enrollment

    def rows(self) -> Sequence[AgentRow]:
        """See the protocol."""
        return [self._row(entry) for entry in sorted(self._registry.agents.values(), key=lambda entry: entry.name)]

    def _row(self, entry: Enrolled) -> AgentRow:
        server = self._placement.servers.get(entry.agent)
        jobs = self._maintenance.jobs.of(entry.agent)
        row = AgentRow(
            fingerprint=entry.agent,
            name=entry.name,
            groups=entry.groups,
            is_connected=False,
            text=_connection(server, entry),
            hostname=entry.hostname,
            boot_changed_at=entry.boot_changed_at or None,
            alarm=self._alarm(entry),
            drained_at=entry.drained_at or None,
            drained_by=entry.drained_by,
            is_new=not entry.installation and self._clock.now() - entry.approved_at < _NEW_MS,
            jobs=tuple(jobs),
            # With several daemons, each sees only its own agents.
            is_elsewhere=bool(self._placement.daemon) and not (server is not None and server.is_connected),
        )
        return _with_progress(row if server is None else _with_server(row, server))

    def _alarm(self, entry: Enrolled) -> str:
        clone = self._identities.refused(entry.agent)
        if clone is None:
            return self._key_alarm(entry)
        host = escape_for_display(clone.hostname, 64) or "unnamed"
        return (
            f"another server ({host}) with its key is refused: it {clone.text}; if it replaces this one: waterflowctl agents "
            f"accept {entry.name}; if not, the key was copied: revoke it and enroll the server again [WF211]"
        )

    def _key_alarm(self, entry: Enrolled) -> str:
        """Says that the agent will be cut off soon, because it has not followed a rotation of the server's key."""
        until = ends_at(entry, self._server_keys, self._clock.now())
        if until is None:
            return ""
        if not until:
            return "it knows only a key of the server that is no longer accepted: enroll it again"
        when = utc_time(until)
        return (
            f"it has not connected since the server's key was rotated, and the old key is accepted until {when}: start it "
            "before then, or enroll it again"
        )

    def pending(self) -> Sequence[PendingRow]:
        """See the protocol."""
        return [
            PendingRow(
                fingerprint=item.agent,
                name=item.name,
                groups=item.groups,
                hostname=item.hostname,
                requested_at=item.requested_at,
            )
            for item in self._enrollment.pending()
        ]

    def revoked(self) -> Sequence[RevokedRow]:
        """See the protocol."""
        found = [
            RevokedRow(fingerprint=key.agent, name=key.name, revoked_at=key.revoked_at, revoked_by=key.revoked_by)
            for key in self._registry.revoked.values()
        ]
        return sorted(found, key=lambda row: (row.name, row.fingerprint))

    def server(self) -> ServerRow:
        """See the protocol."""
        endpoints = self._enrollment.endpoints
        return ServerRow(
            key=endpoints.server_key,
            fingerprint=keys.fingerprint(endpoints.server_key),
            work=endpoints.work,
            enroll=endpoints.enroll,
        )

    async def create_token(self, groups: Sequence[str], ttl_ms: int, uses: int | None, by: str) -> tuple[str, str]:
        """See the protocol."""
        text = await self._enrollment.create_token(tuple(groups), ttl_ms, uses, by)
        return join_token.decode(text).token_id, text

    def tokens(self) -> Sequence[JoinTokenRow]:
        """See the protocol."""
        return [_token_row(token) for token in self._enrollment.tokens()]

    async def revoke_token(self, token_id: str, by: str) -> JoinTokenRow:
        """See the protocol."""
        return _token_row(await self._enrollment.revoke_token(token_id, by))

    async def approve(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """See the protocol."""
        agent = await self._enrollment.approve(fingerprint, tuple(groups), by)
        return self._row(self._registry.agents[agent])

    async def accept(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        agent = AgentId(fingerprint)
        await self._identities.accept(agent, by)
        return self._row(self._registry.agents[agent])

    async def revoke(self, fingerprint: str, by: str) -> None:
        """See the protocol."""
        await self._enrollment.revoke(fingerprint, by)

    async def drain(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        await self._maintenance.drain(AgentId(fingerprint), by)
        return self._row_of(fingerprint)

    async def undrain(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        await self._maintenance.undrain(AgentId(fingerprint), by)
        return self._row_of(fingerprint)

    async def set_groups(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """See the protocol."""
        await self._maintenance.set_groups(AgentId(fingerprint), groups, by)
        return self._row_of(fingerprint)

    async def remove(self, fingerprint: str, by: str) -> None:
        """See the protocol."""
        await self._maintenance.remove(AgentId(fingerprint), by)

    def _row_of(self, fingerprint: str) -> AgentRow:
        """The row of an agent that was just changed. `Rejected` WF227 (404) if it was revoked at the same time."""
        return self._row(self._maintenance.known(AgentId(fingerprint)))


def _token_row(token: JoinToken) -> JoinTokenRow:
    return JoinTokenRow(
        id=token.token,
        groups=token.groups,
        uses=token.uses,
        used=token.used,
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )


def _connection(server: Server | None, entry: Enrolled) -> str:
    if server is None:
        return "not seen since the daemon started" if entry.installation else "enrolled, not connected yet"
    if not server.is_connected:
        return server.text
    return f"connected, but {server.problem}" if server.problem else "connected"


def _with_server(row: AgentRow, server: Server) -> AgentRow:
    """The row with what the agent has said of itself."""
    return msgspec.structs.replace(
        row,
        is_connected=server.is_connected,
        seen_at=server.changed_at or None,
        hostname=server.facts.get("hostname", row.hostname),
        version=server.version,
        os=server.facts.get("os", ""),
        arch=server.facts.get("arch", ""),
        slots=server.slots,
        slots_busy=len(server.taken),
        labels=server.facts.get("labels", {}),
        nodes=tuple(sorted(server.nodes)),
        own_nodes=server.own_nodes,
        docker=server.docker,
    )


def _with_progress(row: AgentRow) -> AgentRow:
    """The row with a text that says how far a draining agent is."""
    if row.drained_at is None:
        return row
    left = max(len(row.jobs), row.slots_busy)
    is_drained = not left and not row.is_elsewhere
    progress = "drained" if is_drained else "draining"
    if left:
        progress += f", {left} {'job' if left == 1 else 'jobs'} left"
    text = progress if row.text == "connected" else f"{progress}; {row.text}"
    return msgspec.structs.replace(row, is_drained=is_drained, text=text)
