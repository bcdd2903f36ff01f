"""One stream for a page: what each topic sends, how changes are gathered, and how a reader returns without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.integration.api.clients import client_of
from tests.patience import PATIENCE_S
from waterflowd.access.roles import ANONYMOUS, Principal, Role
from waterflowd.admin.ports import AgentRow, RepositoryRow
from waterflowd.api.loop_time import Meter
from waterflowd.api.runs.outlines import Outlines
from waterflowd.api.streaming import live, live_output, output_pages, streams
from waterflowd.api.streaming.live import Live, parse_topics
from waterflowd.api.streaming.live_output import OutputSubscriber, parse_output_topic
from waterflowd.api.streaming.streams import Place
from waterflowd.model.ids import RunId
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

JOB = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: {script}\n"
NOBODY = Principal(name=ANONYMOUS, role=Role.ADMIN)


class Reader:
    """A page that follows."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.id: int | None = None

    async def next(self) -> list[tuple[str, Any]]:
        """The events of the next piece."""
        piece = (await asyncio.wait_for(anext(self._pieces), PATIENCE_S)).decode()
        found = []
        for block in piece.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "id" in fields:
                self.id = int(fields["id"])
            if "event" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    async def rest(self) -> AsyncIterator[bytes]:
        """The pieces until the end, except comments."""
        async with asyncio.timeout(PATIENCE_S):
            async for piece in self._pieces:
                if not piece.startswith(b":"):
                    yield piece

    async def until_event(self, kind: str, **expected: Any) -> list[tuple[str, Any]]:
        """All events until one of this kind with these values."""
        found: list[tuple[str, Any]] = []
        while True:
            found += await self.next()
            for name, content in found:
                if name == kind and all(content.get(key) == value for key, value in expected.items()):
                    return found

    async def until_row(self, key: str, **expected: Any) -> list[tuple[str, Any]]:
        """All events until this row has these values."""
        found: list[tuple[str, Any]] = []
        while True:
            found += await self.next()
            rows = [content["row"] for name, content in found if name == "row" and content["key"] == key]
            if any(row is not None and expected.items() <= row.items() for row in rows):
                return found


@contextlib.asynccontextmanager
async def _follow(
    harness: ApiHarness, topics: str, after: int | None = None, principal: Principal = NOBODY
) -> AsyncIterator[Reader]:
    source = Live(harness.services, Outlines(harness.services.history))
    place = Place(harness.api.streams, Meter(harness.api.pools.tcp.share))
    following = source.follow(harness.feed, place, principal, parse_topics(topics), after)
    async with contextlib.aclosing(following) as pieces:
        yield Reader(pieces)


async def _start(harness: ApiHarness, script: str = "exit 0") -> str:
    async with client_of(harness) as client:
        started = await client.post("/v1/runs", json={"yaml": JOB.format(script=script)})
    run: str = started.json()["id"]
    return run


async def test_rows_and_outlines_of_runs_are_sent_as_they_change() -> None:
    """The newest row is that of the list, and the differences of an outline add up to the outline."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await _start(harness, "hold")
        [held] = await harness.held()
        first = (await client.get(f"/v1/runs/{run}/outline")).json()
        async with _follow(harness, f"runs,run:{run}@{first['seq']}") as reader:
            assert await reader.next() == []
            assert (await reader.next())[0] == ("open", {"seq": harness.feed.last_seq})
            harness.fleet.release(held)
            found = await reader.until_row(run, conclusion="success")
            listed = (await client.get("/v1/runs")).json()["runs"]
            assert [content["row"] for name, content in found if name == "row"][-1] == listed[0]
            nodes = {node["place"]: node for node in first["nodes"]}
            seq = first["seq"]
            for name, content in found:
                if name == "run":
                    assert (content["run"], content["after"]) == (run, seq)
                    seq = content["outline"]["seq"]
                    for node in content["outline"]["nodes"]:
                        before = nodes[node["place"]].get("changes", [])
                        if node["changes"] and before and before[-1][2] == "finished":
                            before = before[:-1]
                        nodes[node["place"]] = node | {"changes": before + node["changes"]}
            whole = (await client.get(f"/v1/runs/{run}/outline")).json()
            assert seq == whole["seq"]
            assert nodes == {node["place"]: node for node in whole["nodes"]}
        assert harness.feed._watchers == [], "a reader that has left costs nothing"


class Output:
    """What a page was sent of the output of some attempts, by topic."""

    def __init__(self) -> None:
        self.text: dict[str, str] = {}
        self.complete: set[str] = set()
        self._ends: dict[str, int] = {}

    async def read(self, reader: Reader, until_text: str | None = None) -> None:
        """Reads until both topics have this text, or are complete."""
        while len([text for text in self.text.values() if until_text and until_text in text] or self.complete) < 2:
            for name, content in await reader.next():
                if name == "block":
                    self._add(content["topic"], content)

    def _add(self, topic: str, content: Any) -> None:
        for block in content["blocks"]:
            assert block["offset"] == self._ends.get(topic, block["offset"])
            self.text[topic] = self.text.get(topic, "") + block["text"]
            self._ends[topic] = block["offset"] + block["bytes"]
        if content["is_complete"]:
            self.complete.add(topic)


async def test_output_is_sent_as_blocks_without_a_seam() -> None:
    """What a page has fetched and what it is sent then are one sequence of bytes; the last piece says so."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await _start(harness, "hold")
        [held] = await harness.held()
        lines = "".join(f"line {number}\n" for number in range(1, 26_001))
        await harness.fleet.print(held, f"{lines}open".encode())
        page = (await client.get(f"/v1/runs/{run}/output", params={"job": "a", "step": "1", "tail": 3})).json()
        assert "".join(block["text"] for block in page["blocks"]) == "line 25999\nline 26000\nopen"
        last, whole = f"output:{run}/a/1/1", f"output:{run.lower()}/a/1/1"
        party = "\N{PARTY POPPER}"
        async with _follow(harness, f"{last}@{page['lines']},{whole}") as reader:
            output = Output()
            await output.read(reader, "open")
            await harness.fleet.print(held, b"ed " + party.encode()[:-2])
            await output.read(reader, "opened ")
            await harness.fleet.print(held, party.encode()[-2:] + b"\nerror\n", stream=2)
            await output.read(reader, "error")
            harness.fleet.release(held)
            await output.read(reader)
        assert output.text == {last: f"opened {party}\nerror\n", whole: f"{lines}opened {party}\nerror\n"}
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert "live: output" not in names, "a reader that has left costs nothing"


