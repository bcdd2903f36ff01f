"""What the configuration lets the jobs of a run use.

Rules of this file: pure; nothing in it depends on time. A job may use a group if each of these permits it: the configuration of
its repository, and the token that started its run or an earlier run that led to it (`Trigger.scope`). For the built-in group of
all servers, each server is checked by its own groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from waterflow_agent.display import escape_for_display
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.reconcile.settings import ALL_SERVERS, RepositorySettings

#: Cached answers: a run asks for the same few groups with each attempt.
_CACHE_SIZE = 4_096


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The job that wants to use something, as far as its rights depend on it."""

    #: None for a workflow that was sent to the API.
    repository: str | None = None
    #: The groups of the token that started the run; None: all.
    scope: tuple[str, ...] | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job may not use something: a sentence with the next step."""

    reason_code: ReasonCode
    text: str
    facts: tuple[tuple[str, str | None], ...] = ()

    @property
    def reason(self) -> Reason:
        """The refusal as the reason of a job or step."""
        return reason(self.reason_code, self.text, **dict(self.facts))


class AccessPolicy:
    """The rights of jobs, from the configuration. `repositories` None restricts no repository; only tests use that."""

    def __init__(self, repositories: Sequence[RepositorySettings] | None = None) -> None:
        self._repositories = None if repositories is None else {settings.name: settings for settings in repositories}
        self.group_refusal = lru_cache(_CACHE_SIZE)(self._group_refusal)
        self.server_refusal = lru_cache(_CACHE_SIZE)(self._server_refusal)

    def _group_refusal(self, origin: Origin, group: str) -> Refusal | None:
        """Why the job may not use the group; None if it may. The group of all servers counts as one of its own."""
        if not self._may_repository_use(origin, group):
            text = (
                f'runs of repository "{origin.repository}" may not use group "{escape_for_display(group)}"; allow it in '
                "`groups` of its configuration"
            )
            return _refused(text, group, origin.repository)
        if not may_use(origin.scope, group):
            return _refused(_scope_text(origin, f'group "{escape_for_display(group)}"'), group, origin.repository)
        return None

    def _server_refusal(self, origin: Origin, groups: tuple[str, ...]) -> Refusal | None:
        """Why a job on all servers may not use a server of these groups; None if it may."""
        is_every = self._may_repository_use(origin, ALL_SERVERS)
        usable = [group for group in groups if is_every or self._may_repository_use(origin, group)]
        if not usable:
            text = f'runs of repository "{origin.repository}" may use none of the groups of this server'
            return _refused(text, ALL_SERVERS, origin.repository)
        if not may_use(origin.scope, ALL_SERVERS) and not any(may_use(origin.scope, group) for group in usable):
            return _refused(_scope_text(origin, "any group of this server"), ALL_SERVERS, origin.repository)
        return None

    def _may_repository_use(self, origin: Origin, group: str) -> bool:
        if origin.repository is None or self._repositories is None:
            return True
        settings = self._repositories.get(origin.repository)
        return settings is not None and settings.may_use(group)


def may_use(scope: Iterable[str] | None, group: str) -> bool:
    """Whether the groups of a token include the group: the one function that interprets them. None means all groups."""
    return scope is None or group in scope


def _scope_text(origin: Origin, what: str) -> str:
    allowed = ", ".join(origin.scope or ()) or "no group"
    return f"the token that started this run may only use {allowed}, but not {what}; start it with another token"


def _refused(text: str, group: str, repository: str | None) -> Refusal:
    facts = (("group", group), ("repository", repository))
    return Refusal(reason_code=ReasonCode.GROUP_NOT_ALLOWED, text=text, facts=facts)
