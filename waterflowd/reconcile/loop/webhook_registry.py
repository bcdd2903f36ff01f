"""The names of webhooks, which all repositories of a daemon share, and the files that own them.

Rules of this file: only files of the default refs count. A name belongs to the file that has had it longest, according to
the log, so no repository can take over another one's webhook by using its name; other files with the name have an error until
it is free. A file with errors keeps its name, and a renamed file hands it to its new path.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol

from waterflow_agent.display import escape_for_display, quote
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.reconcile import codes
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.ref_updates import FileChanges
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.state import FileState, RefState


class Repository(Protocol):
    """What the registry reads of a repository."""

    settings: RepositorySettings

    def default_ref(self) -> RefState | None:
        """The ref whose files own webhooks."""
        ...


class WebhookOwner(NamedTuple):
    """A file with a webhook. In the order of ownership: the first of several files with one name owns it."""

    since: int
    #: Position of its repository in the configuration.
    order: int
    path: str
    repository: str
    ref: RefState
    file: FileState


class WebhookRegistry:
    """All webhooks by name, built from the state of the repositories whenever it has changed."""

    def __init__(self) -> None:
        self._repositories: list[Repository] = []
        self._version = 0
        self._built_from: list[tuple[str, int]] = []
        self._owners: dict[str, list[WebhookOwner]] = {}

    def register(self, repository: Repository) -> None:
        """Adds a repository, in the order of the configuration."""
        self._repositories.append(repository)
        self._discard()

    def unregister(self, repository: Repository) -> None:
        """Removes a repository: its names are free. Idempotent."""
        self._repositories = [other for other in self._repositories if other is not repository]
        self._discard()

    def _discard(self) -> None:
        self._built_from, self._owners = [], {}
        self._version += 1

    @property
    def version(self) -> int:
        """Increases whenever a name may have changed its owner, for caches."""
        self._by_name("")
        return self._version

    def owner(self, name: str) -> WebhookOwner | None:
        """The file that owns the webhook."""
        return next(iter(self._by_name(name)), None)

    def errors(self, repository: str, file: FileApplied) -> tuple[Diagnostic, ...]:
        """The error of an applied file whose webhook's name belongs to another file."""
        webhook = file.triggers.webhook if file.triggers is not None else None
        if webhook is None:
            return ()
        owners = self._by_name(webhook.name)
        first = next(iter(owners), None)
        is_known = any(
            (owner.repository, owner.path) == (repository, file.path) and owner.file.newest == file for owner in owners
        )
        if first is None or not is_known or (first.repository, first.path) == (repository, file.path):
            return ()
        return _already_owned(file, webhook.name, first.path, first.repository)

    def errors_after(self, repository: str, file: FileApplied, changes: FileChanges) -> tuple[Diagnostic, ...]:
        """The error that a file of the default ref will have once these changes are applied to it."""
        webhook = file.triggers.webhook if file.triggers is not None else None
        if webhook is None:
            return ()
        changed = {item.path: item for item in changes.files}
        remaining: dict[tuple[int, int, str], str] = {}
        since = sys.maxsize
        for owner in self._by_name(webhook.name):
            is_own = owner.repository == repository
            if is_own and (owner.path in changes.removed or not _keeps(changed.get(owner.path), webhook.name)):
                since = min(since, owner.since)
            else:
                remaining[owner.since, owner.order, owner.path] = owner.repository
        order = [item.settings.name for item in self._repositories].index(repository)
        known = {path for (_, _, path), name in remaining.items() if name == repository}
        new = {path for path, item in changed.items() if _names(item, webhook.name)} - known
        remaining.update({(since, order, path): repository for path in new})
        first = min(remaining, default=None)
        if first is None or (remaining[first], first[2]) == (repository, file.path):
            return ()
        return _already_owned(file, webhook.name, first[2], remaining[first])

    def _by_name(self, name: str) -> list[WebhookOwner]:
        refs = [repository.default_ref() for repository in self._repositories]
        built_from = [(ref.ref, ref.version) if ref is not None else ("", 0) for ref in refs]
        if built_from != self._built_from:
            self._built_from, self._owners = built_from, {}
            self._version += 1
            for order, (repository, ref) in enumerate(zip(self._repositories, refs, strict=True)):
                for path, file in ref.files.items() if ref is not None else ():
                    if file.webhook is not None and ref is not None:
                        owner = WebhookOwner(file.webhook_since, order, path, repository.settings.name, ref, file)
                        self._owners.setdefault(file.webhook.name, []).append(owner)
            for owners in self._owners.values():
                owners.sort(key=lambda owner: (owner.since, owner.order, owner.path))
        return self._owners.get(name, [])


def _names(file: FileApplied, name: str) -> bool:
    return file.triggers is not None and file.triggers.webhook is not None and file.triggers.webhook.name == name


def _keeps(changed: FileApplied | None, name: str) -> bool:
    """Whether the owner of a name still has it after its own change; a broken file keeps what it had."""
    return changed is None or changed.plan_hash is None or _names(changed, name)


def _already_owned(file: FileApplied, name: str, path: str, repository: str) -> tuple[Diagnostic, ...]:
    message = f"webhook {quote(name)} already belongs to {escape_for_display(path)} in repository {quote(repository)}"
    suggestion = "change on.webhook.name in one of the two files"
    code = codes.WEBHOOK_NAME_TAKEN
    return (Diagnostic(code=code, path=file.path, line=1, column=1, message=message, suggestion=suggestion),)
