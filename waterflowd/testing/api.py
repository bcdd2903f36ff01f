"""A whole API in memory: the real driver, engine and feed, an in-memory log, and scripted agents.

Rules of this file: no socket, no file, no thread. A shell step's script controls its agent, so that a workflow file contains
the whole test: `print TEXT` prints a line, `printerr TEXT` prints to stderr, `summarize TEXT` adds a line to the summary,
`output NAME=VALUE` sets an output,
`exit N` ends with that exit code, `hold` keeps running until `release`. `${NAME}` is replaced from the step's environment.
Everything else is ignored. The node `log` prints its message.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.join_token import JoinToken
from waterflow_agent.nodes import schema
from waterflow_agent.wire import messages
from waterflowd.access import events
from waterflowd.access.repository_quotas import QuotaUse
from waterflowd.access.roles import Role
from waterflowd.access.tokens import TokenRegistry, hash_secret
from waterflowd.admin.metrics import DriverMetrics
from waterflowd.admin.ports import (
    AgentRow,
    DefinitionPlan,
    DefinitionRow,
    JoinTokenRow,
    PendingRow,
    RepositoryRow,
    RevokedRow,
    ScheduleRow,
    ServerRow,
)
from waterflowd.admin.runs import LogRunReader
from waterflowd.api.app import Api
from waterflowd.api.services import Services
from waterflowd.dsl import compile_from_files, compile_workflow
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.engine import inputs
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement, Server
from waterflowd.fleet.registry import Registry
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory, LogOutputs
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.host.stream_writer import LogStreamWriter
from waterflowd.host.timers import Timers
from waterflowd.model import plan as plans
from waterflowd.model.ids import AUDIT, AgentId, RunId
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.model.statuses import Outcome
from waterflowd.ports import FileReader
from waterflowd.testing.awaiting import until
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs
from waterflowd.time_slices import TimeSlices

VERSION = "0.0.0-test"


class WallClock:
    """Milliseconds of the wall clock, never the same twice."""

    def __init__(self) -> None:
        self._last = 0
        #: Added to the time, for example to let tokens expire.
        self.ahead_ms = 0

    def now(self) -> int:
        """Milliseconds."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 + self.ahead_ms)
        return self._last


class DirectCompiler:
    """Compiles in this process."""

    async def compile(self, path: str, content: bytes, files: FileReader | None = None, *, client: str) -> Compiled:
        """See `ports.Compiler`."""
        if files is None:
            return compile_workflow(path, content)
        known: dict[str, bytes | None] = {}
        while not isinstance(answer := compile_from_files(path, content, known), Compiled):
            for other in answer.paths:
                known[other] = await files(other)
        return answer


