"""Administration of agents: who they are, approval, revocation and join tokens."""

from __future__ import annotations

from collections.abc import Sequence

from waterflow_agent import join_token, keys
from waterflow_agent.clock import utc_time
from waterflow_agent.display import escape_for_display
from waterflowd import ports
from waterflowd.admin.ports import AgentRow, JoinTokenRow, PendingRow, ServerRow
from waterflowd.fleet.placement import Placement, Server
from waterflowd.fleet.registry import Enrolled, JoinToken, Registry
from waterflowd.fleet.server_keys import ServerKey, ends_at
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.identities import AgentIdentities
from waterflowd.model.ids import AgentId


class FleetAgentAdmin:
    """Implements `admin.ports.AgentAdmin`."""

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        enrollment: EnrollmentService,
        identities: AgentIdentities,
        server_keys: Sequence[ServerKey],
        clock: ports.Clock,
    ) -> None:
        """`server_keys` are the keys of the server, the current one first."""
        self._registry = registry
        self._server_keys = server_keys
        self._clock = clock
        self._identities = identities
        self._placement = placement
        self._enrollment = enrollment

    def rows(self) -> Sequence[AgentRow]:
        """See the protocol."""
        return [self._row(entry) for entry in sorted(self._registry.agents.values(), key=lambda entry: entry.name)]

    def _row(self, entry: Enrolled) -> AgentRow:
        server = self._placement.servers.get(entry.agent)
        if server is None:
            text = "not seen since the daemon started"
            return AgentRow(
                fingerprint=entry.agent,
                name=entry.name,
                groups=entry.groups,
                is_connected=False,
                text=text,
                hostname=entry.hostname,
                boot_changed_at=entry.boot_changed_at or None,
                alarm=self._alarm(entry),
            )
        return AgentRow(
            fingerprint=entry.agent,
            name=entry.name,
            groups=entry.groups,
            is_connected=server.is_connected,
            text=_text(server),
            seen_at=server.changed_at or None,
            hostname=server.facts.get("hostname", entry.hostname),
            version=server.version,
            os=server.facts.get("os", ""),
            arch=server.facts.get("arch", ""),
            slots=server.slots,
            slots_busy=len(server.taken),
            labels=server.facts.get("labels", {}),
            nodes=tuple(sorted(server.nodes)),
            own_nodes=server.own_nodes,
            boot_changed_at=entry.boot_changed_at or None,
            alarm=self._alarm(entry),
        )

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


def _text(server: Server) -> str:
    if not server.is_connected:
        return server.text
    return f"connected, but {server.problem}" if server.problem else "connected"
