"""Why a run is where it is: each chain goes from the run to what must happen first, or to what happened."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from tests.integration.api.clients import client_of, start
from waterflowd.testing.api import ApiHarness


async def _why(client: httpx.AsyncClient, run: str, place: str | None = None) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/runs/{run}/why", params={} if place is None else {"place": place})
    assert answer.status_code == 200, answer.text
    chain: list[dict[str, Any]] = answer.json()["chain"]
    return chain


def _places(chain: list[dict[str, Any]]) -> list[tuple[str | None, str, str]]:
    return [(link["place"], link["state"], link["code"]) for link in chain]


async def test_a_job_waits_for_what_its_need_waits_for() -> None:
    """The chain goes through the needs to the one that waits for a server, with the instant at which it gives up."""
    workflow = """
jobs:
  last: {needs: middle, runs-on: web, steps: [{run: exit 0}]}
  middle: {needs: first, runs-on: web, steps: [{run: exit 0}]}
  first: {runs-on: nobody, steps: [{run: exit 0}]}
"""
    async with ApiHarness() as harness, client_of(harness) as client:
        run = await start(client, workflow)
        chain = await _why(client, run, "last")
        assert _places(chain) == [
            ("last", "queued", "waiting-needs"),
            ("middle", "queued", "waiting-needs"),
            ("first/1", "waiting", "no-server-in-group"),
        ]
        assert chain[-1]["next"] == "waterflowctl agents"
        assert chain[-1]["until"] is not None
        assert _places(await _why(client, run))[1:] == _places(chain)[2:]
        shown = (await client.get(f"/v1/runs/{run}")).json()
        texts = {job["id"]: job["reason"]["text"] for job in shown["jobs"]}
        assert [link["text"] for link in chain] == [texts[job] for job in ("last", "middle", "first")]


async def test_a_batch_waits_for_a_server_that_is_silent() -> None:
    """An instance of a later batch leads to the step of the earlier one, to its server, and to when that is lost."""
    workflow = """
jobs:
  roll:
    runs-on: {group: web, target: each, batch: 1}
    steps: [{run: hold}]
"""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        harness.connect("web-2", "web")
        run = await start(client, workflow)
        await harness.held()
        [first] = harness.fleet.held.values()
        rows = harness.agents.agents
        for index, row in enumerate(rows):
            if row.fingerprint == first:
                rows[index] = msgspec.structs.replace(row, is_connected=False, text="silent for 42 s", seen_at=1_000)
        active = next(row.name for row in rows if row.fingerprint == first)
        waiting = next(row.name for row in rows if row.fingerprint != first)
        chain = await _why(client, run, f"roll[{waiting}]")
        assert [link["place"] for link in chain] == [
            f"roll[{waiting}]",
            f"roll[{active}]",
            f"roll[{active}]/1",
            f"roll[{active}]/1",
        ]
        last = chain[-1]
        assert (last["code"], last["text"]) == ("server-unreachable", f"{active} is not connected: silent for 42 s")
        assert last["until"] == "1970-01-01T00:10:01.000Z"


async def test_what_waits_for_people_names_the_command() -> None:
    """The last link is the approval, and says how to give it."""
    workflow = "jobs: {a: {runs-on: web, steps: [{id: gate, uses: approval, with: {timeout: 1h}}]}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, workflow)
        chain = await _why(client, run)
        assert (chain[0]["place"], chain[-1]["place"]) == (None, "a/gate")
        assert chain[-1]["code"] == "waiting-approval"
        assert chain[-1]["next"] == f"waterflowctl approve {run} a/gate"
        assert chain[-1]["until"] is not None


async def test_a_failure_leads_to_the_step_that_failed() -> None:
    """Through instances and blocks; a job that was skipped leads to the need that failed."""
    workflow = """
jobs:
  a:
    runs-on: web
    strategy: {matrix: {n: [1, 2]}, max-parallel: 1}
    steps:
      - run: print fine
      - id: all
        uses: parallel
        with:
          branches:
            - [{run: exit 0}]
            - [{id: bad, run: "print oh\\nexit 3"}]
  after: {needs: a, runs-on: web, steps: [{run: exit 0}]}
"""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, workflow)
        await harness.completed(run)
        chain = await _why(client, run, "after")
        assert chain[0]["code"] == "needs"
        assert [link["place"] for link in chain] == ["after", "a", "a[1]", "a[1]/all", "a[1]/all[1]/bad"]
        assert (chain[-1]["code"], chain[-1]["next"]) == ("exit-code", f"waterflowctl logs {run} 'a[1]/all[1]/bad'")
        assert {link["until"] for link in chain} == {None}
        assert _places(await _why(client, run))[1:] == _places(chain)[1:]
        assert (await client.get(f"/v1/runs/{run}/why", params={"place": "x"})).status_code == 404


async def test_a_run_without_problems_has_one_link() -> None:
    """It says that everything succeeded."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = await start(client, "jobs: {a: {runs-on: web, steps: [{run: exit 0}]}}")
        await harness.completed(run)
        assert _places(await _why(client, run)) == [(None, "success", "succeeded")]
