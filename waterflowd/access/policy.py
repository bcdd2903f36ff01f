"""What the configuration lets the jobs of a run use.

Rules of this file:

- Pure. The same functions answer for a plan, before a run exists, and for a job, when an attempt requests its slot; a plan is
  refused only for what no run of it could do.
- A job may use a group if each of these permits it: the configuration of its repository, the token that started its run or an
  earlier run that led to it (`Trigger.scope`), and the environments that own the group. For the built-in group of all servers,
  each server is checked by its own groups.
- Default deny: a job may read a secret only if a grant matches it, and only with one of the environments that own the secret.
  The keys of webhooks are never readable, whatever a grant says.
- A refusal contains the lines that would permit it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import msgspec

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.accesses import JobAccess, is_expression
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.reconcile import codes, refs
from waterflowd.reconcile.settings import ALL_SERVERS, RepositorySettings, is_match
from waterflowd.secrets.values import normalize_name

#: Cached answers: a run asks for the same few groups and secrets with each attempt.
_CACHE_SIZE = 4_096
#: Characters with a meaning in patterns of refs.
_SPECIAL = frozenset("\\*?+[]!")


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job that wants to use something, as far as its rights depend on it."""

    #: None for a workflow that was sent to the API.
    repository: str | None = None
    ref: str | None = None
    #: The groups of the token that started the run; None: all.
    scope: tuple[str, ...] | None = None
    #: The environments whose gates the job has passed, innermost first.
    environments: tuple[str, ...] = ()


