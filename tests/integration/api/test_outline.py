"""The outline of a run: what it says about each part at each event, what has changed since an event, pages, and its cache."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.integration.api.clients import client_of
from waterflowd.api.runs import outlines
from waterflowd.api.runs.outlines import Outline, Outlines
from waterflowd.api.schemas.outlines import OutlineSchema, outline_schema
from waterflowd.engine import Run
from waterflowd.engine.fold.evolve import fold
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job
from waterflowd.model import plan as plans
from waterflowd.model.ids import RunId, run_stream
from waterflowd.testing.api import ApiHarness
from waterflowd.time_slices import finish

WORKFLOW = """
name: everything
jobs:
  roll:
    runs-on: {group: web, target: each, batch: 1}
    steps:
      - run: print on the server
  matrix:
    runs-on: web
    strategy: {matrix: {n: [1, 2]}}
    steps:
      - run: exit 0
      - id: bad
        run: exit 3
        retry: {max-attempts: 2, initial-interval: 1ms}
        continue-on-error: true
  loop:
    runs-on: web
    steps:
      - id: all
        uses: loop
        with:
          items: [a, b, c]
          steps:
            - run: print it
  fails:
    runs-on: web
    needs: [loop]
    retry: {max-attempts: 2, initial-interval: 1ms}
    steps:
      - run: exit 1
      - run: print never
  after:
    needs: [fails]
    runs-on: web
    steps:
      - run: print never
