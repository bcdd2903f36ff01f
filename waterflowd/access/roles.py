"""Roles, and what the groups of a token permit.

Rules of this file: pure. Roles are nested: a viewer reads; a runner also starts and cancels runs; an approver also approves,
manages agents and syncs repositories; an admin also manages API tokens. A token may be restricted to groups: then it starts
and stops only work of these groups, approves agents only for them, and creates only tokens with at most its own groups. The
groups do not restrict what it can read.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NoReturn

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.model.plan import Plan, leaf_jobs


class Role(Enum):
    """What a principal may do; each role includes the ones before it."""

    #: Reads everything except secrets, which nobody can read.
    VIEWER = "viewer"
    #: Starts and cancels runs.
    RUNNER = "runner"
    #: Approves runs and agents, revokes agents, creates join tokens, syncs repositories.
    APPROVER = "approver"
    #: Creates and revokes API tokens, reads the audit trail.
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do everything that the other one may."""
        return _RANKS[self] >= _RANKS[other]


_RANKS = {role: rank for rank, role in enumerate(Role)}
ROLE_NAMES = [role.value for role in Role]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The author of a request: a token's name, `uid:N` on the unix socket, or `anonymous` on an open address."""

    name: str
    role: Role
    #: Groups it may use; empty means all.
    groups: tuple[str, ...] = ()
    #: Id of the token, None without one.
    token: str | None = None


def may_use(principal: Principal, group: str) -> bool:
    """Whether the principal may use a group: the one function that interprets a token's groups."""
    return not principal.groups or "*" in principal.groups or group in principal.groups


def check_plan(principal: Principal, plan: Plan) -> None:
    """`Rejected` WF602 (403) when the plan uses a group that the principal may not use."""
    for job in leaf_jobs(plan.jobs):
        if not may_use(principal, job.group):
            _reject(principal, f'job "{job.id}" runs on "{job.group}"', f"jobs.{job.id}.runs-on")


def check_groups(principal: Principal, groups: Iterable[str]) -> None:
    """`Rejected` WF602 (403) when the principal would give access to a group that it may not use itself.

    No group at all, or `*`, means every group; only a principal without restrictions may give access to that.
    """
    for group in tuple(groups) or ("*",):
        if not may_use(principal, group):
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
