"""The output of one attempt by line."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.api.clients import client_of, start
from waterflowd.testing.api import ApiHarness

TWICE = """
jobs:
  a:
    runs-on: web
    steps:
      - id: twice
        run: |
          print one
          printerr two
          print three
          exit 1
        retry: {max-attempts: 2, initial-interval: 1ms}
      - id: later
        run: print never
"""
HOLDS = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: |\n          print one\n          hold\n"


async def test_output_is_read_by_line() -> None:
    """From a line on, or from the end; each line has its number, time and stream."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, TWICE)
        await harness.completed(run)
        url = f"/v1/runs/{run}/output"
        page = (await client.get(url, params={"job": "a", "step": "twice"})).json()
        times = dict(page["blocks"][0].pop("at"))
        assert page == {
            "attempt": 2,
            "lines": 3,
            "bytes": 14,
            "is_complete": True,
            "left_out": [],
            "blocks": [{"line": 1, "offset": 0, "bytes": 14, "text": "one\ntwo\nthree\n", "stderr": [[2, 1]]}],
        }
        assert sorted(times) == [1, 2, 3]
        assert sorted(times.values()) == list(times.values())
        for choice, text in (
            ({"line": 2, "lines": 1}, "two\n"),
            ({"tail": 2}, "two\nthree\n"),
            ({"tail": 9}, "one\ntwo\nthree\n"),
            ({"line": 3, "attempt": 1}, "three\n"),
            ({"line": 4}, ""),
        ):
            page = (await client.get(url, params={"job": "a", "step": "twice", **choice})).json()
            assert "".join(block["text"] for block in page["blocks"]) == text, choice
            assert page["attempt"] == choice.get("attempt", 2)


async def test_output_of_a_running_step_is_not_complete() -> None:
    """A line without its end is shown, and counts as a line."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, HOLDS)
        [held] = await harness.held()
        await harness.fleet.print(held, b"tw")
        params = {"job": "a", "step": "1"}
        page = (await client.get(f"/v1/runs/{run}/output", params=params)).json()
        assert (page["lines"], page["bytes"], page["is_complete"]) == (2, 6, False)
        assert page["blocks"][0]["text"] == "one\ntw"
        harness.fleet.release(held)
        await harness.completed(run)
        assert (await client.get(f"/v1/runs/{run}/output", params=params)).json()["is_complete"]


async def test_output_that_is_not_there() -> None:
    """A step that has not run has none; unknown names are a 404 that lists the known ones."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, TWICE)
        await harness.completed(run)
        url = f"/v1/runs/{run}/output"
        empty: dict[str, Any] = {
            "attempt": None,
            "lines": 0,
            "bytes": 0,
            "is_complete": False,
            "left_out": [],
            "blocks": [],
        }
        assert (await client.get(url, params={"job": "a", "step": "later"})).json() == empty
        for params, status, text in (
            ({"job": "b", "step": "twice"}, 404, "the jobs are: a"),
            ({"job": "a", "step": "x"}, 404, "the steps are: twice, later"),
            ({"job": "a", "step": "twice", "attempt": "3"}, 404, "a/twice has attempts 1 to 2"),
            ({"job": "a"}, 400, "step"),
            ({"job": "a", "step": "twice", "line": "1", "tail": "1"}, 400, "either line or tail"),
            ({"job": "a", "step": "twice", "line": "0"}, 400, "line"),
            ({"job": "a", "step": "twice", "lines": "10001"}, 400, "lines"),
        ):
            answer = await client.get(url, params=params)
            assert (answer.status_code, text in answer.text) == (status, True), params


