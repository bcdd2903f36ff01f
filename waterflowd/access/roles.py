"""Roles, and what the groups of a token permit.

Rules of this file: pure. What each role permits is a table (`_INCLUDES`); `operator` is not part of the ladder from viewer to
approver, because those who approve runs must not enroll servers too. A token may be restricted to groups. It then starts and
stops only work of these groups, including everything that follows from it; administers only their agents and join tokens;
syncs only repositories that use no other groups; and creates only tokens with at most its own groups. The groups do not
restrict what it can read.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NoReturn

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.access import policy
from waterflowd.model.plan import Plan, leaf_jobs
from waterflowd.model.records import Trigger, TriggerKind

#: The name of everyone on an open address, where nobody authenticates.
ANONYMOUS = "anonymous"


class Role(Enum):
    """What a principal may do."""

    #: Reads everything except secrets, which nobody can read.
    VIEWER = "viewer"
    #: Also starts and cancels runs.
    RUNNER = "runner"
    #: Also approves runs; syncs, suspends and resumes repositories.
    APPROVER = "approver"
    #: Reads, and administers servers: join tokens, approving and revoking agents.
    OPERATOR = "operator"
    #: Everything: also API tokens and the audit trail.
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do everything that the other one may."""
        return other in _INCLUDES[self]


_INCLUDES = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.RUNNER: frozenset({Role.VIEWER, Role.RUNNER}),
    Role.APPROVER: frozenset({Role.VIEWER, Role.RUNNER, Role.APPROVER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.ADMIN: frozenset(Role),
}
ROLE_NAMES = [role.value for role in Role]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The author of a request: a token's name, `uid:N` on the unix socket, or `anonymous` on an open address."""

    name: str
    role: Role
    #: Groups it may use; empty means all.
    groups: tuple[str, ...] = ()
    #: Id of the token, None without one.
    token: str | None = None
    #: In the session of a browser: the id of the token with which somebody signed in, or `uid:N`.
    parent: str | None = None

    @property
    def scope(self) -> tuple[str, ...] | None:
        """The groups that it may use; None: all."""
        return None if not self.groups or "*" in self.groups else self.groups


def trigger_of(principal: Principal, kind: TriggerKind, *, by: str | None = None, key: str | None = None) -> Trigger:
    """The trigger of a run that the principal starts: the run acts for it, within its groups."""
    name = None if principal.name == ANONYMOUS else principal.name
    return Trigger(kind=kind, by=by or principal.name, principal=name, scope=principal.scope, key=key)


def narrowed(scope: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The groups that both of two scopes include; None: all."""
    if scope is None or other is None:
        return other if scope is None else scope
    return tuple(group for group in scope if group in other)


def check_plan(principal: Principal, plan: Plan) -> None:
    """`Rejected` WF602 (403) when the plan uses a group that the principal may not use."""
    for job in leaf_jobs(plan.jobs):
        if not policy.may_use(principal.scope, job.group):
            _reject(principal, f'job "{job.id}" runs on "{job.group}"', f"jobs.{job.id}.runs-on")


def check_groups(principal: Principal, groups: Iterable[str]) -> None:
    """`Rejected` WF602 (403) when the principal would give access to a group that it may not use itself.

    No group at all, or `*`, means every group; only a principal without restrictions may give access to that.
    """
    for group in tuple(groups) or ("*",):
        if not policy.may_use(principal.scope, group):
            _reject(
                principal, "this affects every group" if group == "*" else f'this affects group "{group}"', "groups"
            )


def _reject(principal: Principal, what: str, where: str) -> NoReturn:
    raise Rejected(
        "WF602",
        f'{what}, but the token "{principal.name}" may only use {", ".join(principal.groups)}; '
        "ask an admin for a token with that group",
        where=where,
        status=403,
    )