"""
HOLDING = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n      - run: print done\n"
#: What the code of an attempt says about the status of its step.
OF_ATTEMPTS = {
    "queued": {"queued", "waiting", "running"},
    "sent": {"running"},
    "started": {"running"},
    "finished": {"running", "waiting"},
}


async def _run(harness: ApiHarness, workflow: str = WORKFLOW) -> RunId:
    harness.connect("web-1", "web")
    harness.connect("web-2", "web")
    async with client_of(harness) as client:
        started = await client.post("/v1/runs", json={"yaml": workflow})
    assert started.status_code == 201, started.text
    run = RunId(started.json()["id"])
    await harness.completed(run)
    return run


def _history(harness: ApiHarness, run: RunId) -> tuple[plans.Plan, list[Any]]:
    records = harness.log.read(run_stream(run))
    compiled = harness.log.plan(records[0].event.plan_hash)
    assert compiled is not None
    return plans.decode(compiled), [record.event for record in records]


def _parts(run: Run) -> dict[str, Job | Step]:
    found: dict[str, Job | Step] = {}
    for job in run.jobs:
        found[job.id] = job
        found.update((f"{job.id}/{step.id}", step) for step in job.steps_by_id.values())
    return found


def _outline(run: RunId, plan: plans.Plan, events: list[Any]) -> Outline:
    outline = Outline(Run(run, plan))
    for event in events:
        outline.apply(event)
    return outline


def _page(outline: Outline, **changes: Any) -> OutlineSchema:
    return finish(outline_schema(outline, **{"after": 0, "job": None, "depth": None, "first": 0, **changes}))


async def test_the_outline_knows_the_state_of_each_part_at_each_event() -> None:
    """For every event: what the changes up to it say about a part is what the run itself was then."""
    async with ApiHarness() as harness:
        run = await _run(harness)
        plan, events = _history(harness, run)
    whole = {node.place: node for node in _page(_outline(run, plan, events)).nodes}
    kinds = {node.kind for node in whole.values()}
    assert kinds == {"each", "matrix", "steps", "step"}
    checked = 0
    for seq in range(1, len(events) + 1):
        for place, part in _parts(fold(run, plan, events[:seq])).items():
            codes = [change.code for change in whole[place].changes if change.seq <= seq]
            actual = (part.conclusion or part.status).value
            expected = OF_ATTEMPTS.get(codes[-1], {codes[-1]}) if codes else {"queued"}
            assert actual in expected, (seq, place, codes, actual)
            checked += 1
    assert checked > 1_000
    marks = {mark.kind for mark in _page(_outline(run, plan, events)).marks}
    assert {"failure", "retry", "completed", "batch-completed"} <= marks


async def test_what_has_changed_since_an_event_completes_an_earlier_outline() -> None:
    """For every event: the parts that are not told have not changed, and the others are told as they are."""
    async with ApiHarness() as harness:
        run = await _run(harness)
        plan, events = _history(harness, run)
    whole = _page(_outline(run, plan, events))
    final = {node.place: node for node in whole.nodes}
    for seq in range(1, len(events)):
        earlier = _page(_outline(run, plan, events[:seq]))
        since = _page(_outline(run, plan, events), after=seq)
        known = {node.place: node for node in earlier.nodes}
        for node in since.nodes:
            before = known[node.place].changes if node.place in known else []
            merged = [*before, *node.changes]
            if len(merged) > len(final[node.place].changes):
                # The conclusion has replaced the last attempt's end.
                assert before[-1].code == "finished"
                merged = [*before[:-1], *node.changes]
            known[node.place] = msgspec.structs.replace(node, changes=merged)
        assert known == final, seq
        assert earlier.reasons + since.reasons == whole.reasons
        assert since.reasons_from == len(earlier.reasons)
        assert earlier.marks + since.marks == whole.marks
    assert _page(_outline(run, plan, events), after=len(events)).nodes == []


async def test_the_endpoint_answers_with_the_newest_state_and_only_reads_what_is_new() -> None:
    """The second answer reads only the events since then; `after` returns only the parts that they affect."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        run = (await client.post("/v1/runs", json={"yaml": HOLDING})).json()["id"]
        [held] = await harness.held()
        first = (await client.get(f"/v1/runs/{run[:12]}/outline")).json()
        codes = {node["place"]: [change[2] for change in node.get("changes", [])] for node in first["nodes"]}
        assert (codes["a"], codes["a/1"][:2], codes["a/2"]) == (["waiting", "running"], ["queued", "sent"], [])
        assert first["next"] is None
        assert first["ended_at"] is None
        harness.fleet.release(held)
        await harness.completed(run)
        second = (await client.get(f"/v1/runs/{run}/outline", params={"after": first["seq"]})).json()
        assert second["seq"] > first["seq"]
        assert (second["conclusion"], second["nodes_total"]) == ("success", 3)
        assert all(change[0] > first["seq"] for node in second["nodes"] for change in node["changes"])
        nothing = (await client.get(f"/v1/runs/{run}/outline", params={"after": second["seq"]})).json()
        assert (nothing["nodes"], nothing["marks"]) == ([], [])


async def test_a_job_on_each_server_has_its_batches_and_why_it_was_halted() -> None:
    """Where each batch ends, and the sentence of the halt; a job without batches has neither."""
    failing = (
        "jobs:\n  roll: {runs-on: {group: web, target: each, batch: 1, max-failures: 0}, steps: [{run: exit 1}]}\n"
        "  all: {runs-on: {group: web, target: each}, steps: [{run: print done}]}\n"
    )
    async with ApiHarness() as harness:
        run = await _run(harness, failing)
        plan, events = _history(harness, run)
    nodes = {node.place: node for node in _page(_outline(run, plan, events)).nodes}
    halted = next(event.reason.text for event in events if type(event).__name__ == "JobHalted")
    assert (nodes["roll"].batches, nodes["roll"].halted, nodes["roll"].total) == ([1, 2], halted, 2)
    assert (nodes["all"].batches, nodes["all"].halted) == ([], "")


