"""How things look in JSON: rows of runs, events, agents, repositories; a run with its parts is in run_rendering.py.

Rules of both files: the only places that turn model objects into JSON. Times are RFC 3339 in UTC with milliseconds; a missing
value is null, never a missing key. Secrets' hashes never leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from waterflow_agent.nodes.schema import FROM_REPOSITORY
from waterflowd.access import events
from waterflowd.access.registry import Access, Token
from waterflowd.admin.ports import AgentRow, DefinitionRow, PendingRow, RepositoryRow
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Record, RunSummary, Trigger

#: Fields of facts that stay inside.
_HIDDEN = frozenset({"secret_sha256", "public_key"})
#: The last instant that `datetime` can hold, in ms.
_TIME_MAX = 253_402_300_799_999
#: In UTC, as all that is shown.
_EPOCH = datetime(1970, 1, 1)


def time_text(at: int | None) -> str | None:
    """Milliseconds as `2026-01-02T03:04:05.678Z`."""
    if at is None:
        return None
    bounded = min(max(at, 0), _TIME_MAX)
    return (_EPOCH + timedelta(milliseconds=bounded)).isoformat(timespec="milliseconds") + "Z"


def reason_json(reason: Reason) -> dict[str, Any]:
    """A reason: its code and its sentence, and the facts beside them."""
    return {**reason.facts, "code": reason.code.value, "text": reason.text}


def trigger_json(trigger: Trigger) -> dict[str, Any]:
    """What started a run."""
    return {"kind": trigger.kind, "by": trigger.by, "ref": trigger.ref, "key": trigger.key, "git": trigger.git}


def summary_json(row: RunSummary) -> dict[str, Any]:
    """The row of a run in a list."""
    return {
        "id": row.id,
        "number": row.number,
        "name": row.name,
        "path": row.path,
        "repository": row.repository,
        "revision": row.revision,
        "trigger": trigger_json(row.trigger),
        "rerun_of": row.rerun_of,
        "status": row.status.value,
        "conclusion": row.conclusion.value if row.conclusion is not None else None,
        "reason": reason_json(row.reason),
        "created_at": time_text(row.created_at),
        "started_at": time_text(row.started_at),
        "completed_at": time_text(row.completed_at),
        "seq": row.seq,
        "url": run_url(row.id),
    }


def run_url(run: str) -> str:
    """Where a run is found, as a path."""
    return f"/v1/runs/{run}"


def record_json(record: Record) -> dict[str, Any]:
    """An event where it stands: `seq` is its position in its stream, `log_seq` in the whole log."""
    fields = msgspec.to_builtins(record.event)
    event = {name: _field_json(name, value) for name, value in fields.items() if name not in _HIDDEN}
    return {
        **event,
        "seq": record.position,
        "log_seq": record.seq,
        "stream": record.stream,
        "at": time_text(record.at),
        "type": fields.get("type", ""),
    }


def _field_json(name: str, value: Any) -> Any:
    if name.endswith("_at") and isinstance(value, int):
        return time_text(value)
    if name == "reason" and isinstance(value, dict):
        return {**value.get("facts", {}), "code": value.get("code"), "text": value.get("text")}
    return value


def agent_json(row: AgentRow) -> dict[str, Any]:
    """An approved agent."""
    return {
        "fingerprint": row.fingerprint,
        "name": row.name,
        "status": "connected" if row.is_connected else "disconnected",
        "text": row.text,
        "groups": list(row.groups),
        "seen_at": time_text(row.seen_at),
        "hostname": row.hostname,
        "version": row.version,
        "os": row.os,
        "arch": row.arch,
        "slots": row.slots,
        "slots_busy": row.slots_busy,
        "labels": row.labels,
        "nodes": [name for name in row.nodes if name != FROM_REPOSITORY],
        "own_nodes": [
            {"name": own.name, "origin": own.origin, "version": own.version, "fault": own.fault}
            for own in row.own_nodes
        ],
    }


def pending_json(row: PendingRow) -> dict[str, Any]:
    """A key that waits for approval."""
    return {
        "fingerprint": row.fingerprint,
        "name": row.name,
        "status": "pending",
        "text": f"waits for: waterflowctl agents approve {row.fingerprint} --group GROUP",
        "groups": list(row.groups),
        "hostname": row.hostname,
        "requested_at": time_text(row.requested_at),
    }


def groups_json(rows: Sequence[AgentRow]) -> list[dict[str, Any]]:
    """Groups with what is in them, by name; `all-servers` is every agent."""
    members: dict[str, list[AgentRow]] = {"all-servers": list(rows)} if rows else {}
    for row in rows:
        for group in row.groups:
            members.setdefault(group, []).append(row)
    return [
        {
            "name": name,
            "agents": [row.name for row in found],
            "connected": sum(row.is_connected for row in found),
            "slots": sum(row.slots for row in found if row.is_connected),
            "slots_busy": sum(row.slots_busy for row in found if row.is_connected),
        }
        for name, found in sorted(members.items())
    ]


def repository_json(row: RepositoryRow) -> dict[str, Any]:
    """A watched repository."""
    return {
        "name": row.name,
        "url": row.url,
        "refs": list(row.refs),
        "status": "ready" if row.is_ready else "degraded",
        "text": row.text,
        "fetched_at": time_text(row.fetched_at),
        "revision_fetched": row.revision_fetched,
        "revision_attempted": row.revision_attempted,
        "revision_applied": row.revision_applied,
        "conditions": [
            {name: _field_json(f"{name}_at" if name == "at" else name, value) for name, value in condition.items()}
            for condition in row.conditions
        ],
    }


def definition_json(row: DefinitionRow) -> dict[str, Any]:
    """A workflow known from a repository."""
    return {
        "path": row.path,
        "name": row.name,
        "repository": row.repository,
        "revision": row.revision,
        "description": row.description,
        "status": "ready" if row.is_ready else "broken",
        "text": row.text,
        "triggers": list(row.triggers),
        "inputs": [
            {
                "name": spec.name,
                "type": spec.type.value,
                "description": spec.description,
                "required": spec.required,
                "default": spec.default,
                "options": list(spec.options),
                "pattern": spec.pattern,
            }
            for spec in row.inputs
        ],
        "errors": list(row.errors),
    }


def audit_json(record: Record, access: Access) -> dict[str, Any]:
    """A record of the audit trail: who, what, to what, and when."""
    fact = record.event
    row: dict[str, Any] = {"seq": record.position, "at": time_text(fact.at), "by": fact.by}
    match fact:
        case events.TokenCreated():
            groups, expires_at = list(fact.groups), time_text(fact.expires_at)
            made = {"token": fact.token, "role": fact.role, "groups": groups, "expires_at": expires_at}
            return {**row, "what": "create-token", "target": fact.name, "facts": made}
        case events.TokenRevoked():
            known = access.find(fact.token)
            target = known.name if known is not None else fact.token
            return {**row, "what": "revoke-token", "target": target, "facts": {"token": fact.token}}
        case events.AccessRefused():
            facts = {"door": fact.door, "code": fact.code, "left_out": fact.left_out}
            return {**row, "what": "refused", "target": fact.target, "facts": facts}
        case _:
            return {**row, "what": fact.what, "target": fact.target, "facts": fact.facts}


def token_json(token: Token, now: int) -> dict[str, Any]:
    """An API token, without its secret."""
    if token.revoked_at is not None:
        status = "revoked"
    else:
        status = "valid" if token.is_valid(now) else "expired"
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.word,
        "groups": list(token.groups),
        "status": status,
        "created_at": time_text(token.created_at),
        "created_by": token.created_by,
        "expires_at": time_text(token.expires_at),
        "revoked_at": time_text(token.revoked_at),
        "used_at": time_text(token.used_at),
    }
