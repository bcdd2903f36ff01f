"""Artifacts for agents: only those of the run of an open attempt of the asking agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.unit.artifacts.harness import Prepared, new_store, put
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflowd.artifacts import server as server_module
from waterflowd.artifacts.blocks import scope_of
from waterflowd.model.ids import AgentId, RunId
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, agent_id, request

FILES = {"a": b"one", "b": b"two"}


async def running(host: HostHarness, repository: str | None = "ops") -> messages.Task:
    """Returns the task of a new run."""
    await host.driver.start(msgspec.structs.replace(request(ONE_STEP), repository=repository))
    await until(lambda: host.link.offers())
    offer = next(message for _, message in host.link.sent if isinstance(message, messages.Offer))
    host.link.take()
    return offer.task


async def ask(
    host: HostHarness, agent: AgentId, key: messages.TaskId, action: messages.ArtifactAction
) -> messages.ArtifactResponse:
    host.agents.artifact_requested(agent, messages.ArtifactRequest(key, 7, action))
    await until(lambda: [m for _, m in host.link.sent if isinstance(m, messages.ArtifactResponse)])
    return next(m for m in host.link.take() if isinstance(m, messages.ArtifactResponse))


async def upload(host: HostHarness, agent: AgentId, key: messages.TaskId, prepared: Prepared) -> None:
    stores = [messages.StoreBlock(*item) for item in prepared.blocks.items()]
    actions: list[messages.ArtifactAction] = [prepared.begin, *stores, prepared.commit]
    for action in actions:
        answer = await ask(host, agent, key, action)
        assert answer.result == messages.ArtifactAccepted(), answer


async def test_a_step_stores_an_artifact_and_reads_it_back(tmp_path: Path) -> None:
    """The whole exchange: begin, which blocks are missing, blocks, commit; list, table, listing, content."""
    prepared = Prepared("site", FILES)
    async with HostHarness(artifacts=new_store(tmp_path)) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        key = (await running(host)).key
        digests = list(prepared.blocks)
        missing = await ask(host, agent, key, messages.FindBlocks(digests))
        assert missing.result == messages.MissingBlocks(list(range(len(digests))))
        await upload(host, agent, key, prepared)
        assert (await ask(host, agent, key, messages.FindBlocks(digests))).result == messages.MissingBlocks([])

        listed = (await ask(host, agent, key, messages.ListArtifacts("site"))).result
        assert isinstance(listed, messages.ArtifactsListed)
        (row,) = listed.artifacts
        assert (row.name, row.files, row.size) == ("site", 2, 6)
        for part in messages.ArtifactPart:
            read = messages.ReadBlock("site", row.digest, part, 0)
            found = (await ask(host, agent, key, read)).result
            assert isinstance(found, messages.BlockRead)
            assert found.data in prepared.blocks.values()
        beyond = messages.ReadBlock("site", row.digest, messages.ArtifactPart.CONTENT, 1)
        assert (await ask(host, agent, key, beyond)).code == "WF334"
        replaced = messages.ReadBlock("site", b"?" * 32, messages.ArtifactPart.CONTENT, 0)
        assert (await ask(host, agent, key, replaced)).code == "WF334"


async def test_repeated_requests_change_nothing(tmp_path: Path) -> None:
    """An agent sends its open requests again in each new session, so each may arrive twice."""
    prepared = Prepared("site", FILES)
    async with HostHarness(artifacts=new_store(tmp_path)) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        key = (await running(host)).key
        await upload(host, agent, key, prepared)
        await upload(host, agent, key, prepared)
        listed = (await ask(host, agent, key, messages.ListArtifacts())).result
        assert isinstance(listed, messages.ArtifactsListed)
        assert len(listed.artifacts) == 1


async def test_an_agent_without_an_open_attempt_of_the_run_gets_and_stores_nothing(tmp_path: Path) -> None:
    """Another agent, an old lease, a run that does not exist, an attempt that has ended: for every action."""
    prepared, store = Prepared("site", FILES), new_store(tmp_path)
    async with HostHarness(artifacts=store) as host:
        agent = host.enroll("web-1", "web")
        other = host.enroll("db-1", "db")
        host.hello(agent)
        host.hello(other)
        key = (await running(host)).key
        await upload(host, agent, key, prepared)
        digest = store.of_run(RunId(key.attempt.run), host.clock.at)[0].digest
        before = store.blocks.stored_bytes
        actions: list[messages.ArtifactAction] = [
            prepared.begin,
            messages.FindBlocks(list(prepared.blocks)),
            messages.StoreBlock(*next(iter(Prepared("x", {"evil": b"new"}).blocks.items()))),
            msgspec.structs.replace(prepared.commit, is_replacing=True),
            messages.ListArtifacts(),
            messages.ReadBlock("site", digest, messages.ArtifactPart.CONTENT, 0),
            messages.BeginCache("npm", digest, 1, 1),
            messages.CommitCache("npm", digest, 1, 1, [digest], [digest]),
            messages.FindCache(["npm"], digest),
            messages.ReadCacheBlock("npm", digest, digest, messages.ArtifactPart.CONTENT, 0),
            messages.FindCacheOrigin(),
        ]
        stale = msgspec.structs.replace(key, epoch=key.epoch + 1)
        unknown = task_id(str(RunId("01J8XQ5T3MZ6V0K9B7N2C4D1EF")), "build", "1", 1, key.epoch)
        for action in actions:
            for asking, used in ((other, key), (agent_id("nobody"), key), (agent, stale), (agent, unknown)):
                answer = await ask(host, asking, used, action)
                assert (answer.code, answer.result, answer.after_ms) == ("WF219", None, 0), (action, asking)
        host.finished(agent, key)
        await until(lambda: host.attempts.find(agent, key.attempt).is_open is False)  # type: ignore[union-attr]
        host.link.take()
        for action in actions:
            assert (await ask(host, agent, key, action)).code == "WF219"
        assert store.blocks.stored_bytes == before
        assert host.link.rejected


async def test_an_agent_reads_only_artifacts_of_its_own_run(tmp_path: Path) -> None:
    """Neither by name nor by digest: another run of the same repository has an artifact of that name."""
    store = new_store(tmp_path)
    async with HostHarness(artifacts=store) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        first = (await running(host)).key
        await upload(host, agent, first, Prepared("secret", FILES))
        digest = store.of_run(RunId(first.attempt.run), host.clock.at)[0].digest
        host.finished(agent, first)
        second = (await running(host)).key

        assert second.attempt.run != first.attempt.run
        assert (await ask(host, agent, second, messages.ListArtifacts())).result == messages.ArtifactsListed([])
        assert (await ask(host, agent, second, messages.ListArtifacts("secret"))).code == "WF334"
        read = messages.ReadBlock("secret", digest, messages.ArtifactPart.CONTENT, 0)
        assert (await ask(host, agent, second, read)).code == "WF334"


async def test_what_another_repository_has_stored_cannot_be_claimed(tmp_path: Path) -> None:
    """An artifact made of digests alone is refused, although another repository has blocks with these digests."""
    store, prepared = new_store(tmp_path), Prepared("site", FILES)
    async with HostHarness(artifacts=store) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        put(store, "site", FILES, scope=scope_of("private", "any"))
        key = (await running(host, "public")).key

        assert (await ask(host, agent, key, prepared.commit)).code == "WF333"
        found = (await ask(host, agent, key, messages.FindBlocks(list(prepared.blocks)))).result
        assert found == messages.MissingBlocks(list(range(len(prepared.blocks))))


async def test_requests_beyond_the_limit_get_a_retry_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered, so a slow disk takes a bounded amount of memory."""
    async with HostHarness(artifacts=new_store(tmp_path)) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        key = (await running(host)).key
        gate, real = asyncio.Event(), host.artifacts.read

        async def slow(call: object) -> object:
            await gate.wait()
            return await real(call)  # type: ignore[arg-type]

        monkeypatch.setattr(host.artifacts, "read", slow)
        count = server_module.AGENT_REQUESTS_MAX + 3
        for number in range(count):
            host.agents.artifact_requested(agent, messages.ArtifactRequest(key, number, messages.ListArtifacts()))
        later = [m for m in host.link.take() if isinstance(m, messages.ArtifactResponse)]
        assert [(m.code, m.after_ms) for m in later] == [("WF219", server_module.RETRY_MS)] * 3
        gate.set()
        await until(lambda: len(host.link.sent) >= server_module.AGENT_REQUESTS_MAX)
        assert all(m.result for m in host.link.take() if isinstance(m, messages.ArtifactResponse))


async def test_a_step_cannot_fill_the_disk_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt may send is limited by the size of an artifact."""
    monkeypatch.setattr(server_module, "_ATTEMPT_SLACK_BYTES", -(10 << 30) + 10)
    async with HostHarness(artifacts=new_store(tmp_path)) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        key = (await running(host)).key
        answers = [
            await ask(host, agent, key, messages.StoreBlock(*next(iter(Prepared("x", {"f": data}).blocks.items()))))
            for data in (b"12345", b"6789a", b"b")
        ]
        assert [answer.code for answer in answers] == ["", "", "WF330"]


async def test_a_daemon_without_a_store_says_so() -> None:
    """On Temporal, several daemons share the runs, and artifacts are not supported yet."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        key = (await running(host)).key
        answer = await ask(host, agent, key, messages.ListArtifacts())
        assert answer.code == "WF335"
        assert "Temporal" in answer.text
        answer = await ask(host, agent, key, messages.FindCache(["npm"], bytes(32)))
        assert (answer.code, "scope: server" in answer.text) == ("WF335", True)