async def test_a_piece_of_output_is_bounded_and_the_rest_follows_at_once() -> None:
    """Whatever the size of what is there: what does not fit into one piece of the stream needs no new output to follow."""
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        run = await _start(harness, "hold")
        [held] = await harness.held()
        whole = b"".join(b"line %d\n" % number for number in range(26_000))
        assert live_output.PIECE_BYTES < len(whole) < output_pages.READ_BYTES
        for begin in range(0, len(whole), 10_000):
            await harness.fleet.print(held, whole[begin : begin + 10_000])
        wake = asyncio.Event()
        subscriber = OutputSubscriber(harness.services, parse_output_topic(f"{run}/a/1/1"), wake)
        try:
            text = ""
            wake.set()
            while wake.is_set():
                wake.clear()
                found = await subscriber.take()
                assert found is not None
                size = sum(block.bytes for block in found.blocks)
                assert size <= live_output.PIECE_BYTES + 10_000
                text += "".join(block.text for block in found.blocks)
            assert text.encode() == whole
        finally:
            await subscriber.close()


async def test_output_that_does_not_exist_yet_is_followed_from_its_first_line() -> None:
    """Names are percent-encoded, and an attempt that has not been queued is no error: its output is sent when it comes."""
    job = "jobs:\n  a:\n    runs-on: web\n    strategy: {matrix: {n: ['1, 2']}}\n"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        workflow = f"{job}    steps:\n      - run: hold\n      - run: print hi\n"
        run = (await client.post("/v1/runs", json={"yaml": workflow})).json()["id"]
        [held] = await harness.held()
        name = quote(held.attempt.job, safe="")
        assert name != held.attempt.job
        async with _follow(harness, f"output:{run}/{name}/2/1@1") as reader:
            await reader.next()
            harness.fleet.release(held)
            found = await reader.until_event("block", is_complete=True)
            blocks = [block for name, content in found if name == "block" for block in content["blocks"]]
            assert "".join(block["text"] for block in blocks) == "hi\n"


async def test_changes_are_gathered_and_only_the_newest_state_is_sent() -> None:
    """However many events there were since the last piece, it has one row of each run."""
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        async with _follow(harness, "runs") as reader:
            await reader.next()
            await reader.next()
            runs = [await _start(harness) for _ in range(12)]
            for run in runs:
                await harness.completed(run)
            found = await reader.until_row(runs[-1], conclusion="success")
            keys = [content["key"] for name, content in found if name == "row"]
            # The first change is sent at once, so one run may have two rows.
            assert len(keys) <= len(runs) + 2
            newest = {content["key"]: content["row"]["conclusion"] for _, content in found}
            assert newest == dict.fromkeys(runs, "success")


async def test_a_reader_returns_without_a_gap() -> None:
    """With the id of its last piece it is sent everything that has changed meanwhile, and nothing else."""
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        before = await _start(harness)
        await harness.completed(before)
        async with _follow(harness, "runs") as reader:
            await reader.next()
            await reader.next()
            seen = await _start(harness)
            await reader.until_row(seen, conclusion="success")
        missed = [await _start(harness) for _ in range(3)]
        for run in missed:
            await harness.completed(run)
        async with _follow(harness, "runs", reader.id) as again:
            await again.next()
            found = await again.next()
            assert {content["key"] for name, content in found if name == "row"} == set(missed)
            assert again.id == harness.feed.last_seq