class ScriptedAgents:
    """The link to agents that execute scripts at once. Implements `ports.Link`."""

    def __init__(self, outputs: MemoryOutputLogs, feed: Feed, clock: WallClock) -> None:
        self._outputs = outputs
        self._feed = feed
        self._clock = clock
        self.driver: Driver | None = None
        self.held: dict[messages.TaskId, AgentId] = {}
        self._summaries: dict[messages.TaskId, str] = {}
        self._step_outputs: dict[messages.TaskId, dict[str, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """See `ports.Link`."""
        for message in outgoing:
            match message:
                case messages.Offer(task=task):
                    self._spawn(self._play(agent, task))
                case messages.Cancel(key=key):
                    if self.held.pop(key, None) is not None:
                        self._finish(agent, key, Outcome.CANCELLED, None)
                case _:
                    pass

    def revoke(self, agent: AgentId) -> None:
        """See `ports.Link`."""

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """See `ports.Link`."""

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, agent: AgentId, task: messages.Task) -> None:
        assert self.driver is not None
        key = task.key
        started = inputs.TaskStarted(started_at=self._clock.now(), **_names(agent, key))
        self.driver.submit([(key.attempt.run, started)])
        if task.node == "log":
            await self.print(key, task.params["message"].encode() + b"\n")
            self._finish(agent, key, Outcome.SUCCESS, None)
            return
        code = 0
        script = str(task.params.get("run", ""))
        for name, value in task.env.items():
            script = script.replace(f"${{{name}}}", value)
        for line in script.splitlines():
            word, _, text = line.strip().partition(" ")
            if word in ("print", "printerr"):
                await self.print(key, text.encode() + b"\n", stream=1 if word == "print" else 2)
            elif word == "exit":
                code = int(text)
            elif word == "summarize":
                self._summaries[key] = self._summaries.get(key, "") + text + "\n"
            elif word == "output":
                name, _, value = text.partition("=")
                self._step_outputs.setdefault(key, {})[name] = value
            elif word == "hold":
                self.held[key] = agent
                return
        self._finish(agent, key, Outcome.SUCCESS if code == 0 else Outcome.FAILURE, code)

    async def print(self, key: messages.TaskId, data: bytes, stream: int = 1) -> None:
        """An attempt prints something."""
        name = key.attempt
        piece = OutputPiece(offset=self._outputs.size(name), at=self._clock.now(), stream=stream, data=data)
        await self._outputs.append([OutputAppend(attempt=key.attempt, pieces=[piece])])
        self._feed.output_published(name.run)

    def release(self, key: messages.TaskId, code: int = 0) -> None:
        """Ends a held attempt."""
        agent = self.held.pop(key)
        self._finish(agent, key, Outcome.SUCCESS if code == 0 else Outcome.FAILURE, code)

    def _finish(self, agent: AgentId, key: messages.TaskId, outcome: Outcome, code: int | None) -> None:
        assert self.driver is not None
        name = key.attempt
        now = self._clock.now()
        finished = inputs.TaskFinished(
            outcome=outcome,
            exit_code=code,
            outputs=self._step_outputs.pop(key, {}),
            started_at=now,
            finished_at=now,
            output_bytes=self._outputs.size(name),
            summary=self._summaries.pop(key, ""),
            **_names(agent, key),
        )
        self.driver.submit([(key.attempt.run, finished)])


def _names(agent: AgentId, key: messages.TaskId) -> dict[str, Any]:
    return {
        "job": key.attempt.job,
        "step": key.attempt.step,
        "attempt": key.attempt.number,
        "epoch": key.epoch,
        "agent": agent,
    }


@dataclass
class MemoryAgentAdmin:
    """`admin.ports.AgentAdmin` over lists."""

    agents: list[AgentRow] = field(default_factory=list)
    waiting: list[PendingRow] = field(default_factory=list)
    join_tokens: list[JoinTokenRow] = field(default_factory=list)
    revoked_keys: list[RevokedRow] = field(default_factory=list)

    def rows(self) -> Sequence[AgentRow]:
        """See the protocol."""
        return sorted(self.agents, key=lambda row: row.name)

    def pending(self) -> Sequence[PendingRow]:
        """See the protocol."""
        return self.waiting

    def server(self) -> ServerRow:
        """See the protocol."""
        return ServerRow(key="k" * 40, fingerprint="SHA256:" + "A" * 43, work="tcp://h:7233", enroll="tcp://h:7234")

    async def create_token(self, groups: Sequence[str], ttl_ms: int, uses: int | None, by: str) -> tuple[str, str]:
        """See the protocol."""
        row = JoinTokenRow(
            id=f"{len(self.join_tokens) + 1}",
            groups=tuple(groups),
            uses=uses,
            used=0,
            created_at=0,
            created_by=by,
            expires_at=ttl_ms,
        )
        self.join_tokens.append(row)
        token = JoinToken(
            enroll_endpoint="tcp://127.0.0.1:7234",
            work_endpoint="tcp://127.0.0.1:7233",
            server_key="k" * 40,
            token_id=row.id,
            secret="s",
        )
        return row.id, token.encode()

    def tokens(self) -> Sequence[JoinTokenRow]:
        """See the protocol."""
        return self.join_tokens

    async def revoke_token(self, token_id: str, by: str) -> JoinTokenRow:
        """See the protocol."""
        for index, row in enumerate(self.join_tokens):
            if row.id == token_id:
                self.join_tokens[index] = msgspec.structs.replace(row, revoked_at=1)
                return self.join_tokens[index]
        raise Rejected("WF604", "there is no such join token", status=404)

    async def approve(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """See the protocol."""
        for row in self.waiting:
            if row.fingerprint == fingerprint:
                self.waiting.remove(row)
                name, text = row.name, f"approved by {by}"
                made = AgentRow(fingerprint=fingerprint, name=name, groups=tuple(groups), is_connected=False, text=text)
                self.agents.append(made)
                return made
        raise Rejected("WF604", "no such key has asked", status=404)

    async def accept(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        for index, row in enumerate(self.agents):
            if row.fingerprint == fingerprint and row.alarm:
                self.agents[index] = msgspec.structs.replace(row, alarm="")
                return self.agents[index]
        raise Rejected("WF606", "no other server has tried to connect", status=409)

    async def revoke(self, fingerprint: str, by: str) -> None:
        """See the protocol."""
        if all(row.fingerprint != fingerprint for row in self.agents):
            raise Rejected("WF604", "there is no such agent", status=404)
        (row,) = [row for row in self.agents if row.fingerprint == fingerprint]
        self.agents.remove(row)
        self.revoked_keys.append(RevokedRow(fingerprint=fingerprint, name=row.name, revoked_at=1, revoked_by=by))

    def revoked(self) -> Sequence[RevokedRow]:
        """See the protocol."""
        return sorted(self.revoked_keys, key=lambda row: row.name)

    async def drain(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        return self._change(fingerprint, drained_at=1, drained_by=by, is_drained=True)

    async def undrain(self, fingerprint: str, by: str) -> AgentRow:
        """See the protocol."""
        return self._change(fingerprint, drained_at=None, drained_by="", is_drained=False)

    async def set_groups(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """See the protocol."""
        return self._change(fingerprint, groups=tuple(groups))

    async def remove(self, fingerprint: str, by: str) -> None:
        """See the protocol."""
        if any(row.fingerprint == fingerprint and row.is_connected and not row.is_drained for row in self.agents):
            raise Rejected("WF228", "the agent is connected; drain it first", status=409)
        self.agents = [row for row in self.agents if row.fingerprint != fingerprint]
        self.revoked_keys = [row for row in self.revoked_keys if row.fingerprint != fingerprint]

    def _change(self, fingerprint: str, **changes: Any) -> AgentRow:
        for index, row in enumerate(self.agents):
            if row.fingerprint == fingerprint:
                self.agents[index] = msgspec.structs.replace(row, **changes)
                return self.agents[index]
        raise Rejected("WF227", "there is no such agent", status=404)


@dataclass
class MemoryRepositoryAdmin:
    """`admin.ports.RepositoryAdmin` over lists."""

    repositories: list[RepositoryRow] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    synced: list[tuple[str, bool]] = field(default_factory=list)
    schedule_rows: list[ScheduleRow] = field(default_factory=list)
    shared: list[QuotaUse] = field(default_factory=list)
    #: The commit that is applied.
    revision: str = "a" * 40

    def status(self) -> Sequence[RepositoryRow]:
        """See the protocol."""
        return self.repositories

    def shared_quotas(self) -> Sequence[QuotaUse]:
        """See the protocol."""
        return self.shared

    async def definitions(self) -> Sequence[DefinitionRow]:
        """See the protocol."""
        return [
            DefinitionRow(
                path=path,
                name=found.name,
                repository="ops",
                revision=self.revision,
                inputs=found.inputs,
                triggers=("push", "dispatch"),
            )
            for path in sorted(self.files)
            for found in [plans.decode((await self.plan(path, None)).plan)]
        ]

    async def schedules(self, name: str | None) -> Sequence[ScheduleRow]:
        """See the protocol."""
        return [row for row in self.schedule_rows if name in (None, row.path, row.name)]

    async def plan(self, path: str, repository: str | None) -> DefinitionPlan:
        """See the protocol."""
        compiled = compile_workflow(path, self.files[path])
        assert compiled.plan is not None, compiled.diagnostics
        return DefinitionPlan(plan=compiled.plan, repository="ops", revision=self.revision, ref="refs/heads/main")

    async def sync(self, name: str, *, is_awaited: bool) -> RepositoryRow:
        """See the protocol."""
        self.synced.append((name, is_awaited))
        return next(row for row in self.repositories if row.name == name)

    async def suspend(self, name: str, by: str) -> RepositoryRow:
        """See the protocol."""
        return self._replaced(name, is_ready=False, text=f"suspended by {by}")

    async def resume(self, name: str, by: str) -> RepositoryRow:
        """See the protocol."""
        return self._replaced(name, is_ready=True, text=f"resumed by {by}")

    def _replaced(self, name: str, *, is_ready: bool, text: str) -> RepositoryRow:
        index = next(index for index, row in enumerate(self.repositories) if row.name == name)
        self.repositories[index] = msgspec.structs.replace(self.repositories[index], is_ready=is_ready, text=text)
        return self.repositories[index]


class ApiHarness:
    """An API and everything below it; `async with ApiHarness() as harness` runs the driver."""

    def __init__(
        self,
        *,
        is_open: bool = True,
        listen: str | None = "127.0.0.1:8080",
        requests_per_s: int = 0,
        api_url: str = "",
    ) -> None:
        self.clock = WallClock()
        self.log = MemoryLog()
        self.outputs = MemoryOutputLogs()
        self.feed = Feed(self.log)
        self.agents = MemoryAgentAdmin()
        self.repositories = MemoryRepositoryAdmin()
        self.fleet = ScriptedAgents(self.outputs, self.feed, self.clock)
        registry = Registry()
        self._placement = Placement(registry)
        self._registry = registry
        state = LiveState(
            runs={},
            stalled={},
            placement=self._placement,
            locks=Locks(),
            registry=registry,
            timers=Timers(),
            epoch=self.log.generation,
        )
        queries = RunQueries(self.log)
        self.driver = Driver(state, self.log, self.fleet, self.clock, self.feed, queries)
        self.fleet.driver = self.driver
        self.tokens = TokenRegistry()
        time_slices = TimeSlices()
        self.services = Services(
            history=LogHistory(self.log, self.feed, time_slices),
            generation=self.log.generation,
            metrics=DriverMetrics(self.driver, dict),
            outputs=LogOutputs(self.outputs),
            runs=self.driver,
            feed=self.feed,
            compiler=DirectCompiler(),
            validator=DirectCompiler(),
            reader=LogRunReader(queries, self.driver, time_slices),
            agents=self.agents,
            repositories=self.repositories,
            clock=self.clock,
            time_slices=time_slices,
            tokens=self.tokens,
            token_writer=LogStreamWriter(self.driver, AUDIT, self.tokens.apply),
            version=VERSION,
            started_at=self.clock.now(),
            requests_per_s=requests_per_s,
            is_open=is_open,
            listen=listen,
            api_url=api_url,
            fingerprint="SHA256:" + "A" * 43,
        )
        self.api: Api = Api(self.services)

    async def __aenter__(self) -> ApiHarness:
        self._task = asyncio.create_task(self.driver.run(), name="driver")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.api.stop()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def connect(self, name: str, *groups: str) -> None:
        """Connects an agent of these groups."""
        agent = AgentId(f"SHA256:{name:x<43}")
        now = self.clock.now()
        self._registry.apply(
            fleet_events.AgentApproved(at=now, by="test", agent=agent, public_key=name, name=name, groups=groups)
        )
        nodes = frozenset(known for known, node in schema.BUILT_IN.items() if node.runs_in is not schema.RunsIn.ENGINE)
        server = Server(agent=agent, instance="i", boot_id="b", slots=4, nodes=nodes, facts={"hostname": name})
        self._placement.connect(server)
        row = AgentRow(
            fingerprint=agent, name=name, groups=groups, is_connected=True, text="connected", slots=4, seen_at=now
        )
        self.agents.agents.append(row)
        self.driver.wake()

    def token(self, role: Role, *, name: str | None = None, groups: tuple[str, ...] = (), ttl_ms: int = 60_000) -> str:
        """Creates an API token with this role."""
        name = name or role.value
        secret = f"wf_{name:0<43}"
        now = self.clock.now()
        self.tokens.apply(
            events.TokenCreated(
                at=now,
                by="test",
                token=f"t-{name}",
                name=name,
                role=role.value,
                secret_sha256=hash_secret(secret),
                groups=groups,
                expires_at=now + ttl_ms,
            )
        )
        return secret

    def audit(self) -> list[Any]:
        """The facts of the audit stream."""
        return [record.event for record in self.log.read(AUDIT)]

    async def held(self, count: int = 1) -> list[messages.TaskId]:
        """Waits until this many attempts are held; returns them in order of arrival."""
        await until(lambda: len(self.fleet.held) >= count)
        return list(self.fleet.held)

    async def completed(self, run: str) -> None:
        """Waits until the run has completed."""

        def is_completed() -> bool:
            row = self.log.run(RunId(run))
            return row is not None and row.completed_at is not None

        await until(is_completed)
