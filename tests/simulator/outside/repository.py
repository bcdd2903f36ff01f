"""The repository of a simulation: what people push to it, and how the real reconcile loop reads it.

Rules of this file:

- `Repository` is the truth: commits, the history of each ref, and what its files are. No code of the product is used to
  make it; content describes itself (`push 3`: the third text of a file that starts at every push).
- `Source` is one daemon's view. It may be slow, unavailable or unreadable, and it may lose a hint; it never returns an
  older state than before, as the port requires.
- `Compiler` knows no language: it takes the plan from the table of the simulation's plans, or reports that the file is
  broken.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence

import msgspec

from tests.simulator.environment import Environment
from tests.simulator.loop import Process
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.model import plan as plans
from waterflowd.model.plan import Plan, PushTrigger, Triggers
from waterflowd.ports import FileReader
from waterflowd.reconcile.loop import RepositoryLoop
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Changes, Commit, Refs, Revision, TreeFile, WatchStatus

MAIN, RELEASE = "refs/heads/main", "refs/heads/release"
#: A file that path filters look at, and that is not a workflow.
SOURCE_FILE = "src/code"
PATHS = ("workflows/a.yml", "workflows/b.yml", "workflows/c.yml")
#: The first words of files: when they start. `broken` never does.
KINDS: dict[str, Triggers | None] = {
    "change": Triggers(on_change=True),
    "push": Triggers(push=PushTrigger()),
    "main": Triggers(push=PushTrigger(branches=("main",))),
    "source": Triggers(push=PushTrigger(paths=("src/**",))),
    "manual": Triggers(),
    "broken": None,
}
#: A person without an answer repeats the request after this time.
PATIENCE_S = 3.0


class Content(msgspec.Struct, frozen=True):
    """One commit of the truth."""

    id: str
    files: dict[str, bytes]

    @property
    def tree(self) -> str:
        """The id of its content."""
        return _digest(repr(sorted(self.files.items())).encode())


class Repository:
    """See the file's docstring."""

    #: The folder of its workflows.
    paths: tuple[str, ...] = PATHS

    def __init__(
        self, environment: Environment, dice: random.Random, plan: Plan, settings: RepositorySettings | None = None
    ) -> None:
        self.settings = settings or RepositorySettings(
            name="ops", url="", refs=dice.choice((("*",), ("*",), ("main",), ())), interval_ms=3_000
        )
        self.is_away = False
        #: Each commit by its id, and each tree.
        self.commits: dict[str, Content] = {}
        self.trees: dict[str, Content] = {}
        #: The history of each ref, with the time of each change; None while the ref is removed.
        self.history: dict[str, list[tuple[float, str | None]]] = {}
        self.sources: list[Source] = []
        self._environment = environment
        self._dice = dice
        self._plan = plan
        self._compiled: dict[tuple[str, bytes], bytes] = {}
        self._texts = 0
        #: What people request: `suspend`, `resume`, or `wait` between the two.
        self.wish = ""
        if dice.random() < 0.7:
            self._push_something((MAIN,))

    def begin(self) -> None:
        """People start to push."""
        for _ in range(self._dice.choice((1, 3, 6, 10))):
            self._environment.loop.outside(self._dice.uniform(0.0, 20.0), self._do_something)
        if self._dice.random() < 0.3:
            # People push after the healing too.
            self._environment.loop.outside(self._dice.uniform(25.0, 30.0), self._push_something, (MAIN,))

    def tip(self, ref: str) -> str | None:
        """Returns the commit of the ref."""
        return self.history[ref][-1][1] if ref in self.history else None

    def tips(self) -> dict[str, str]:
        """Returns the refs that exist."""
        return {ref: tip for ref in sorted(self.history) if (tip := self.tip(ref)) is not None}

    def watched(self) -> list[str]:
        """Returns the refs that the configuration selects, as far as they can be known."""
        tips = self.tips()
        return list(tips) if self.settings.refs == ("*",) else [MAIN] if MAIN in tips else []

    def compiled(self, path: str, content: bytes) -> bytes | None:
        """Returns the plan of a file; None for a broken one."""
        triggers = self.triggers(path, content)
        if triggers is None:
            return None
        if (path, content) not in self._compiled:
            plan = msgspec.structs.replace(self._plan, name=path, path=path, triggers=triggers)
            self._compiled[path, content] = plans.encode(plan)
        return self._compiled[path, content]

    def triggers(self, path: str, content: bytes) -> Triggers | None:
        """Returns the triggers of a file; None for a broken one."""
        del path
        return KINDS[kind(content)]

    def loop(self) -> RepositoryLoop | None:
        """Returns the loop of the running daemon."""
        daemon = self._environment.daemon
        return daemon.loops.get(self.settings.name) if daemon is not None else None

    # People -----------------------------------------------------------------------------------------------------------

    def _do_something(self) -> None:
        action = self._dice.random()
        if action < 0.55:
            self._push_something((self._dice.choice((MAIN, MAIN, RELEASE)),))
        elif action < 0.65:
            self._push_something((MAIN, RELEASE))
        elif action < 0.78 and self.commits:
            ref = self._dice.choice((MAIN, RELEASE))
            self._move(ref, self._dice.choice(list(self.commits)), "is forced to")
        elif action < 0.84 and self.tips():
            self._move(self._dice.choice(list(self.tips())), None, "is removed")
        elif action < 0.90:
            self._suspend()
        else:
            self.sync()

    def _push_something(self, refs: tuple[str, ...]) -> None:
        tip = self.tip(refs[0])
        files = dict(self.commits[tip].files) if tip is not None else {}
        for _ in range(self._dice.choice((1, 1, 2))):
            self._texts += 1
            path = self._path()
            if path == SOURCE_FILE:
                files[path] = b"%d" % self._texts
            elif path in files and self._dice.random() < 0.12:
                del files[path]
            else:
                files[path] = f"{self._word(path)} {self._texts}".encode()
        self._commit(files, refs)

    def _commit(self, files: dict[str, bytes], refs: tuple[str, ...]) -> None:
        content = Content(_digest(b"commit %d" % len(self.commits)), files)
        self.commits[content.id] = content
        self.trees[content.tree] = content
        for ref in refs:
            self._move(ref, content.id, "is pushed to")

    def _path(self) -> str:
        """Chooses the file that people change."""
        return self._dice.choice((*self.paths, SOURCE_FILE))

    def _word(self, path: str) -> str:
        """Chooses the first word of a new text."""
        del path
        return self._dice.choice(list(KINDS))

    def _move(self, ref: str, commit: str | None, verb: str) -> None:
        if commit == self.tip(ref):
            return
        self.history.setdefault(ref, []).append((self._environment.loop.time(), commit))
        self._environment.note(f"repository: {ref} {verb} {(commit or '')[:7]}")
        for source in self.sources:
            source.moved()

    def come_back(self) -> None:
        """Makes the repository readable again."""
        self.is_away = False

    def _suspend(self) -> None:
        if not self.wish:
            self.wish = "suspend"
            self._insist()

    def _resume(self) -> None:
        self.wish = "resume"
        self._insist()

    def _insist(self) -> None:
        """Repeats what people requested until it is confirmed."""
        environment, wish = self._environment, self.wish
        if not wish:
            return
        loop = self.loop()
        if environment.daemon is not None and loop is not None:
            environment.loop.spawn(environment.daemon.process, self._ask(loop, wish), f"person: {wish}")
        environment.loop.outside(PATIENCE_S, self._insist_on, wish)

    def _insist_on(self, wish: str) -> None:
        if self.wish == wish:
            self._insist()

    async def _ask(self, loop: RepositoryLoop, wish: str) -> None:
        try:
            await (loop.suspend("alice") if wish == "suspend" else loop.resume("alice"))
        except Retryable:
            return
        if self.wish != wish:
            return
        self._environment.note(f"repository: {wish} is confirmed")
        self.wish = ""
        if wish == "suspend":
            # No other request is made in the meantime.
            self.wish = "wait"
            self._environment.loop.outside(self._dice.uniform(0.5, 6.0), self._resume)

    def restored(self) -> None:
        """Keeps the daemon from reading the repository until a person, who has seen what was lost, resumes it."""
        self.wish = "wait"
        self._environment.loop.outside(self._dice.uniform(0.5, 6.0), self._resume)

    def sync(self) -> None:
        """Requests a sync as a person would; once it is confirmed, the current refs must be applied."""
        environment = self._environment
        loop = self.loop()
        if environment.daemon is not None and loop is not None:
            environment.loop.spawn(environment.daemon.process, self._sync(loop), "person: sync")

    async def _sync(self, loop: RepositoryLoop) -> None:
        requested = {ref: len(self.history[ref]) - 1 for ref in self.watched()}
        try:
            await loop.sync()
        except (Retryable, Rejected) as error:
            self._environment.note(f"repository: a sync ends with {error.code}")
            return
        self._environment.observer.synced(self.settings.name, requested)