async def test_output_is_searched() -> None:
    """Each line that matches, then how much was searched; by default in any case."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, TWICE)
        await harness.completed(run)

        async def search(**params: Any) -> list[Any]:
            answer = await client.get(f"/v1/runs/{run}/output/search", params={"job": "a", **params})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
            return [json.loads(line) for line in answer.text.splitlines()]

        end = {"scanned": 14, "hits": 1, "is_complete": True, "more": False}
        assert await search(step="twice", q="W") == [{"line": 2, "column": 1, "text": "two"}, end]
        assert await search(step="twice", q="W", case=True) == [end | {"hits": 0}]
        assert await search(step="twice", q="wo", word=True) == [end | {"hits": 0}]
        assert await search(step="twice", q="o", line=2) == [
            {"line": 2, "column": 2, "text": "two"},
            end | {"scanned": 10},
        ]
        assert (await search(step="twice", q="o", limit=1, attempt=1))[-1] == end | {"more": True}
        assert await search(step="later", q="o") == [end | {"scanned": 0, "hits": 0}]
        for params in ({"q": ""}, {"q": "a\nb"}, {"q": "x" * 1_001}, {"q": "x", "limit": "10001"}, {}):
            query = {"job": "a", "step": "twice", **params}
            assert (await client.get(f"/v1/runs/{run}/output/search", params=query)).status_code == 400, params


async def test_searches_of_one_client_are_limited() -> None:
    """Beyond the limit the answer is a 429 that says why; a place is free again when its search has ended."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, TWICE)
        await harness.completed(run)
        searches = harness.api.pools.tcp.searches
        for _ in range(4):
            searches.take("127.0.0.1")
        params = {"job": "a", "step": "twice", "q": "o"}
        refused = await client.get(f"/v1/runs/{run}/output/search", params=params)
        assert (refused.status_code, refused.json()["code"]) == (429, "WF609")
        assert "you have 4 open searches of output, which is the limit" in refused.json()["detail"]
        searches.release("127.0.0.1")
        for _ in range(3):
            assert (await client.get(f"/v1/runs/{run}/output/search", params=params)).status_code == 200
        assert searches.count == 3
        assert harness.api.pools.tcp.streams.count == 0


async def test_raw_output_is_a_file() -> None:
    """The bytes as they were printed, or a range of them, with a name for the file."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, "name: 'a \"b\" ü'\n" + TWICE)
        await harness.completed(run)
        url = f"/v1/runs/{run}/output/raw"
        whole = await client.get(url, params={"job": "a", "step": "twice"})
        assert (whole.status_code, whole.content) == (200, b"one\ntwo\nthree\n")
        assert whole.headers["content-type"].startswith("text/plain")
        assert whole.headers["content-disposition"] == 'attachment; filename="a_b-1-a-twice-2.log"'
        assert (whole.headers["accept-ranges"], whole.headers["content-length"]) == ("bytes", "14")
        for asked, content, shown in (
            ("bytes=4-6", b"two", "bytes 4-6/14"),
            ("bytes=8-", b"three\n", "bytes 8-13/14"),
            ("bytes=-6", b"three\n", "bytes 8-13/14"),
            ("bytes=0-99", b"one\ntwo\nthree\n", "bytes 0-13/14"),
        ):
            part = await client.get(url, params={"job": "a", "step": "twice"}, headers={"Range": asked})
            assert (part.status_code, part.content, part.headers["content-range"]) == (206, content, shown)
        for asked in ("bytes=0-1,3-4", "lines=1-2", "bytes=-"):
            part = await client.get(url, params={"job": "a", "step": "twice"}, headers={"Range": asked})
            assert (part.status_code, len(part.content)) == (200, 14), asked
        behind = await client.get(url, params={"job": "a", "step": "twice"}, headers={"Range": "bytes=14-"})
        assert (behind.status_code, "14 bytes" in behind.text) == (416, True)
        empty = await client.get(url, params={"job": "a", "step": "later"})
        assert (empty.status_code, empty.content) == (200, b"")
        assert (await client.get(url, params={"step": "twice"})).status_code == 400
        assert (await client.get(url, params={"job": "b"})).status_code == 404


async def test_raw_output_of_a_job_has_headings() -> None:
    """One after the other, each beginning on a line of its own."""
    workflow = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n      - run: print two\n"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, workflow)
        [held] = await harness.held()
        await harness.fleet.print(held, b"no end")
        harness.fleet.release(held)
        await harness.completed(run)
        expected = (
            "==> a/1, Run hold, attempt 1, web-1, success <==\nno end\n\n"
            "==> a/2, Run print two, attempt 1, web-1, success <==\ntwo\n"
        )
        for params in ({"job": "a"}, {}):
            answer = await client.get(f"/v1/runs/{run}/output/raw", params=params)
            assert (answer.status_code, answer.text) == (200, expected)
            assert "content-range" not in answer.headers
