"""The names of webhooks, which all repositories of a daemon share: who has which.

Rules of this file: only files of the default refs count. A name belongs to the file that has had it for longest, by the log,
so nobody can take another repository's hook by naming it; the others have an error until it is free. A file that is broken
keeps its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from waterflowd.dsl.diagnostics import Diagnostic
from waterflowd.reconcile import codes
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.movement import FileChanges
from waterflowd.reconcile.shown import shown
from waterflowd.reconcile.state import FileState, RefState

if TYPE_CHECKING:
    from waterflowd.reconcile.loop.repository import RepositoryLoop


class Holder(NamedTuple):
    """A file that names a webhook."""

    since: int
    #: Place of its repository in the configuration.
    order: int
    path: str
    loop: RepositoryLoop
    ref: RefState
    file: FileState


class HookNames:
    """All webhooks by name, made from the loops' state when it has changed."""

    def __init__(self) -> None:
        self._loops: list[RepositoryLoop] = []
        self._made_from: list[tuple[str, int]] = []
        self._holders: dict[str, list[Holder]] = {}

    def watch(self, loop: RepositoryLoop) -> None:
        """The loop's files count from now on."""
        self._loops.append(loop)

    def holder(self, name: str) -> Holder | None:
        """The file whose webhook this is."""
        return next(iter(self._named(name)), None)

    def errors(self, loop: RepositoryLoop, file: FileApplied) -> tuple[Diagnostic, ...]:
        """The error of an applied file whose webhook's name another one has."""
        hook = file.triggers.webhook if file.triggers is not None else None
        if hook is None:
            return ()
        holders = self._named(hook.name)
        is_one = any(held.loop is loop and held.path == file.path and held.file.newest == file for held in holders)
        return _taken(file, hook.name, holders[0]) if is_one and not _is_of(holders[0], loop, file) else ()

    def errors_after(self, loop: RepositoryLoop, file: FileApplied, changes: FileChanges) -> tuple[Diagnostic, ...]:
        """The same for a file of the default ref once these changes are applied to it."""
        hook = file.triggers.webhook if file.triggers is not None else None
        if hook is None:
            return ()
        changed = {one.path: one for one in changes.files}
        for held in self._named(hook.name):
            if held.loop is loop and (held.path in changes.removed or not _keeps(changed.get(held.path), hook.name)):
                continue
            return () if _is_of(held, loop, file) else _taken(file, hook.name, held)
        first = min((path for path, one in changed.items() if _names(one, hook.name)), default=file.path)
        if first == file.path:
            return ()
        return _error(file, hook.name, f"{shown(first)} of this repository")

    def _named(self, name: str) -> list[Holder]:
        refs = [loop.default_ref() for loop in self._loops]
        made_from = [(ref.ref, ref.version) if ref is not None else ("", 0) for ref in refs]
        if made_from != self._made_from:
            self._made_from, self._holders = made_from, {}
            for order, (loop, ref) in enumerate(zip(self._loops, refs, strict=True)):
                for path, file in ref.files.items() if ref is not None else ():
                    if file.hook is not None and ref is not None:
                        held = Holder(file.hook_since, order, path, loop, ref, file)
                        self._holders.setdefault(file.hook.name, []).append(held)
            for holders in self._holders.values():
                holders.sort(key=lambda held: (held.since, held.order, held.path))
        return self._holders.get(name, [])


def _is_of(held: Holder, loop: RepositoryLoop, file: FileApplied) -> bool:
    return held.loop is loop and held.path == file.path


def _names(file: FileApplied, name: str) -> bool:
    return file.triggers is not None and file.triggers.webhook is not None and file.triggers.webhook.name == name


def _keeps(changed: FileApplied | None, name: str) -> bool:
    """Whether the holder of a name still has it after its own change; a broken file keeps what it had."""
    return changed is None or changed.plan_hash is None or _names(changed, name)


def _taken(file: FileApplied, name: str, held: Holder) -> tuple[Diagnostic, ...]:
    return _error(file, name, f'{shown(held.path)} of the repository "{held.loop.settings.name}"')


def _error(file: FileApplied, name: str, by: str) -> tuple[Diagnostic, ...]:
    message = f'the webhook "{shown(name)}" belongs to {by} already'
    suggestion = "give one of the two another name under on.webhook.name"
    code = codes.HOOK_TAKEN
    return (Diagnostic(code=code, path=file.path, line=1, column=1, message=message, suggestion=suggestion),)
