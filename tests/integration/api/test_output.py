"""The output of one attempt by line."""

from __future__ import annotations

from typing import Any

import httpx

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


def _client(harness: ApiHarness) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(harness.api), base_url="http://localhost")


async def _start(client: httpx.AsyncClient, yaml: str) -> str:
    started = await client.post("/v1/runs", json={"yaml": yaml})
    run: str = started.json()["id"]
    return run


async def test_output_is_read_by_line() -> None:
    """From a line on, or from the end; each line has its number, time and stream."""
    async with ApiHarness() as harness, _client(harness) as client:
        harness.connect("web-1", "web")
        run = await _start(client, TWICE)
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
    async with ApiHarness() as harness, _client(harness) as client:
        harness.connect("web-1", "web")
        run = await _start(client, HOLDS)
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
    async with ApiHarness() as harness, _client(harness) as client:
        harness.connect("web-1", "web")
        run = await _start(client, TWICE)
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