class Source:
    """`reconcile.source.Source` of one daemon process."""

    def __init__(self, environment: Environment, repository: Repository, process: Process) -> None:
        self._environment = environment
        self._repository = repository
        self._process = process
        self._hint = asyncio.Event()
        repository.sources = [self]

    def moved(self) -> None:
        """Reports that a ref has changed; the watcher may miss it."""
        if not self._process.is_dead and not self._environment.chance.happens("hint lost"):
            self._environment.loop.call_soon(self._hint.set, context=self._process.context)

    async def refs(self) -> Refs:
        """See the port."""
        await self._time()
        return Refs(head_ref=MAIN, object_ids=self._repository.tips())

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """See the port."""
        await self._time()
        content = self._repository.commits[object_id]
        before = self._repository.trees[previous_tree].files if previous_tree is not None else {}
        return Revision(
            commit=Commit(id=content.id, tree=content.tree, author="alice", message="change"),
            files=tuple(
                TreeFile(path=path, blob=_digest(text))
                for path, text in sorted(content.files.items())
                if path.startswith(tuple(folders))
            ),
            changes=Changes(paths=changed(before, content.files)),
        )

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """See the port."""
        await self._time()
        known = {_digest(text): text for one in self._repository.commits.values() for text in one.files.values()}
        return {blob: known[blob] for blob in ids}

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """See the port."""
        await self._time()
        files = self._repository.trees[tree].files
        return {path: TreeFile(path=path, blob=_digest(files[path])) for path in paths if path in files}

    async def wait_for_change(self, timeout_s: float) -> bool:
        """See the port."""
        handle = asyncio.get_running_loop().call_later(timeout_s, self._hint.set)
        try:
            await self._hint.wait()
        finally:
            handle.cancel()
        self._hint.clear()
        return True

    def watch_status(self) -> WatchStatus:
        """See the port."""
        return WatchStatus(is_watching=True, code="watching", text="simulated")

    async def close(self) -> None:
        """See the port."""

    async def _time(self) -> None:
        chance = self._environment.chance
        slow_s = chance.dice.uniform(0.5, 4.0) if chance.happens("repository slow") else 0.0
        await self._environment.sleep(slow_s + chance.delay_s(0.001, 0.02))
        if self._repository.is_away:
            raise Retryable("WF503", "the repository is not there", after_s=0.5)
        if chance.happens("object unreadable"):
            raise Retryable("WF506", "an object is missing", after_s=0.5)


class Compiler:
    """`ports.Compiler` without a language."""

    def __init__(self, environment: Environment, repository: Repository) -> None:
        self._environment = environment
        self._repository = repository

    async def compile(self, path: str, content: bytes, files: FileReader | None = None, *, client: str) -> Compiled:
        """See the port."""
        chance = self._environment.chance
        slow_s = chance.triggers.uniform(0.5, 5.0) if chance.happens("compiler slow") else 0.0
        await self._environment.sleep(slow_s + chance.delay_s(0.001, 0.05))
        plan = self._repository.compiled(path, content)
        if plan is not None:
            return Compiled(plan=plan, diagnostics=[])
        error = Diagnostic(code="WF103", path=path, line=1, column=1, message="broken")
        return Compiled(plan=None, diagnostics=[error])


def kind(content: bytes) -> str:
    """Returns a file's first word."""
    return content.decode().partition(" ")[0]


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> tuple[str, ...]:
    """Returns the paths that differ."""
    return tuple(sorted(path for path in {**before, **after} if before.get(path) != after.get(path)))


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
