"""The names of webhooks, which all repositories of a daemon share: who has which.

Rules of this file: only files of the default refs count. A name belongs to the file that has had it for longest, by the log,
so nobody can take another repository's hook by naming it; the others have an error until it is free. A file that is broken
keeps its name, and one that is renamed hands it to its new path.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from waterflow_agent.display import escape_for_display, quote
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.reconcile import codes
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.ref_updates import FileChanges
from waterflowd.reconcile.state import FileState, RefState

if TYPE_CHECKING:
    from waterflowd.reconcile.loop.repository import RepositoryLoop


class WebhookOwner(NamedTuple):
    """A file that names a webhook."""

    since: int
    #: Place of its repository in the configuration.
    order: int
    path: str
    loop: RepositoryLoop
    ref: RefState
    file: FileState


class WebhookRegistry:
    """All webhooks by name, made from the loops' state when it has changed."""

    def __init__(self) -> None:
        self._loops: list[RepositoryLoop] = []
        self._version = 0
        self._made_from: list[tuple[str, int]] = []
        self._owners: dict[str, list[WebhookOwner]] = {}

    def watch(self, loop: RepositoryLoop) -> None:
        """The loop's files count from now on."""
        self._loops.append(loop)

    @property
    def version(self) -> int:
        """Grows whenever names may have come to others, for caches of what was read here."""
        self._named("")
        return self._version

    def owner(self, name: str) -> WebhookOwner | None:
        """The file whose webhook this is."""
        return next(iter(self._named(name)), None)

    def errors(self, loop: RepositoryLoop, file: FileApplied) -> tuple[Diagnostic, ...]:
        """The error of an applied file whose webhook's name another one has."""
        hook = file.triggers.webhook if file.triggers is not None else None
        if hook is None:
            return ()
        owners = self._named(hook.name)
        is_one = any(held.loop is loop and held.path == file.path and held.file.newest == file for held in owners)
        if not is_one or (owners[0].loop is loop and owners[0].path == file.path):
            return ()
        return _taken(file, hook.name, owners[0].path, owners[0].loop.settings.name)

    def errors_after(self, loop: RepositoryLoop, file: FileApplied, changes: FileChanges) -> tuple[Diagnostic, ...]:
        """The same for a file of the default ref once these changes are applied to it."""
        hook = file.triggers.webhook if file.triggers is not None else None
        if hook is None:
            return ()
        changed = {one.path: one for one in changes.files}
        kept: dict[tuple[int, int, str], str] = {}
        since = sys.maxsize
        for held in self._named(hook.name):
            is_own = held.loop is loop
            if is_own and (held.path in changes.removed or not _keeps(changed.get(held.path), hook.name)):
                since = min(since, held.since)
            else:
                kept[held.since, held.order, held.path] = held.loop.settings.name
        order, name = self._loops.index(loop), loop.settings.name
        known = {path for (_, _, path), of in kept.items() if of == name}
        new = {path for path, one in changed.items() if _names(one, hook.name)} - known
        kept.update({(since, order, path): name for path in new})
        first = min(kept, default=None)
        if first is None or (kept[first], first[2]) == (name, file.path):
            return ()
        return _taken(file, hook.name, first[2], kept[first])

    def _named(self, name: str) -> list[WebhookOwner]:
        refs = [loop.default_ref() for loop in self._loops]
        made_from = [(ref.ref, ref.version) if ref is not None else ("", 0) for ref in refs]
        if made_from != self._made_from:
            self._made_from, self._owners = made_from, {}
            self._version += 1
            for order, (loop, ref) in enumerate(zip(self._loops, refs, strict=True)):
                for path, file in ref.files.items() if ref is not None else ():
                    if file.webhook is not None and ref is not None:
                        held = WebhookOwner(file.webhook_since, order, path, loop, ref, file)
                        self._owners.setdefault(file.webhook.name, []).append(held)
            for owners in self._owners.values():
                owners.sort(key=lambda held: (held.since, held.order, held.path))
        return self._owners.get(name, [])


def _names(file: FileApplied, name: str) -> bool:
    return file.triggers is not None and file.triggers.webhook is not None and file.triggers.webhook.name == name


def _keeps(changed: FileApplied | None, name: str) -> bool:
    """Whether the owner of a name still has it after its own change; a broken file keeps what it had."""
    return changed is None or changed.plan_hash is None or _names(changed, name)


def _taken(file: FileApplied, name: str, path: str, repository: str) -> tuple[Diagnostic, ...]:
    message = (
        f"the webhook {quote(name)} already belongs to {escape_for_display(path)} of the repository {quote(repository)}"
    )
    suggestion = "give one of the two another name under on.webhook.name"
    code = codes.WEBHOOK_NAME_TAKEN
    return (Diagnostic(code=code, path=file.path, line=1, column=1, message=message, suggestion=suggestion),)