def job_origin(run: Run, job: Job) -> Origin:
    """What the rights of the job depend on."""
    trigger = run.trigger
    return Origin(repository=run.repository, ref=trigger.ref, scope=trigger.scope, environments=job.environments)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Lets jobs read secrets. Patterns with `*`; those of refs as in `on.push`. Empty: no restriction, except for `secrets`."""

    secrets: tuple[str, ...]
    repositories: tuple[str, ...] = ()
    #: Also for workflows that are sent to the API.
    without_repository: bool = False
    refs: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class EnvironmentRules(msgspec.Struct, frozen=True, kw_only=True):
    """The groups and secrets that only jobs with this environment may use, as patterns with `*`."""

    name: str
    groups: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job may not use something, and the lines that would permit it."""

    #: Of the error in a workflow file.
    code: str
    reason_code: ReasonCode
    text: str
    #: What to do with `lines`.
    advice: str = ""
    lines: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The whole refusal as one line."""
        return f"{self.text}; {self.advice}: {' '.join(self.lines)}" if self.lines else self.text

    @property
    def suggestion(self) -> str:
        """The next step as lines of text, for a diagnostic."""
        return "\n".join((f"{self.advice}:", *self.lines)) if self.lines else self.advice

    @property
    def reason(self) -> Reason:
        """The refusal as the reason of a job or step."""
        return reason(self.reason_code, self.sentence, lines=list(self.lines))


class AccessPolicy:
    """The rights of jobs, from the configuration. Without repositories and grants everything is permitted, for tests."""

    def __init__(
        self,
        repositories: Sequence[RepositorySettings] | None = None,
        environments: Sequence[EnvironmentRules] = (),
        grants: Sequence[Grant] | None = None,
    ) -> None:
        #: Increases whenever the rules change, for caches of what depends on them.
        self.version = 0
        self._repositories: dict[str, RepositorySettings] | None
        self._set(repositories, environments, grants)
        self.group_refusal = lru_cache(_CACHE_SIZE)(self._group_refusal)
        self.server_refusal = lru_cache(_CACHE_SIZE)(self._server_refusal)
        self.secret_refusal = lru_cache(_CACHE_SIZE)(self._secret_refusal)
        self._early_refusal = lru_cache(_CACHE_SIZE)(self._secret_refusal_before_run)

    def _set(
        self,
        repositories: Iterable[RepositorySettings] | None,
        environments: Sequence[EnvironmentRules],
        grants: Sequence[Grant] | None,
    ) -> None:
        self._repositories = None if repositories is None else {settings.name: settings for settings in repositories}
        self._environments = tuple(environments)
        self._grants = None if grants is None else tuple(grants)
        self._webhook_keys = {
            normalize_name(key): settings.name
            for settings in (self._repositories or {}).values()
            for key in settings.webhook_keys
        }

    def replace(
        self,
        repositories: Iterable[RepositorySettings],
        environments: Sequence[EnvironmentRules] | None = None,
        grants: Sequence[Grant] | None = None,
    ) -> None:
        """Other rules from now on, also for runs that are open; None leaves environments or grants as they are."""
        self._set(
            repositories,
            self._environments if environments is None else environments,
            self._grants if grants is None else grants,
        )
        self.version += 1
        for cached in (self.group_refusal, self.server_refusal, self.secret_refusal, self._early_refusal):
            cached.cache_clear()

    def repository(self, name: str) -> RepositorySettings:
        """The configuration of a repository. `Rejected` WF604 (404) for an unknown name."""
        found = (self._repositories or {}).get(name)
        if found is None:
            known = escape_for_display(", ".join(self._repositories or ()) or "none")
            text = f"repository {quote(name)} not found; configured repositories: {known}"
            raise Rejected(codes.NOT_FOUND, text, where="repository", status=404)
        return found

    # Groups -----------------------------------------------------------------------------------------------------------

    def _group_refusal(self, origin: Origin, group: str) -> Refusal | None:
        """Why the job may not use the group; None if it may. The group of all servers counts as one of its own."""
        shown = f'group "{escape_for_display(group)}"'
        if not self._may_repository_use(origin.repository, group):
            text = f'runs of repository "{origin.repository}" may not use {shown}; allow it in `groups` of its configuration'
            return _group_not_allowed(text)
        if not may_use(origin.scope, group):
            return _group_not_allowed(_scope_text(origin, shown))
        if group == ALL_SERVERS and any(rules.groups for rules in self._environments):
            # Without `target: each` the servers are not checked one by one.
            return _group_not_allowed(f"{shown} is only possible with target: each, because environments own groups")
        return self._owned(shown, self._owners_of_group(group), origin.environments)

    def _server_refusal(self, origin: Origin, groups: tuple[str, ...]) -> Refusal | None:
        """Why a job on all servers may not use a server of these groups; None if it may."""
        is_every = self._may_repository_use(origin.repository, ALL_SERVERS)
        usable = [group for group in groups if is_every or self._may_repository_use(origin.repository, group)]
        if not usable:
            return _group_not_allowed(
                f'runs of repository "{origin.repository}" may use none of the groups of this server'
            )
        usable = [group for group in usable if may_use(origin.scope, group) or may_use(origin.scope, ALL_SERVERS)]
        if not usable:
            return _group_not_allowed(_scope_text(origin, "any group of this server"))
        refusals = [
            self._owned("each group of this server", self._owners_of_group(group), origin.environments)
            for group in usable
        ]
        return None if None in refusals else refusals[0]

    def _may_repository_use(self, repository: str | None, group: str) -> bool:
        if repository is None or self._repositories is None:
            return True
        settings = self._repositories.get(repository)
        return settings is not None and settings.may_use(group)

    # Environments -----------------------------------------------------------------------------------------------------

    def _owners_of_group(self, group: str) -> list[str]:
        return [rules.name for rules in self._environments if _matches(rules.groups, group)]

    def _owners_of_secret(self, name: str) -> list[str]:
        return [rules.name for rules in self._environments if _matches_secret(rules.secrets, name)]

    def _owned(self, what: str, owners: Sequence[str], environments: Iterable[str]) -> Refusal | None:
        if not owners or not set(owners).isdisjoint(environments):
            return None
        of = " or ".join(f'"{name}"' for name in owners)
        return Refusal(
            code=codes.ENVIRONMENT_REQUIRED,
            reason_code=ReasonCode.ENVIRONMENT_REQUIRED,
            text=f"{what} belongs to environment {of}, which the job does not have",
            advice="add to the job",
            lines=(f"environment: {owners[0]}",),
        )

    # Secrets ----------------------------------------------------------------------------------------------------------

    def _secret_refusal(self, origin: Origin, group: str, name: str) -> Refusal | None:
        """Why the job on this group may not read the secret, by its name in the sources; None if it may."""
        return self._unreadable(name, origin.environments) or self._not_granted(origin, group, name, is_known=True)

    def _unreadable(self, name: str, environments: Iterable[str] | None) -> Refusal | None:
        """What no grant changes. `environments` None: not known yet."""
        owner = self._webhook_keys.get(normalize_name(name))
        if owner is not None:
            return Refusal(
                code=codes.SECRET_NOT_GRANTED,
                reason_code=ReasonCode.SECRET_NOT_GRANTED,
                text=f'secret {_shown(name)} is a webhook key of repository "{owner}", which no workflow can read',
            )
        if environments is None:
            return None
        return self._owned(f"secret {_shown(name)}", self._owners_of_secret(name), environments)

    def _not_granted(self, origin: Origin, group: str, name: str, *, is_known: bool) -> Refusal | None:
        """Why no grant matches. Before the run exists (`is_known` false), what is not known yet matches every grant."""
        if self._grants is None or any(_permits(grant, origin, group, name, is_known) for grant in self._grants):
            return None
        whom = "workflows sent to the API" if origin.repository is None else f'repository "{origin.repository}"'
        at = f" at {escape_for_display(origin.ref)}" if origin.ref is not None and is_known else ""
        return Refusal(
            code=codes.SECRET_NOT_GRANTED,
            reason_code=ReasonCode.SECRET_NOT_GRANTED,
            text=f"no grant lets {whom}{at} read secret {_shown(name)} here",
            advice="to permit it, add to the daemon's configuration",
            lines=_grant_lines(origin, group, (name,)),
        )

    # Before a run exists ----------------------------------------------------------------------------------------------

    def plan_refusals(
        self, repository: str | None, accesses: Iterable[JobAccess]
    ) -> Iterator[tuple[JobAccess, Refusal]]:
        """What no run of these jobs may use, whatever its ref: groups and secrets of environments, and secrets without a grant.

        What only the run knows (its ref, an expression) is checked when it is known.
        """
        for access in accesses:
            group = "" if is_expression(access.group) else access.group
            is_known = not any(map(is_expression, access.environments))
            origin = Origin(repository=repository, environments=access.environments)
            if group and group != ALL_SERVERS and is_known:
                shown = f'group "{escape_for_display(group)}"'
                refusal = self._owned(shown, self._owners_of_group(group), access.environments)
                if refusal is not None:
                    yield access, refusal
            for name in access.secrets:
                refusal = self._early_refusal(origin, group, name)
                if refusal is not None:
                    yield access, refusal

    def _secret_refusal_before_run(self, origin: Origin, group: str, name: str) -> Refusal | None:
        is_known = not any(map(is_expression, origin.environments))
        refusal = self._unreadable(name, origin.environments if is_known else None)
        return refusal or self._not_granted(origin, group, name, is_known=False)

    def check_plan(self, repository: str | None, accesses: Iterable[JobAccess]) -> None:
        """`Rejected` (403) for the first of `plan_refusals`."""
        for access, refusal in self.plan_refusals(repository, accesses):
            text = f'job "{escape_for_display(access.job)}": {refusal.sentence}'
            raise Rejected(refusal.code, text, where=f"jobs.{access.job}", status=403)

    def webhook_refusal(self, repository: str, key: str) -> Refusal | None:
        """Why a webhook of the repository may not be signed with this secret; None if it may."""
        settings = self._repositories.get(repository) if self._repositories is not None else None
        if self._repositories is None:
            return None
        keys = () if settings is None else settings.webhook_keys
        if normalize_name(key) in map(normalize_name, keys):
            return None
        return Refusal(
            code=codes.WEBHOOK_KEY_NOT_ALLOWED,
            reason_code=ReasonCode.SECRET_NOT_GRANTED,
            text=f'{_shown(key)} is not a webhook key of repository "{repository}"',
            advice=f'to permit it, write in the [[repositories]] table of "{repository}"',
            lines=(f"webhook-keys = {_list((*keys, key))}",),
        )


def may_use(scope: Iterable[str] | None, group: str) -> bool:
    """Whether the groups of a token include the group: the one function that interprets them. None means all groups."""
    return scope is None or group in scope


def grants_for(
    repository: str | None, refused: Iterable[tuple[JobAccess, Refusal]], ref_patterns: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The lines of the grants that the refused accesses need: one table for all secrets of jobs with the same rights."""
    wanted: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for access, refusal in refused:
        if refusal.code == codes.SECRET_NOT_GRANTED and refusal.lines:
            group = "" if is_expression(access.group) else access.group
            names = tuple(name for name in access.environments if not is_expression(name))
            found = wanted.setdefault((group, names), {})
            found.update((name, None) for name in access.secrets if _list((name,)) in refusal.lines[1])
    lines: list[str] = []
    for (group, names), secrets in wanted.items():
        origin = Origin(repository=repository, environments=names)
        lines += _grant_lines(origin, group, tuple(secrets), ref_patterns)
    return tuple(lines)


