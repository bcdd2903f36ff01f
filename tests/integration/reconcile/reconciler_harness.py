"""A repository and a reconcile loop over a log in memory, for tests."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.patience import PATIENCE_S
from waterflow_agent.errors import WaterflowError
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.admin.repositories import GitRepositoryAdmin
from waterflowd.dsl import compile_from_files, compile_workflow
from waterflowd.dsl.compile import MissingFiles
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.gitsource.local import open_source
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model import ids, plan
from waterflowd.model.ids import JobId, RunId, StepId, StreamName
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, RunSummary, StartRequest, StreamAppend
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.ports import FileReader
from waterflowd.reconcile import events
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.loop import LoopPorts, Reconciler
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.time_slices import TimeSlices

SMALLEST = "name: {0}\njobs:\n  j:\n    runs-on: web\n    steps:\n      - run: echo {0}\n"
ON_PUSH = "on: push\n" + SMALLEST


class LogRuns:
    """`ports.Runs` over a log, as repositories use it: one transaction, and each trigger key once."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.started: list[StartRequest] = []
        #: Raised by the next calls of `apply`: instead of writing, or after it.
        self.faults: list[WaterflowError] = []
        self.faults_after: list[WaterflowError] = []
        self.cancelled: list[RunId] = []
        self._numbers = itertools.count(1)

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        if self.faults:
            raise self.faults.pop(0)
        batch = Batch(
            appends=[StreamAppend(stream=stream, expected=self.log.head(stream), at=facts[0].at, events=list(facts))],
            plans={},
            keys={},
            summaries=[],
        )
        fresh = [s for s in starts if s.trigger.key is not None and self.log.run_for_key(s.trigger.key) is None]
        for start in fresh:
            batch.plans[plan.content_hash(start.plan)] = start.plan
            run = batch.keys[start.trigger.key or ""] = ids.run_id(1, next(self._numbers))
            batch.summaries.append(self.row(run, start, Status.RUNNING))
        await self.log.append(batch)
        self.started += fresh
        if self.faults_after:
            raise self.faults_after.pop(0)
        return list(batch.keys.values())

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        await self.apply(stream, facts, ())

    async def start(self, request: StartRequest) -> RunSummary:
        raise AssertionError("repositories start runs with their facts only")

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """Raises, because repositories decide no approvals."""
        raise AssertionError("a repository does not decide approvals")

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        self.cancelled.append(run)
        found = self.log.run(run)
        assert found is not None
        return found

    async def end(self, run: RunId) -> None:
        """Records that the run has completed."""
        found = self.log.run(run)
        assert found is not None
        ended = msgspec.structs.replace(found, status=Status.COMPLETED, conclusion=Conclusion.SUCCESS)
        await self.log.append(Batch(summaries=[ended]))

    @staticmethod
    def row(run: RunId, start: StartRequest, status: Status) -> RunSummary:
        return RunSummary(
            id=run,
            number=1,
            name="w",
            path="w.yml",
            trigger=start.trigger,
            status=status,
            reason=Reason(code=ReasonCode.STARTED, text="running"),
            created_at=1,
            seq=1,
        )


@dataclass
class RealCompiler:
    """The language's compiler, in this process; records what it compiled."""

    requested: list[str] = field(default_factory=list)
    #: Raised for files whose content contains these words.
    fault: Callable[[bytes], None] = lambda content: None
    #: Words that this version of the language refuses.
    refused: bytes | None = None

    async def compile(self, path: str, content: bytes, files: FileReader | None = None, *, client: str) -> Compiled:
        self.requested.append(path)
        self.fault(content)
        if self.refused is not None and self.refused in content:
            error = Diagnostic(code="WF103", path=path, line=1, column=1, message="unknown key")
            return Compiled(plan=None, diagnostics=[error])
        if files is None:
            return compile_workflow(path, content)
        known: dict[str, bytes | None] = {}
        while isinstance(answer := compile_from_files(path, content, known), MissingFiles):
            known.update({other: await files(other) for other in answer.paths})
        return answer


class TickingClock:
    """A clock that advances by a millisecond with each reading."""

    def __init__(self) -> None:
        self._now = 1_000

    def now(self) -> int:
        self._now += 1
        return self._now


