"""Rows of runs: how far each is, what failed first, and the groups and servers that it has used."""

from __future__ import annotations

from tests.integration.api.clients import client_of
from waterflowd.model.ids import RunId
from waterflowd.model.records import RunSummary
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

ROLL_OUT = """
name: roll out
jobs:
  build: {runs-on: build, steps: [{run: print built}]}
  release:
    needs: build
    runs-on: {group: web, target: each}
    steps: [{run: print copied}, {id: migrate, run: exit 2}]
  notify: {needs: release, runs-on: build, steps: [{run: print told}]}
"""


async def test_a_row_says_how_far_the_run_is_and_what_failed_first() -> None:
    """In the list and in the run itself; a job on each server is counted as one job per server."""
    async with ApiHarness() as harness, client_of(harness) as client:
        for name, group in (("build-1", "build"), ("web-1", "web"), ("web-2", "web")):
            harness.connect(name, group)
        run = (await client.post("/v1/runs", json={"yaml": ROLL_OUT})).json()["id"]
        await harness.completed(run)
        (row,) = (await client.get("/v1/runs")).json()["runs"]
        whole = (await client.get(f"/v1/runs/{run}")).json()
        assert row["progress"] == whole["progress"] == {"done": 4, "total": 4, "failed": 2}
        failure = row["first_failure"]
        assert failure == whole["first_failure"]
        assert failure["place"] in ("release[web-1]/migrate", "release[web-2]/migrate")
        assert failure["agent"] == failure["place"][8:13]
        assert failure["reason"]["code"] == "exit-code"
        past = (await client.get(f"/v1/runs/{run}", params={"at": 1})).json()
        assert (past["progress"], past["first_failure"]) == ({"done": 0, "total": 3, "failed": 0}, None)
        items = (await client.get("/v1/attention")).json()["items"]
        assert [item["place"] for item in items] == [failure["place"]]


async def test_runs_are_selected_by_what_they_have_used() -> None:
    """By the group of a job and by the server of a step, in lists and counts."""
    workflow = "name: x\njobs: {a: {runs-on: GROUP, steps: [{run: print hi}]}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        harness.connect("db-1", "db")
        runs = {}
        for group in ("web", "db"):
            runs[group] = (await client.post("/v1/runs", json={"yaml": workflow.replace("GROUP", group)})).json()["id"]
            await harness.completed(runs[group])
        for query, found in (
            ({"group": "web"}, [runs["web"]]),
            ({"server": "db-1"}, [runs["db"]]),
            ({"group": "web", "server": "db-1"}, []),
            ({"server": "db-2"}, []),
        ):
            listed = (await client.get("/v1/runs", params=query)).json()["runs"]
            assert [row["id"] for row in listed] == found, query
            assert (await client.get("/v1/runs/counts", params=query)).json()["total"] == len(found), query


async def test_the_row_of_an_open_run_follows_its_jobs() -> None:
    """Each end of a job, and the first step on a server, are in the row at once, although the run's status stays the same."""
    workflow = "name: x\njobs: {a: {runs-on: web, steps: [{run: hold}]}, b: {runs-on: db, steps: [{run: hold}]}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        harness.connect("db-1", "db")
        run = (await client.post("/v1/runs", json={"yaml": workflow})).json()["id"]
        first, second = sorted(await harness.held(2), key=lambda key: key.attempt.job)
        for server in ("web-1", "db-1"):
            (row,) = (await client.get("/v1/runs", params={"server": server})).json()["runs"]
            assert (row["status"], row["progress"]) == ("running", {"done": 0, "total": 2, "failed": 0})
        harness.fleet.release(first, 3)

        def row_of_run() -> RunSummary | None:
            return harness.log.run(RunId(run))

        await until(lambda: (found := row_of_run()) is not None and found.jobs_failed == 1)
        (row,) = (await client.get("/v1/runs")).json()["runs"]
        assert row["progress"] == {"done": 1, "total": 2, "failed": 1}
        assert row["first_failure"]["place"] == "a/1"
        harness.fleet.release(second)
        await harness.completed(run)
