"""Runs with expanded jobs and nested steps in the API; approvals; re-runs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest

from waterflowd.access.roles import Role
from waterflowd.api.schemas.jobs import JobList, StepList
from waterflowd.api.schemas.runs import RerunSchema, RunSchema
from waterflowd.api.schemas.system import SystemStatusSchema
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

YAML = {"Content-Type": "application/yaml"}
EACH = """\
name: roll
jobs:
  roll:
    runs-on: {group: web, target: each}
    steps:
      - id: one
        run: print from ${{ agent.hostname }}
"""
MATRIX = """\
name: many
jobs:
  build:
    runs-on: web
    strategy:
      fail-fast: false
      matrix: {n: [0, 3, 0]}
    steps:
      - run: exit ${{ matrix.n }}
  after: {runs-on: web, needs: build, if: always(), steps: [{run: print done}]}
"""
LOOP = """\
name: looping
jobs:
  a:
    runs-on: web
    steps:
      - id: all
        uses: loop
        with:
          items: [x, y, z]
          as: letter
          steps:
            - id: say
              run: print ${{ letter }}
            - id: check
              uses: condition
              with:
                if: letter == 'y'
                then: [{id: inner, run: print found}]
      - run: print end
"""
APPROVAL = """\
name: gated
jobs:
  ask:
    runs-on: web
    steps:
      - id: gate
        uses: approval
        with: {message: may it go on?}
      - run: print on
"""
ENVIRONMENT = """\
name: gates
jobs:
  one: {runs-on: web, environment: {name: prod, approvers: [alice]}, steps: [{run: print one}]}
  two: {runs-on: web, environment: {name: prod, approvers: [bob]}, steps: [{run: print two}]}
"""
FLAKY = """\
name: flaky
jobs:
  build: {runs-on: web, outputs: {x: "${{ steps.make.outputs.x }}"}, steps: [{id: make, run: print built}]}
  deploy:
    runs-on: web
    needs: build
    steps:
      - {id: prepare, run: print prepared}
      - {id: put, run: exit 1}
"""


async def start(client: httpx.AsyncClient, text: str) -> str:
    response = await client.post("/v1/runs", content=text, headers=YAML)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def show(client: httpx.AsyncClient, run: str) -> dict[str, Any]:
    response = await client.get(f"/v1/runs/{run}")
    assert response.status_code == 200, response.text
    displayed: dict[str, Any] = response.json()
    msgspec.convert(displayed, RunSchema)
    return displayed


async def done(harness: ApiHarness, client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    run = await start(client, text)
    await harness.completed(run)
    return await show(client, run)


# Jobs, steps and blocks -----------------------------------------------------------------------------------------------


async def test_instances_are_below_their_job(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The top level lists the jobs of the file; a job on each server has one job per server below it, with its steps."""
    harness.connect("web-2", "web")
    run = await done(harness, client, EACH)
    (job,) = run["jobs"]
    assert (job["kind"], job["counts"], job["jobs_total"], job["steps"]) == ("each", {"success": 2}, 2, [])
    assert [(child["id"], child["server"], child["agent"], child["parent"]) for child in job["jobs"]] == [
        ("roll[web-1]", "web-1", "web-1", "roll"),
        ("roll[web-2]", "web-2", "web-2", "roll"),
    ]
    assert [step["id"] for step in job["jobs"][0]["steps"]] == ["one"]