class ManualWall:
    """A wall clock that advances only when a test sets it or lets it run."""

    def __init__(self, at: int) -> None:
        self.at = at
        self._runs_since_s: float | None = None

    def go_on(self) -> None:
        self._runs_since_s = time.monotonic()

    def __call__(self) -> int:
        since_s = self._runs_since_s
        return self.at if since_s is None else self.at + int((time.monotonic() - since_s) * 1_000)


class Work:
    """A clone whose pushes go to a bare repository beside it."""

    def __init__(self, root: Path, name: str) -> None:
        self.bare = root / f"{name}.git"
        self.path = root / f"{name}-work"
        self.root = root
        self.git("init", "--quiet", "--bare", "--initial-branch", "main", str(self.bare), cwd=root)
        self.git("init", "--quiet", "--initial-branch", "main", str(self.path), cwd=root)
        self.git("remote", "add", "origin", str(self.bare))

    def git(self, *arguments: str, cwd: Path | None = None, author: str = "Ada", stdin: str = "") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.path,
            env=environment,
            input=stdin,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str | None], message: str = "change", author: str = "Ada") -> str:
        """Writes files (`None` removes one) and commits them."""
        for name, content in files.items():
            target = self.path / name
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message, author=author)
        return self.git("rev-parse", "HEAD")

    def push(self, refspec: str = "HEAD:refs/heads/main") -> None:
        self.git("push", "--quiet", "--force", "origin", refspec)

    def pushed(self, files: dict[str, str | None], message: str = "change", author: str = "Ada") -> str:
        commit = self.commit(files, message, author)
        self.push()
        return commit


class Daemon:
    """The reconciler with its ports; can be stopped and started again over the same log."""

    def __init__(
        self, *settings: RepositorySettings, open_source: Callable[[RepositorySettings], Source] = open_source
    ) -> None:
        self.settings = settings
        self.open_source = open_source
        self.log = MemoryLog(Codec({"repo": events.Fact}))
        self.runs = LogRuns(self.log)
        self.compiler = RealCompiler()
        self.task: asyncio.Task[None] | None = None
        self.wall = ManualWall(0)
        self.build()

    def build(self) -> None:
        history = LogHistory(self.log, Feed(self.log), TimeSlices())
        ports = LoopPorts(
            history=history,
            runs=self.runs,
            compiler=self.compiler,
            clock=TickingClock(),
            plans=PlanCache(history),
            random=lambda: 0.0,
            wall=self.wall,
        )
        self.reconciler = Reconciler(self.settings, self.open_source, ports)
        self.admin = GitRepositoryAdmin(self.reconciler, RepositoryQuotas())

    async def start(self) -> None:
        self.task = asyncio.create_task(self.reconciler.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def restart(self) -> None:
        await self.stop()
        self.build()
        await self.start()

    async def sync(self, name: str = "ops") -> str | None:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reconciler.sync(name)

    async def until(self, holds: Callable[[], bool | Awaitable[bool]]) -> None:
        """Waits for something that happens without further input."""
        async with asyncio.timeout(PATIENCE_S):
            while True:  # The loop under test says nothing to tests.
                held = holds()
                if held if isinstance(held, bool) else await held:
                    return
                await asyncio.sleep(0.005)

    def turn_to(self, at: int, name: str = "ops") -> None:
        """Sets the wall clock, and wakes the schedules as their timer would."""
        self.wall.at = at
        self.reconciler.loop(name).repository.notify()

    def started(self) -> list[tuple[str, str]]:
        """Returns path and revision of every run started since the last call, in order."""
        started = [(plan.decode(s.plan).path, (s.revision or "")[:40]) for s in self.runs.started]
        self.runs.started.clear()
        return started

    def facts(self, name: str = "ops") -> list[events.Fact]:
        return [record.event for record in self.log.read(ids.repository_stream(name))]

    def condition(self, type_: ConditionType, name: str = "ops") -> tuple[bool | None, str]:
        condition = self.reconciler.loop(name).repository.conditions.get(type_)
        return condition.is_true, condition.code