async def test_a_reader_that_is_too_far_behind_fetches_its_lists_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with an id of another log. What it follows alone is still sent."""
    monkeypatch.setattr(live, "CATCH_UP_MAX", 5)
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        run = await _start(harness)
        await harness.completed(run)
        for after in (0, harness.feed.last_seq + 7):
            async with _follow(harness, f"runs,agents,run:{run}", after) as reader:
                found = await reader.until_event("run")
                assert [content for name, content in found if name == "lag"] == [{"topic": "agents"}, {"topic": "runs"}]
                assert not [name for name, _ in found if name == "row"]
                assert found[-1][1]["outline"]["conclusion"] == "success"


async def test_too_many_changed_runs_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a page is shorter; what it follows alone is still sent."""
    monkeypatch.setattr(live, "CHANGED_MAX", 3)
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        followed = await _start(harness, "hold")
        [held] = await harness.held()
        async with _follow(harness, f"runs,run:{followed}") as reader:
            await reader.until_event("run")
            runs = [await _start(harness) for _ in range(8)]
            for run in runs:
                await harness.completed(run)
            harness.fleet.release(held)
            await harness.completed(followed)
            found = await reader.until_event("lag", topic="runs")
            while not any(name == "run" and content["outline"]["conclusion"] for name, content in found):
                found += await reader.next()


async def test_an_outline_with_too_many_changes_is_fetched_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece has a bound, too."""
    monkeypatch.setattr(live, "NODES_MAX", 1)
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        run = await _start(harness)
        await harness.completed(run)
        async with _follow(harness, f"run:{run}") as reader:
            await reader.until_event("lag", topic=f"run:{run}")
        async with _follow(harness, f"run:{RunId('01AAAAAAAAAAAAAAAAAAAAAAAA')}") as reader:
            await reader.next()
            assert [name for name, _ in await reader.next()] == ["open"]


async def test_agents_and_repositories_are_sent_when_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being heard from is no difference. One that is gone is null."""
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    async with ApiHarness() as harness:
        rows = harness.agents.agents
        rows.append(AgentRow(fingerprint="f1", name="web-1", groups=(), is_connected=True, text="connected", seen_at=1))
        rows.append(AgentRow(fingerprint="f2", name="web-2", groups=(), is_connected=True, text="connected", seen_at=1))
        repositories = harness.repositories.repositories
        repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
        async with _follow(harness, "agents,repositories,overview") as reader:
            await reader.next()
            await reader.next()
            rows[0] = msgspec.structs.replace(rows[0], seen_at=2)
            rows[1] = msgspec.structs.replace(rows[1], is_connected=False, text="silent for 42 s")
            found = await reader.next()
            while not any(name == "row" for name, _ in found):
                found += await reader.next()
            assert [(content["list"], content["key"]) for name, content in found if name == "row"] == [("agents", "f2")]
            del rows[0]
            repositories[0] = msgspec.structs.replace(repositories[0], is_ready=False, text="authentication failed")
            found = await reader.until_event("row", list="agents", key="f1", row=None)
            while not any(content.get("list") == "repositories" for _, content in found):
                found += await reader.next()


async def test_the_overview_has_the_open_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and again when a run has changed."""
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        async with _follow(harness, "overview") as reader:
            await reader.until_event("overview", open={})
            await _start(harness, "hold")
            await reader.until_event("overview", open={"running": 1})


@pytest.mark.parametrize("end", ["stop", "token"])
async def test_a_stream_ends_with_the_daemon_and_with_its_token(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is looked at every 15 seconds at least."""
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.01)
    async with ApiHarness(is_open=False) as harness:
        principal = harness.tokens.principal(harness.token(Role.VIEWER, name="ada"), harness.clock.now())
        assert principal is not None
        async with _follow(harness, "runs", None, principal) as reader:
            await reader.next()
            await reader.next()
            assert await reader.next() == [], "a comment keeps the connection"
            if end == "stop":
                harness.api.stop()
            else:
                await harness.services.token_admin.revoke(Principal(name="root", role=Role.ADMIN), "ada")
            assert [piece async for piece in reader.rest()] == []
        assert harness.feed._watchers == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "topics=",
        "topics=none",
        "topics=run:x",
        "topics=run:",
        "topics=output:x",
        "topics=runs,bad",
        "topics=runs&after=x",
    ],
)
async def test_unknown_topics_are_refused(query: str) -> None:
    """With the list of topics."""
    async with ApiHarness() as harness, client_of(harness) as client:
        answered = await client.get(f"/v1/live?{query}")
        assert answered.status_code == 400, answered.text


async def test_an_engine_without_a_feed_has_no_live_stream() -> None:
    """It says what to do instead."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.services.feed = None
        answered = await client.get("/v1/live?topics=runs")
        assert (answered.status_code, answered.json()["code"]) == (404, "WF604")


async def test_live_streams_count_as_streams() -> None:
    """They have the limits of all streams."""
    async with ApiHarness() as harness, client_of(harness) as client:
        limit = harness.api.pools.tcp.limits.streams_per_client
        following = [asyncio.create_task(client.get("/v1/live?topics=runs")) for _ in range(limit)]
        await until(lambda: harness.api.streams.count == limit)
        assert (await client.get("/v1/live?topics=runs")).status_code == 429
        harness.api.stop()
        answers = await asyncio.gather(*following)
        assert {answered.headers["content-type"] for answered in answers} == {f"{streams.SSE}; charset=utf-8"}