def _permits(grant: Grant, origin: Origin, group: str, name: str, is_known: bool) -> bool:
    """Whether a grant lets the job read the secret. What is not known yet is not compared."""
    if not _matches_secret(grant.secrets, name):
        return False
    if origin.repository is None:
        if not grant.without_repository:
            return False
    elif not _matches(grant.repositories, origin.repository):
        return False
    if grant.groups and (group or is_known) and not _matches(grant.groups, group):
        return False
    if grant.environments:
        is_some = any(_matches(grant.environments, environment) for environment in origin.environments)
        may_be_some = not is_known and any(map(is_expression, origin.environments))
        if not is_some and not may_be_some:
            return False
    if grant.refs and is_known:
        return origin.ref is not None and refs.is_selected(origin.ref, grant.refs)
    return True


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(is_match(pattern, name) for pattern in patterns)


def _matches_secret(patterns: Iterable[str], name: str) -> bool:
    return any(is_match(normalize_name(pattern), normalize_name(name)) for pattern in patterns)


def _grant_lines(
    origin: Origin, group: str, names: tuple[str, ...], ref_patterns: tuple[str, ...] = ()
) -> tuple[str, ...]:
    lines = ["[[secrets.grants]]", f"secrets = {_list(names)}"]
    lines.append(
        "without-repository = true" if origin.repository is None else f"repositories = {_list([origin.repository])}"
    )
    patterns = ref_patterns if origin.ref is None else (_pattern_of(origin.ref),)
    if patterns:
        lines.append(f"refs = {_list(patterns)}")
    if origin.environments:
        lines.append(f"environments = {_list(origin.environments)}")
    if group:
        lines.append(f"groups = {_list([group])}")
    return tuple(lines)


def _pattern_of(ref: str) -> str:
    """The pattern that selects exactly this ref."""
    tag = refs.tag_of(ref)
    name = "".join(f"\\{c}" if c in _SPECIAL else c for c in (tag if tag is not None else refs.branch_of(ref) or ref))
    return f"tags/{name}" if tag is not None else name


def _list(names: Iterable[str]) -> str:
    """A list of texts as TOML, whose basic strings have JSON's escapes."""
    return json.dumps(list(names), ensure_ascii=False)


def _shown(name: str) -> str:
    return quote(name)[1:-1]


def _scope_text(origin: Origin, what: str) -> str:
    allowed = ", ".join(origin.scope or ()) or "no group"
    return f"the token that started this run may only use {allowed}, but not {what}; start it with another token"


def _group_not_allowed(text: str) -> Refusal:
    return Refusal(code=codes.GROUP_NOT_ALLOWED, reason_code=ReasonCode.GROUP_NOT_ALLOWED, text=text)
