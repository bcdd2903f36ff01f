"""Files for agents: only those of an open attempt of the requesting agent."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.errors import Retryable
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflowd.host.agents import file_server as files_module
from waterflowd.model.ids import AgentId
from waterflowd.pacing import Pacing
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, agent_id, request

FILES = {"a": b"one", "b": b"two"}


def trees(repository: str, revision: str) -> dict[str, bytes] | None:
    return {("ops", "1"): FILES, ("ops", "2"): {"c": b"other"}}.get((repository, revision))


async def running(host: HostHarness, revision: str | None = "1", workflow: str = ONE_STEP) -> messages.Task:
    """Returns an agent that has an attempt of a run of this revision."""
    start = request(workflow)
    with_files = msgspec.structs.replace(start, repository="ops", revision=revision) if revision else start
    await host.driver.start(with_files)
    await until(lambda: host.link.offers())
    offer = next(message for _, message in host.link.sent if isinstance(message, messages.Offer))
    host.link.take()
    return offer.task


async def requested(host: HostHarness, agent: AgentId, request: messages.FileRequest) -> messages.FileResponse:
    host.agents.file_requested(agent, request)
    await until(lambda: [message for _, message in host.link.sent if isinstance(message, messages.FileResponse)])
    return next(message for message in host.link.take() if isinstance(message, messages.FileResponse))


async def test_the_attempt_s_agent_gets_the_list_and_the_files() -> None:
    """The task says that the job has files."""
    async with HostHarness(trees=trees) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host)
        assert task.tree == messages.Tree("ops", "1", [])
        answer = await requested(host, agent, messages.FileRequest(task.key, 7, [], 0))
        assert (answer.number, answer.code) == (7, "")
        assert [entry.path for entry in file_list.decode(answer.chunks[0].data)] == [b"a", b"b"]
        answer = await requested(host, agent, messages.FileRequest(task.key, 8, [blob_id(b"two"), blob_id(b"one")], 1))
        assert [piece.data for piece in answer.chunks] == [b"wo", b"one"]


async def test_the_parts_of_a_large_file_take_turns_while_steps_are_in_progress() -> None:
    """What begins a job does not wait: neither the list of its files, nor the beginnings of files."""
    turns = 0

    def events() -> int:
        nonlocal turns
        turns += 1
        return turns

    async with HostHarness(trees=trees, pacing=Pacing(events)) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host)
        before = turns
        await requested(host, agent, messages.FileRequest(task.key, 1, [], 0))
        await requested(host, agent, messages.FileRequest(task.key, 2, [blob_id(b"one")], 0))
        assert turns == before
        answer = await requested(host, agent, messages.FileRequest(task.key, 3, [blob_id(b"one")], 2))
        assert (turns, [piece.data for piece in answer.chunks]) == (before + 1, [b"e"])


async def test_another_agent_another_epoch_and_another_file_get_nothing() -> None:
    """This holds even for the correct name of a file of another commit, or of another agent's attempt."""
    async with HostHarness(trees=trees) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host)
        other = msgspec.structs.replace(task.key, epoch=task.key.epoch + 1)
        refused = [
            await requested(host, agent_id("db-1"), messages.FileRequest(task.key, 1, [], 0)),
            await requested(host, agent, messages.FileRequest(other, 1, [], 0)),
            await requested(host, agent, messages.FileRequest(task_id("x", "x", "x", 1, 1), 1, [], 0)),
            await requested(host, agent, messages.FileRequest(task.key, 1, [blob_id(b"other")], 0)),
        ]
        assert {(answer.code, len(answer.chunks), answer.after_ms) for answer in refused} == {("WF219", 0, 0)}


@pytest.mark.parametrize("checkout", ["checkout: false", ""])
async def test_a_job_without_a_checkout_has_no_files(checkout: str) -> None:
    """The job has `checkout: false`, or its run has no repository."""
    workflow = ONE_STEP.replace("steps:", f"{checkout}, steps:") if checkout else ONE_STEP
    async with HostHarness(trees=trees) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host, "1" if checkout else None, workflow)
        assert task.tree is None
        assert (await requested(host, agent, messages.FileRequest(task.key, 1, [], 0))).code == "WF219"


async def test_a_missing_revision_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary error says when to retry."""
    async with HostHarness(trees=trees) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host, "3")
        assert (await requested(host, agent, messages.FileRequest(task.key, 1, [], 0))).after_ms == 0

        async def away(*_: object) -> None:
            raise Retryable("WF503", "away", after_s=2)

        monkeypatch.setattr(host.files._files, "listed", away)
        answer = await requested(host, agent, messages.FileRequest(task.key, 2, [], 0))
        assert (answer.code, answer.text, answer.after_ms) == ("WF503", "away", 2_000)


async def test_requests_beyond_the_limit_get_a_retry_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered, and a repeated request is answered too."""
    async with HostHarness(trees=trees) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        task = await running(host)
        gate = asyncio.Event()
        real = host.files._files.listed

        async def slow(expected: object) -> object:
            await gate.wait()
            return await real(expected)  # type: ignore[arg-type]

        monkeypatch.setattr(host.files._files, "listed", slow)
        for number in range(files_module.REQUESTS_MAX + 5):
            host.agents.file_requested(agent, messages.FileRequest(task.key, number, [], 0))
        later = [message for message in host.link.take() if isinstance(message, messages.FileResponse)]
        assert [(content.number, content.after_ms) for content in later] == [
            (files_module.REQUESTS_MAX + number, files_module.RETRY_MS) for number in range(5)
        ]
        gate.set()
        await until(lambda: len(host.link.sent) >= files_module.REQUESTS_MAX)
        answers = [message for message in host.link.take() if isinstance(message, messages.FileResponse)]
        assert all(content.chunks for content in answers)
        assert (await requested(host, agent, messages.FileRequest(task.key, 99, [], 0))).number == 99
