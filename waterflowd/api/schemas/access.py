"""API tokens and the audit trail."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from waterflowd.access import events
from waterflowd.access.roles import Role
from waterflowd.access.tokens import Token, TokenRegistry, is_session_id
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.model.records import Record

#: Checked by the route, which names the roles in its error.
_RoleName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": [role.value for role in Role]})]


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """An API token to create. With `groups` it may only start and stop work of these groups.

    `ttl` is a duration such as `30d`, or seconds; the default is 90 days.
    """

    role: _RoleName
    name: str | None = None
    groups: list[str] = []
    ttl: str | int | None = None


class TokenSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An API token without its secret.

    The session of a browser has a `parent`: the id of the token with which somebody signed in, or `uid:N`.
    """

    id: str
    name: str
    role: Role
    groups: tuple[str, ...]
    status: Literal["valid", "expired", "revoked"]
    created_at: Timestamp | None
    created_by: str
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    used_at: Timestamp | None
    parent: str | None

    @classmethod
    def of(cls, token: Token, now: int) -> TokenSchema:
        """The token as it is now."""
        return cls(
            id=token.id,
            name=token.name,
            role=token.role,
            groups=token.groups,
            status="revoked" if token.revoked_at is not None else "valid" if token.is_valid(now) else "expired",
            created_at=timestamp(token.created_at),
            created_by=token.created_by,
            expires_at=timestamp(token.ends_at),
            revoked_at=timestamp(token.revoked_at),
            used_at=timestamp(token.used_at),
            parent=token.parent,
        )


class NewTokenSchema(TokenSchema, frozen=True, kw_only=True):
    """A new API token. `secret` is shown only once."""

    secret: str

    @classmethod
    def of_new(cls, token: Token, secret: str) -> NewTokenSchema:
        """The token with its secret."""
        return cls(
            id=token.id,
            name=token.name,
            role=token.role,
            groups=token.groups,
            status="valid",
            created_at=timestamp(token.created_at),
            created_by=token.created_by,
            expires_at=timestamp(token.expires_at),
            revoked_at=None,
            used_at=None,
            parent=None,
            secret=secret,
        )


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of API tokens."""

    tokens: list[TokenSchema]
    next: str | None


# Sessions of browsers -------------------------------------------------------------------------------------------------

#: How the author of a request is known.
Way = Literal["session", "token", "socket", "open"]


class SignInBody(msgspec.Struct, forbid_unknown_fields=True):
    """What proves who signs in: an API token, or the code of a link."""

    token: str | None = None
    code: str | None = None


class SessionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends the requests, with which role and groups, and how they are known."""

    by: str
    role: Role
    groups: tuple[str, ...]
    way: Way
    #: When it ends unless it is used again.
    expires_at: Timestamp | None


class SessionLinkSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An address that signs a browser in: for one use, within a minute."""

    url: str
    expires_at: Timestamp | None


# The audit trail ------------------------------------------------------------------------------------------------------


class AuditSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit trail: an action, a use of secrets, a session of an agent, or a rejected request or connection."""

    seq: int
    at: Timestamp | None
    by: str
    what: str
    target: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, record: Record, tokens: TokenRegistry) -> AuditSchema:
        """The entry of a record of the `audit` stream."""
        event: events.Fact = record.event
        facts: dict[str, Any]
        match event:
            case events.TokenCreated():
                what, target = "create-token" if event.parent is None else "begin-session", event.name
                expires_at = timestamp(event.expires_at)
                facts = {"token": event.token, "role": event.role, "groups": event.groups, "expires_at": expires_at}
                if event.parent is not None:
                    facts["parent"] = event.parent
            case events.TokenRevoked():
                token = tokens.find(event.token)
                what = "end-session" if is_session_id(event.token) else "revoke-token"
                target, facts = token.name if token else event.token, {"token": event.token}
            case events.AccessRefused():
                what, target = "refused", event.target
                facts = {"door": event.door, "code": event.code, "left_out": event.left_out}
            case events.SecretsUsed():
                what, target = "use-secrets", f"run {event.run}"
                facts = {
                    "secrets": list(event.names),
                    "part": event.part,
                    "attempt": event.attempt,
                    "server": event.server,
                    "agent": event.agent,
                }
            case events.AgentSession():
                what, target = f"agent-{event.what}", event.detail
                facts = {"left_out": event.left_out}
            case events.ActionTaken():
                what, target, facts = event.what, event.target, event.facts
        return cls(seq=record.position, at=timestamp(event.at), by=event.by, what=what, target=target, facts=facts)


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the audit trail."""

    audit: list[AuditSchema]
    next: str | None