async def test_a_matrix_shows_which_values_failed(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Values, key and counts by conclusion; the pages can be filtered by failure."""
    run = await done(harness, client, MATRIX)
    build, after = run["jobs"]
    assert (build["counts"], build["conclusion"], after["conclusion"]) == (
        {"success": 2, "failure": 1},
        "failure",
        "success",
    )
    assert [(child["key"], child["matrix"]) for child in build["jobs"]] == [
        ("0", {"n": 0}), ("3", {"n": 3}), ("0#2", {"n": 0}),
    ]  # fmt: skip
    path = f"/v1/runs/{run['id']}/jobs"
    listed = (await client.get(path, params={"job": "build", "status": "failure"})).json()
    msgspec.convert(listed, JobList)
    assert [row["id"] for row in listed["jobs"]] == ["build[3]"]
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = (await client.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        rows += page["jobs"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [row["id"] for row in rows] == ["build", "after", "build[0]", "build[3]", "build[0#2]"]
    assert (await client.get(path, params={"job": "nope"})).status_code == 404
    assert (await client.get(path, params={"status": "odd"})).status_code == 400
    assert (await client.get(path, params={"cursor": "x"})).status_code == 400


async def test_steps_inside_steps_are_in_blocks(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Each pass has its item and its steps, which may contain blocks again; the pages list all of them by their paths."""
    run = await done(harness, client, LOOP)
    loop, end = run["jobs"][0]["steps"]
    assert (loop["node"], loop["blocks_total"], loop["counts"], end["blocks"]) == ("loop", 3, {"success": 3}, [])
    assert [(block["name"], block["item"], block["state"]) for block in loop["blocks"]] == [
        ("pass 1", "x", "success"), ("pass 2", "y", "success"), ("pass 3", "z", "success"),
    ]  # fmt: skip
    check = loop["blocks"][1]["steps"][1]
    assert (check["id"], check["blocks"][0]["name"]) == ("all[1]/check", "then")
    assert check["blocks"][0]["steps"][0]["id"] == "all[1]/check/inner"
    path = f"/v1/runs/{run['id']}/steps"
    listed = (await client.get(path, params={"job": "a", "step": "all[1]"})).json()
    msgspec.convert(listed, StepList)
    assert [row["id"] for row in listed["steps"]] == ["all[1]/say", "all[1]/check", "all[1]/check/inner"]
    assert (await client.get(path)).status_code == 400


async def test_one_part_of_a_run_is_shown_alone(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """With `part`, the run has that job alone, with that step alone, wherever it is; an empty one leaves out all jobs."""
    whole = await done(harness, client, LOOP)
    address = f"/v1/runs/{whole['id']}"
    (job,) = (await client.get(address, params={"part": "a/all[1]/say"})).json()["jobs"]
    (step,) = job["steps"]
    assert (job["id"], step["id"], step["parent"], step["attempts"][0]["agent"]) == ("a", "all[1]/say", "all", "web-1")
    (job,) = (await client.get(address, params={"part": "a"})).json()["jobs"]
    assert (job["id"], job["steps"], job["steps_total"]) == ("a", [], whole["jobs"][0]["steps_total"])
    head = (await client.get(address, params={"part": ""})).json()
    assert head == {**whole, "jobs": []}
    for unknown in ("b", "a/none", "a/all[1]"):
        assert (await client.get(address, params={"part": unknown})).status_code == 404, unknown


async def test_an_unsafe_interpolation_is_visible(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """`unsafe-interpolation` is visible on the run."""
    text = "jobs: {a: {runs-on: web, steps: [{run: 'print ${{ run.number }}', unsafe-interpolation: true}, {run: print b}]}}"
    run = (await client.post("/v1/runs", content=text, headers=YAML)).json()["id"]
    found = (await client.get(f"/v1/runs/{run}")).json()
    assert [step["unsafe"] for step in found["jobs"][0]["steps"]] == [True, False]


async def test_output_is_selected_by_parts_with_slashes_and_brackets(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """A job includes its instances, and a step includes its inner steps; the longest existing job name wins."""
    harness.connect("web-2", "web")
    looped = await done(harness, client, LOOP)
    rolled = await done(harness, client, EACH)

    async def texts(run: str, **parameters: str) -> list[str]:
        response = await client.get(f"/v1/runs/{run}/logs", params=parameters)
        assert response.status_code == 200, response.text
        return [json.loads(line)["text"] for line in response.text.splitlines()]

    assert await texts(looped["id"], job="a", step="all[1]/check/inner") == ["found"]
    assert await texts(looped["id"], step="all") == ["x", "y", "found", "z"]
    assert await texts(looped["id"], part="a/all[1]") == ["y", "found"]
    assert await texts(looped["id"], part="a") == ["x", "y", "found", "z", "end"]
    assert sorted(await texts(rolled["id"], job="roll")) == ["from web-1", "from web-2"]
    assert await texts(rolled["id"], part="roll[web-2]/one") == ["from web-2"]
    assert await texts(rolled["id"], part="roll[web-2]") == ["from web-2"]
    for wrong in (
        {"part": "roll[web-3]"},
        {"part": "roll[web-2]/two"},
        {"job": "rol"},
        {"step": "on"},
        {"part": "/"},
    ):
        assert (await client.get(f"/v1/runs/{rolled['id']}/logs", params=wrong)).status_code == 404, wrong


# Approvals ------------------------------------------------------------------------------------------------------------


async def _waiting(client: httpx.AsyncClient, run: str, count: int = 1) -> list[dict[str, Any]]:
    for _ in range(5_000):
        found: list[dict[str, Any]] = (await show(client, run))["approvals"]
        if len(found) == count:
            return found
    raise AssertionError("nothing waits for an approval")


async def test_a_pending_approval_is_listed_and_can_be_given(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The run and the status show what waits; a single pending approval needs no name; the audit trail names the approver."""
    run = await start(client, APPROVAL)
    (waiting,) = await _waiting(client, run)
    assert (waiting["job"], waiting["step"], waiting["minimum"]) == ("ask", "gate", 1)
    status = (await client.get("/v1/status")).json()
    msgspec.convert(status, SystemStatusSchema)
    assert [(row["run"], row["step"]) for row in status["approvals"]] == [(run, "gate")]
    assert status["waiting"] == []
    answered = await client.post(f"/v1/runs/{run}/approve", json={"comment": "looks\x07 good"})
    assert answered.status_code == 200, answered.text
    await harness.completed(run)
    step = (await show(client, run))["jobs"][0]["steps"][0]
    assert (step["conclusion"], step["approval"]["approved_by"]) == ("success", ["anonymous"])
    fact = harness.audit()[-1]
    assert (fact.what, fact.target, fact.facts["job"]) == ("approve-run", run, "ask")
    again = await client.post(f"/v1/runs/{run}/approve")
    assert (again.status_code, again.json()["code"]) == (409, "WF606")


async def test_a_rejection_fails_the_waiting_step(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """With its comment as the reason."""
    run = await start(client, APPROVAL)
    await _waiting(client, run)
    answered = await client.post(f"/v1/runs/{run}/reject", json={"job": "ask", "step": "gate", "comment": "not today"})
    assert answered.status_code == 200, answered.text
    await harness.completed(run)
    displayed = await show(client, run)
    assert displayed["conclusion"] == "failure"
    assert "not today" in json.dumps(displayed["jobs"][0]["steps"][0])


async def test_only_approvers_may_decide_and_several_approvals_need_a_name(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """409 lists several pending approvals; 403 for non-approvers; 409 for a part that does not wait."""
    run = await start(client, ENVIRONMENT)
    await _waiting(client, run, 2)
    several = await client.post(f"/v1/runs/{run}/approve")
    assert (several.status_code, "one, two" in several.json()["detail"]) == (409, True)
    mine = await client.post(f"/v1/runs/{run}/approve", json={"job": "one"})
    assert (mine.status_code, mine.json()["code"], "alice" in mine.json()["detail"]) == (403, "WF602", True)
    other = await client.post(f"/v1/runs/{run}/approve", json={"job": "three"})
    assert (other.status_code, other.json()["where"]) == (409, "job")
    for name, job in (("alice", "one"), ("bob", "two")):
        secret = harness.token(Role.APPROVER, name=name)
        harness.services.is_open = False
        bearer = {"Authorization": f"Bearer {secret}"}
        answered = await client.post(f"/v1/runs/{run}/approve", json={"job": job}, headers=bearer)
        assert answered.status_code == 200, answered.text
        harness.services.is_open = True
    await harness.completed(run)
    assert (await show(client, run))["conclusion"] == "success"


async def test_a_token_for_a_group_cannot_approve_or_rerun_runs_of_another(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """The answer is a 403 that names the group, and nothing changes."""
    waiting = await start(client, APPROVAL)
    await _waiting(client, waiting)
    ended = (await done(harness, client, FLAKY))["id"]
    bearer = {"Authorization": f"Bearer {harness.token(Role.ADMIN, name='bound', groups=('db',))}"}
    harness.services.is_open = False
    for path in (f"{waiting}/approve", f"{waiting}/reject", f"{ended}/rerun"):
        answered = await client.post(f"/v1/runs/{path}", headers=bearer)
        assert (answered.status_code, answered.json()["code"]) == (403, "WF602"), answered.text
    harness.services.is_open = True
    assert len(await _waiting(client, waiting)) == 1
    assert len((await client.get("/v1/runs")).json()["runs"]) == 2


# Re-runs --------------------------------------------------------------------------------------------------------------


async def test_a_run_runs_again_completely(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The new run has the inputs and vars of the earlier one, names it, and reuses nothing."""
    sent = {"yaml": MATRIX + "vars: {greeting: hi}\n", "vars": {"greeting": "ho"}}
    first = (await client.post("/v1/runs", json=sent)).json()["id"]
    await harness.completed(first)
    answered = await client.post(f"/v1/runs/{first}/rerun")
    found = answered.json()
    assert answered.status_code == 201, answered.text
    msgspec.convert(found, RerunSchema)
    assert (found["rerun_of"], found["reused"], found["will_run"], found["number"]) == (
        first,
        [],
        ["build", "after"],
        2,
    )
    assert answered.headers["location"] == found["url"]
    await harness.completed(found["id"])
    displayed = await show(client, found["id"])
    assert (displayed["rerun_of"], displayed["reused"], displayed["trigger"]["kind"]) == (first, None, "rerun")
    assert (await harness.services.reader.run(found["id"])).trigger.payload == {"name": "api"}  # type: ignore[union-attr]
    assert displayed["vars"] == {"greeting": "ho"}
    rows = (await client.get("/v1/runs", params={"trigger": "rerun"})).json()["runs"]
    assert [row["rerun_of"] for row in rows] == [first]
    fact = harness.audit()[-1]
    assert (fact.what, fact.facts["run"]) == ("rerun-run", found["id"])


async def test_a_rerun_of_the_failed_jobs_reuses_the_successful_ones(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """A dry run shows this and starts nothing; then the reused job is marked, and only the failed one has attempts."""
    first = (await done(harness, client, FLAKY))["id"]
    dry = await client.post(f"/v1/runs/{first}/rerun", json={"failed": True, "dry_run": True})
    assert (dry.status_code, dry.json()["reused"], dry.json()["will_run"]) == (200, ["build"], ["deploy"])
    assert dry.json()["id"] is None
    assert len((await client.get("/v1/runs")).json()["runs"]) == 1
    again = (await client.post(f"/v1/runs/{first}/rerun", json={"failed": True})).json()
    await harness.completed(again["id"])
    displayed = await show(client, again["id"])
    build, deploy = displayed["jobs"]
    assert (build["reused"], deploy["reused"], displayed["reused"]["jobs"]) == (True, False, 1)
    assert (len(deploy["steps"][0]["attempts"]), build["conclusion"]) == (1, "success")


async def test_a_rerun_can_begin_in_the_middle_of_a_job(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The steps before that one are reused."""
    first = (await done(harness, client, FLAKY))["id"]
    again = (await client.post(f"/v1/runs/{first}/rerun", json={"from": "deploy/put"})).json()
    assert again["reused"] == ["build", "deploy/prepare"]
    await harness.completed(again["id"])
    prepare, put = (await show(client, again["id"]))["jobs"][1]["steps"]
    assert (prepare["reused"], prepare["attempts"], len(put["attempts"])) == (True, [], 1)


async def test_a_rerun_can_begin_at_an_instant(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """What had succeeded after that event is reused: the more, the later it is; the dry run says the same as the run."""
    first = await done(harness, client, FLAKY)
    reused: list[list[str]] = []
    for seq in range(1, first["seq"] + 1):
        dry = await client.post(f"/v1/runs/{first['id']}/rerun", json={"after": seq, "dry_run": True})
        assert dry.status_code == 200
        if not reused or dry.json()["reused"] != reused[-1]:
            reused.append(dry.json()["reused"])
    assert reused == [[], ["build"], ["build", "deploy/prepare"]]
    again = (await client.post(f"/v1/runs/{first['id']}/rerun", json={"after": first["seq"]})).json()
    assert (again["reused"], again["will_run"]) == (reused[-1], ["deploy/put"])
    assert list(again["continued"]) == ["deploy"]
    await harness.completed(again["id"])
    build, deploy = (await show(client, again["id"]))["jobs"]
    assert (build["reused"], deploy["steps"][0]["reused"], len(deploy["steps"][1]["attempts"])) == (True, True, 1)
    late = await client.post(f"/v1/runs/{first['id']}/rerun", json={"after": first["seq"] + 1})
    assert (late.status_code, f"between 1 and {first['seq']}" in late.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"failed": True, "from": "deploy"}, 400),
        ({"failed": True, "after": 3}, 400),
        ({"after": 0}, 400),
        ({"from": "nope"}, 400),
        ({"servers": ["odd"]}, 400),
        ({"servers": ["failed"]}, 400),
        ({"at": "deadbeef"}, 409),
        ({"at": "x"}, 400),
        ({"forse": True}, 400),
    ],
)
async def test_an_impossible_rerun_is_rejected(
    harness: ApiHarness, client: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    """Each has its own message, and nothing starts."""
    first = (await done(harness, client, FLAKY))["id"]
    answered = await client.post(f"/v1/runs/{first}/rerun", json=body)
    assert answered.status_code == status, answered.text
    assert len((await client.get("/v1/runs")).json()["runs"]) == 1


async def test_an_open_run_cannot_run_again(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """409 for every selection."""
    run = await start(client, "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n")
    await harness.held()
    answered = await client.post(f"/v1/runs/{run}/rerun", json={"failed": True})
    assert (answered.status_code, answered.json()["code"]) == (409, "WF606")


async def test_a_rerun_can_use_the_file_of_a_known_revision(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The revision that is applied now, or that of an earlier run; results are still reused."""
    path = "workflows/flaky.yml"
    harness.repositories.files[path] = FLAKY.encode()
    first = (await client.post(f"/v1/definitions/{path}/run")).json()["id"]
    await harness.completed(first)
    harness.repositories.files[path] = FLAKY.replace("exit 1", "print fine").encode()
    harness.repositories.revision = "b" * 40
    again = await client.post(f"/v1/runs/{first}/rerun", json={"failed": True, "at": "BBBB"})
    assert (again.status_code, again.json()["reused"]) == (201, ["build"]), again.text
    await harness.completed(again.json()["id"])
    displayed = await show(client, again.json()["id"])
    assert (displayed["conclusion"], displayed["revision"]) == ("success", "b" * 40)
    back = await client.post(f"/v1/runs/{again.json()['id']}/rerun", json={"at": "aaaa"})
    assert (back.status_code, back.json()["revision"]) == (201, "a" * 40)
    await harness.completed(back.json()["id"])
    unknown = await client.post(f"/v1/runs/{first}/rerun", json={"at": "cccc"})
    assert (unknown.status_code, "bbbbbbbbbbbb" in unknown.json()["detail"]) == (409, True)


async def test_a_repeated_request_starts_one_rerun(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The same key returns the first one; with another selection it is a conflict."""
    first = (await done(harness, client, FLAKY))["id"]
    key = {"Idempotency-Key": "k1"}
    one = await client.post(f"/v1/runs/{first}/rerun", json={"failed": True}, headers=key)
    two = await client.post(f"/v1/runs/{first}/rerun", json={"failed": True}, headers=key)
    assert one.json()["id"] == two.json()["id"]
    other = await client.post(f"/v1/runs/{first}/rerun", headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "WF606")


async def test_only_the_servers_that_failed_run_again(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """`servers` selects among the instances of a job on each server."""
    harness.connect("web-2", "web")
    text = EACH.replace("print from ${{ agent.hostname }}", "hold")
    run = await start(client, text)
    for key in await harness.held(2):
        harness.fleet.release(key, 1 if "web-2" in key.attempt.job else 0)
    await harness.completed(run)
    again = (await client.post(f"/v1/runs/{run}/rerun", json={"servers": ["failed"]})).json()
    assert again["will_run"] == ["roll[web-2]"]
    await until(lambda: bool(harness.fleet.held))
    assert [key.attempt.job for key in await harness.held()] == ["roll[web-2]"]