async def test_pages_and_levels_select_nodes() -> None:
    """Pages add up to the whole; `depth` 0 has only jobs; `job` has the job and everything in it."""
    async with ApiHarness() as harness, client_of(harness) as client:
        run = await _run(harness)
        whole = (await client.get(f"/v1/runs/{run}/outline")).json()["nodes"]
        places = [node["place"] for node in whole]
        assert all(
            node.get("parent") is None or node["parent"] in places[: places.index(node["place"])] for node in whole
        )
        pages: list[Any] = []
        cursor: str | None = None
        while True:
            parameters = {"limit": "4"} | ({"cursor": cursor} if cursor is not None else {})
            page = (await client.get(f"/v1/runs/{run}/outline", params=parameters)).json()
            pages += page["nodes"]
            cursor = page["next"]
            if cursor is None:
                break
        assert pages == whole
        jobs = (await client.get(f"/v1/runs/{run}/outline", params={"depth": 0})).json()["nodes"]
        assert jobs == [node for node in whole if node["kind"] != "step"]
        of_file = (await client.get(f"/v1/runs/{run}/outline", params={"depth": 1})).json()["nodes"]
        assert [node["place"] for node in of_file] == [place for place in places if not place.startswith("loop/all[")]
        inside = (await client.get(f"/v1/runs/{run}/outline", params={"job": "roll"})).json()["nodes"]
        assert {node["place"] for node in inside} == {place for place in places if place.startswith("roll")}
        by_place = {node["place"]: node for node in whole}
        assert (by_place["roll"]["counts"], by_place["roll"]["total"]) == ({"success": 2}, 2)
        assert by_place["loop/all"]["counts"] == {"success": 3}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("job=none", 404),
        ("after=-1", 400),
        ("after=x", 400),
        ("depth=99", 400),
        ("limit=0", 400),
        ("limit=5001", 400),
        ("cursor=x", 400),
        ("cursor=999999", 200),
    ],
)
async def test_wrong_parameters_are_refused(query: str, status: int) -> None:
    """With a code, not with an empty answer."""
    async with ApiHarness() as harness, client_of(harness) as client:
        run = await _run(harness, "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: exit 0\n")
        assert (await client.get(f"/v1/runs/{run}/outline?{query}")).status_code == status
        assert (await client.get("/v1/runs/01AAAAAAAAAAAAAAAAAAAAAAAA/outline")).status_code == 404


async def test_a_node_takes_about_200_bytes() -> None:
    """A job with one step and one attempt takes two nodes. So 1,000 nodes fit into a quarter of a megabyte."""
    count = 150
    workflow = "jobs:\n" + "".join(
        f"  job-{n}:\n    runs-on: web\n    steps:\n      - run: exit 0\n" for n in range(count)
    )
    async with ApiHarness() as harness, client_of(harness) as client:
        run = await _run(harness, workflow)
        answered = await client.get(f"/v1/runs/{run}/outline")
        nodes = answered.json()["nodes"]
        assert len(nodes) == 2 * count
        assert len(answered.content) / len(nodes) < 230


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outlines that were read last are kept; reasons and marks beyond their limits are counted, not kept."""
    monkeypatch.setattr(outlines, "CACHED_OUTLINES", 2)
    monkeypatch.setattr(outlines, "MARKS_MAX", 2)
    monkeypatch.setattr(outlines, "REASONS_MAX", 3)
    async with ApiHarness() as harness:
        cache = Outlines(harness.services.history)
        runs = [await _run(harness)]
        plan, events = _history(harness, runs[0])
        outline = _outline(runs[0], plan, events)
        assert len(outline.marks) == 2
        assert outline.marks_left_out > 0
        codes = {reason.code for reason in outline.reasons}
        assert len(outline.reasons) <= 3 + len(codes)
        async with client_of(harness) as client:
            for _ in range(3):
                runs.append(RunId((await client.post("/v1/runs", json={"yaml": WORKFLOW})).json()["id"]))
        for run in runs:
            await harness.completed(run)
        first = await cache.read(runs[0])
        assert await cache.read(runs[0]) is first
        for run in runs[1:]:
            await cache.read(run)
        assert await cache.read(runs[0]) is not first
        monkeypatch.setattr(outlines, "CACHED_EVENTS", 1)
        last = await cache.read(runs[1])
        assert await cache.read(runs[1]) is last
