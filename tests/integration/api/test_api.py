"""The API with in-memory storage: the answers of each resource; no request causes a 500."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from waterflow_agent import join_token
from waterflowd.access.roles import Role
from waterflowd.admin.ports import AgentRow, PendingRow, RepositoryRow, RevokedRow, ScheduleRow
from waterflowd.api.schemas import access, agents, events, repositories, runs, system
from waterflowd.host import history, run_index
from waterflowd.model.plan import CatchUp, Overlap
from waterflowd.reconcile.events import ScheduleOutcome
from waterflowd.testing import memory_log
from waterflowd.testing.api import VERSION, ApiHarness

HELLO = """\
name: hello
inputs:
  who: {default: you}
jobs:
  greet:
    runs-on: web
    steps:
      - name: Say hello
        run: |
          print hello
          printerr careful
"""
FAILING = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: |\n          print no\n          exit 7\n"
HOLDING = "name: holding\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n"
YAML = {"Content-Type": "application/yaml"}
#: The next due time is on 24 October 2026, the night before the clocks of Berlin go back.
NIGHTLY = ScheduleRow(
    path="workflows/backup.yml",
    name="backup",
    repository="ops",
    ref="refs/heads/main",
    revision="a" * 40,
    cron="30 2 * * *",
    timezone="Europe/Berlin",
    overlap=Overlap.SKIP,
    catch_up=CatchUp.LAST,
    next_at=1_792_801_800_000,
    last_due_at=1_792_715_400_000,
    last_outcome=ScheduleOutcome.STARTED,
    text="started: started on time",
)


async def start(client: httpx.AsyncClient, text: str = HELLO, **headers: str) -> dict[str, Any]:
    response = await client.post("/v1/runs", content=text, headers={**YAML, **headers})
    assert response.status_code == 201, response.text
    started: dict[str, Any] = response.json()
    return started


async def test_a_started_run_is_durable_and_found_at_its_url(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The 201 has id, name, status and url; the url shows the run until it is completed."""
    response = await client.post("/v1/runs", content=HELLO, headers=YAML)
    started = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == started["url"] == f"/v1/runs/{started['id']}"
    assert (started["name"], started["number"]) == ("hello", 1)
    assert harness.log.run(started["id"]) is not None
    await harness.completed(started["id"])
    run = (await client.get(started["url"])).json()
    assert (run["status"], run["conclusion"], run["trigger"]["kind"]) == ("completed", "success", "api")
    step = run["jobs"][0]["steps"][0]
    assert (step["name"], step["exit_code"], step["attempts"][0]["agent"]) == ("Say hello", 0, "web-1")
    assert run["completed_at"].endswith("Z")
    assert run["completed_at"][19] == "."


async def test_the_workflows_route_is_an_alias_of_runs(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """`/v1/workflows` is the same resource; its list has its own key."""
    started = (await client.post("/v1/workflows", content=HELLO, headers=YAML)).json()
    listed = (await client.get("/v1/workflows")).json()
    assert [row["id"] for row in listed["workflows"]] == [started["id"]]
    assert (await client.get(f"/v1/workflows/{started['id']}")).status_code == 200
    await harness.completed(started["id"])
    assert (await client.get(f"/v1/workflows/{started['id']}/logs")).status_code == 200


async def test_answers_match_the_schemas_of_the_openapi_document(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """Every answer decodes as the type that the document describes, and every reference in the document resolves."""
    started = await start(client)
    await harness.completed(started["id"])
    harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True, text="applied"))
    harness.repositories.files["workflows/hello.yml"] = HELLO.encode()
    harness.repositories.schedule_rows.append(NIGHTLY)
    harness.agents.waiting.append(PendingRow(fingerprint="f", name="n", groups=("web",), hostname="h", requested_at=5))
    await client.post("/v1/tokens", json={"role": "viewer"})
    schemas: list[tuple[str, type[msgspec.Struct]]] = [
        ("/v1/runs", runs.RunList),
        (started["url"], runs.RunSchema),
        (started["url"] + "/events", events.EventList),
        ("/v1/agents", agents.AgentList),
        ("/v1/groups", agents.GroupList),
        ("/v1/nodes", agents.NodeList),
        ("/v1/repositories", repositories.RepositoryList),
        ("/v1/schedules", repositories.ScheduleList),
        ("/v1/definitions", repositories.DefinitionList),
        ("/v1/definitions/workflows/hello.yml", repositories.DefinitionSchema),
        ("/v1/tokens", access.TokenList),
        ("/v1/status", system.SystemStatusSchema),
        ("/health", system.HealthSchema),
        ("/version", system.VersionSchema),
    ]
    for path, schema in schemas:
        response = await client.get(path)
        assert response.status_code == 200, (path, response.text)
        msgspec.json.decode(response.content, type=schema)
    described = await client.get("/openapi.json")
    document = described.json()
    references = set(re.findall(r"#/components/schemas/(\w+)", described.text))
    assert references <= set(document["components"]["schemas"])
    assert document["info"]["version"] == VERSION
    assert {"/v1/runs", "/v1/runs/{run_id}/logs", "/v1/events"} <= set(document["paths"])
    assert (await client.get("/docs")).status_code == 404


async def test_a_workflow_with_errors_is_a_422_with_every_location(client: httpx.AsyncClient) -> None:
    """The problem lists each error with code, line and column, both for a start and for a validation."""
    broken = HELLO.replace("runs-on", "runs-onn").replace("run: |", "runn: |")
    for path in ("/v1/runs", "/v1/validate"):
        response = await client.post(path, content=broken, headers=YAML)
        problem = response.json()
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "instance", "code"} <= set(problem)
        assert {error["line"] for error in problem["errors"]} >= {6, 9}
        assert all(error["code"].startswith("WF1") and error["column"] > 0 for error in problem["errors"])
    listed = (await client.get("/v1/runs")).json()
    assert listed == {"runs": [], "next": None}


async def test_lost_newlines_are_reported_as_such(client: httpx.AsyncClient) -> None:
    """`curl -d @file` removes the newlines of a file, and the 422 explains that."""
    response = await client.post("/v1/runs", content=HELLO.replace("\n", ""), headers=YAML)
    assert response.status_code == 422
    assert "newlines were lost" in response.text


@pytest.mark.parametrize("is_dry", [False, True])
async def test_a_workflow_with_only_workflow_call_cannot_be_started(client: httpx.AsyncClient, is_dry: bool) -> None:
    """The answer names the missing trigger; with another trigger the workflow can be started."""
    called = HELLO.replace("inputs:\n  who: {default: you}\n", "on: {workflow_call: {inputs: {who: {default: you}}}}\n")
    refused = await client.post("/v1/runs", json={"yaml": called, "dry_run": is_dry})
    assert (refused.status_code, refused.json()["code"]) == (422, "WF605")
    assert "workflow_dispatch" in refused.json()["detail"]
    both = called.replace("{workflow_call:", "{workflow_dispatch: , workflow_call:")
    taken = await client.post("/v1/runs", json={"yaml": both, "dry_run": is_dry})
    assert taken.status_code < 300, taken.text
    assert len((await client.get("/v1/runs")).json()["runs"]) == (0 if is_dry else 1)


ON = {
    "on: push\n": "push",
    "on: {push: , workflow_call: }\n": "push",
    "on: {webhook: {secret: HOOK_KEY}}\n": "webhook",
    "on: {schedule: [{cron: '@daily'}], workflow_run: {workflows: other}}\n": "schedule and workflow_run",
}


@pytest.mark.parametrize("on", ON)
async def test_a_workflow_without_workflow_dispatch_cannot_be_started_by_hand(
    harness: ApiHarness, client: httpx.AsyncClient, on: str
) -> None:
    """Neither a file that is sent nor one of a repository, by nobody; the answer says what starts it, and what to add."""
    text = HELLO.replace("inputs:\n  who: {default: you}\n", on).replace("${{ inputs.who }}", "you")
    harness.repositories.files["workflows/hello.yml"] = text.encode()
    as_runner = {"Authorization": f"Bearer {harness.token(Role.RUNNER)}"}
    for is_dry in (True, False):
        answers = [
            await client.post("/v1/runs", json={"yaml": text, "dry_run": is_dry}),
            await client.post("/v1/definitions/hello/run", json={"dry_run": is_dry}),
            await client.post("/v1/definitions/hello/run", json={"dry_run": is_dry}, headers=as_runner),
        ]
        for refused in answers:
            assert (refused.status_code, refused.json()["code"]) == (422, "WF605"), refused.text
            assert f"lists only {ON[on]}; add workflow_dispatch to `on`" in refused.json()["detail"]
    assert (await client.get("/v1/runs")).json()["runs"] == []
    allowed = text.replace(on, "")
    assert (await client.post("/v1/runs", json={"yaml": allowed})).status_code == 201


async def test_a_json_request_has_vars_inputs_and_a_dry_run(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Inputs are checked and typed, a dry run starts nothing, unknown inputs are rejected."""
    dry = await client.post("/v1/runs", json={"yaml": HELLO, "inputs": {"who": "me"}, "dry_run": True})
    assert (dry.status_code, dry.json()["inputs"]) == (200, {"who": "me"})
    assert (await client.get("/v1/runs")).json()["runs"] == []
    started = (await client.post("/v1/runs", json={"yaml": HELLO, "inputs": {"who": "me"}, "vars": {"a": [1]}})).json()
    await harness.completed(started["id"])
    run = (await client.get(started["url"])).json()
    assert (run["inputs"], run["vars"]) == ({"who": "me"}, {"a": [1]})
    wrong = await client.post("/v1/runs", json={"yaml": HELLO, "inputs": {"whoo": "me"}})
    assert (wrong.status_code, wrong.json()["where"]) == (422, "whoo")


async def test_an_idempotency_key_starts_one_run_and_refuses_another_request(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """The same key returns the first run; with another workflow it is a conflict."""
    first = await start(client, HELLO, **{"Idempotency-Key": "k1"})
    again = await start(client, HELLO, **{"Idempotency-Key": "k1"})
    other = await client.post("/v1/runs", content=HOLDING, headers={**YAML, "Idempotency-Key": "k1"})
    assert first["id"] == again["id"]
    assert (other.status_code, other.json()["code"]) == (409, "WF606")
    assert len((await client.get("/v1/runs")).json()["runs"]) == 1
    bad = await client.post("/v1/runs", content=HELLO, headers={**YAML, "Idempotency-Key": "x" * 201})
    assert bad.status_code == 400


async def test_lists_are_newest_first_filtered_and_paged_by_key(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Pages have no gaps while new runs are added, and filters work on every field."""
    started = [await start(client, HELLO) for _ in range(5)] + [await start(client, FAILING)]
    for row in started:
        await harness.completed(row["id"])
    newest = [row["id"] for row in reversed(started)]
    first = (await client.get("/v1/runs", params={"limit": 2})).json()
    await start(client, HELLO)
    second = (await client.get("/v1/runs", params={"limit": 100, "cursor": first["next"]})).json()
    assert [row["id"] for row in first["runs"] + second["runs"]] == newest
    failed = (await client.get("/v1/runs", params={"status": "failure"})).json()["runs"]
    assert [row["id"] for row in failed] == newest[:1]
    assert (await client.get("/v1/runs", params={"name": "nothing"})).json()["runs"] == []
    since = (await client.get("/v1/runs", params={"since": failed[0]["created_at"]})).json()["runs"]
    assert len(since) == 2
    assert (await client.get("/v1/runs", params={"trigger": "push"})).json()["runs"] == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "status=odd",
        "since=yesterday",
        "cursor=..",
        "cursor=%00",
        "since=" + "9" * 400,
    ],
)
async def test_an_invalid_query_is_a_400_that_names_the_valid_values(client: httpx.AsyncClient, query: str) -> None:
    """Invalid parameters never cause a 500."""
    response = await client.get(f"/v1/runs?{query}")
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("application/")


async def test_partial_ids_work_where_they_are_unique(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """A prefix of an id finds its run in upper or lower case; for an ambiguous one the answer lists the candidates."""
    one, two = await start(client), await start(client)
    ambiguous = await client.get("/v1/runs/0")
    assert ambiguous.status_code == 409
    assert one["id"] in ambiguous.json()["detail"]
    assert (await client.get(f"/v1/runs/{two['id'][:24].lower()}")).json()["id"] == two["id"]
    assert (await client.get("/v1/runs/ZZZZ")).status_code == 404


@pytest.mark.parametrize(
    "identity",
    [
        "..%2f..%2fetc",
        "%00",
        "x" * 10_000,
        "-1",
        "%F0%9F%98%80",
        "%ED%A0%80",
        "a%0d%0aSet-Cookie:x",
        "~",
        "0" * 26,
        "8" * 26,
    ],
)
@pytest.mark.parametrize("rest", ["", "/logs", "/events", "/events?follow=true", "/logs?follow=true"])
async def test_hostile_ids_are_not_found(client: httpx.AsyncClient, identity: str, rest: str) -> None:
    """Path traversal, NUL, ten thousand characters and surrogates each give a 404 with a problem."""
    response = await client.get(f"/v1/runs/{identity}{rest}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.text) < 1_500


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/yaml", 400),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"yaml": 5}', "application/json", 400),
        (b'{"yaml": "a", "odd": 1}', "application/json", 400),
        (b'{"yaml": "\\ud800"}', "application/json", 400),
        (b'{"yaml": "a: 1", "vars": {"n": 99999999999999999999999}}', "application/json", 400),
        (b'{"yaml": "a: 1", "vars": {"n": ' + b"[" * 60 + b"]" * 60 + b"}}", "application/json", 400),
        (b'{"yaml": "a: 1", "inputs": []}', "application/json", 400),
        (b'{"yaml": "a: 1", "path": "../x"}', "application/json", 400),
        (b"\xff\xfe\x00", "application/yaml", 422),
        (b"a: 1\x00", "application/yaml", 422),
        (b"name: x", "application/x-www-form-urlencoded", 415),
        (b"name: x", "text/plain", 415),
        (b"name: x", "", 415),
        (b"x" * ((2 << 20) + 1), "application/yaml", 413),
        (b"x: " + b"y" * (1 << 20), "application/yaml", 422),
    ],
)
async def test_a_hostile_body_is_rejected_with_the_right_status(
    client: httpx.AsyncClient, body: bytes, kind: str, status: int
) -> None:
    """Empty, malformed, deeply nested and large bodies, and bodies of the wrong type, each have a defined status."""
    for path in ("/v1/runs", "/v1/validate"):
        response = await client.post(path, content=body, headers={"Content-Type": kind} if kind else {})
        assert response.status_code == status, response.text
        assert response.json()["status"] == status


async def test_a_chunked_body_is_limited_too(client: httpx.AsyncClient) -> None:
    """The limit applies to the received bytes, not to the declared length."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 16)

    response = await client.post("/v1/runs", content=pieces(), headers=YAML)
    assert response.status_code == 413


async def test_unknown_addresses_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    """404 and 405 are problems that refer to the list of routes."""
    missing, method = await client.get("/v1/nothing"), await client.put("/v1/runs")
    assert (missing.status_code, method.status_code) == (404, 405)
    for response in (missing, method):
        assert response.headers["content-type"] == "application/problem+json"
        assert "openapi" in response.json()["detail"]
    overridden = await client.post("/v1/runs", headers={"X-HTTP-Method-Override": "DELETE", **YAML})
    assert overridden.status_code == 400


async def test_at_shows_the_run_as_it_was(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """After its first event the run is queued; beyond its last event there is a 404."""
    started = await start(client)
    await harness.completed(started["id"])
    first = (await client.get(started["url"], params={"at": 1})).json()
    last = (await client.get(started["url"])).json()
    assert (first["status"], first["seq"]) == ("queued", 1)
    assert last["status"] == "completed"
    beyond = await client.get(started["url"], params={"at": last["seq"] + 1})
    assert (beyond.status_code, beyond.json()["where"]) == (404, "at")
    for wrong in ("0", "-1", "x", "9" * 30):
        assert (await client.get(started["url"], params={"at": wrong})).status_code == 400


async def test_a_filter_finds_runs_behind_many_others(
    harness: ApiHarness, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are examined a few at a time; a search that ends early says where to continue."""
    monkeypatch.setattr(memory_log, "RUNS_EXAMINED_MAX", 2)
    first = (await start(client, HELLO.replace("name: hello", "name: first")))["id"]
    for _ in range(5):
        await start(client)
    monkeypatch.setattr(run_index, "ROWS_MAX", 2)
    monkeypatch.setattr(history, "_SEARCHES", 1)
    pages = [(await client.get("/v1/runs?name=first&limit=1")).json()]
    while pages[-1]["next"] is not None:
        pages.append((await client.get(f"/v1/runs?name=first&limit=1&cursor={pages[-1]['next']}")).json())
    # Two runs are in the index, and two are examined for each further page.
    assert [[row["id"] for row in page["runs"]] for page in pages] == [[], [], [first]]


async def test_events_are_paged_without_gaps_or_sent_as_ndjson(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Positions are consecutive from 1 across pages; NDJSON has the whole history."""
    started = await start(client)
    await harness.completed(started["id"])
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(started["url"] + "/events", params=params)).json()
        found += page["events"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    assert (found[0]["type"], found[-1]["type"]) == ("run-created", "run-completed")
    lines = await client.get(started["url"] + "/events", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line) for line in lines.text.splitlines()] == found


async def test_logs_are_lines_of_json_with_job_and_step(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Each line of output is an object; `job` and `step` select, and for unknown names the answer lists the known ones."""
    started = await start(client)
    await harness.completed(started["id"])
    response = await client.get(started["url"] + "/logs")
    assert response.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert [(row["text"], row["stream"], row["offset"]) for row in rows] == [
        ("hello", "stdout", 0),
        ("careful", "stderr", 6),
    ]
    assert {(row["job"], row["step"], row["attempt"]) for row in rows} == {("greet", "1", 1)}
    rest = await client.get(started["url"] + "/logs", params={"from": rows[0]["cursor"]})
    assert [json.loads(line)["text"] for line in rest.text.splitlines()] == ["careful"]
    missing = await client.get(started["url"] + "/logs", params={"job": "x"})
    assert (missing.status_code, "greet" in missing.json()["detail"]) == (404, True)
    for wrong in ("x", "c", "c1;", "c-1", "1e3", "c1;2=3=4", "9" * 40):
        assert (await client.get(started["url"] + "/logs", params={"from": wrong})).status_code == 400


async def test_cancel_is_durable_audited_and_refused_for_a_completed_run(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """A cancel ends an active run; a second one after the end is a 409."""
    started = await start(client, HOLDING)
    await harness.held()
    response = await client.post(started["url"] + "/cancel")
    assert response.status_code == 202
    await harness.completed(started["id"])
    assert (await client.get(started["url"])).json()["conclusion"] == "cancelled"
    again = await client.post(started["url"] + "/cancel", json={"force": True})
    assert again.status_code == 409
    fact = harness.audit()[-1]
    assert (fact.what, fact.target, fact.by) == ("cancel-run", started["id"], "anonymous")
    assert (await client.post(started["url"] + "/cancel", json={"forse": True})).status_code == 400
    assert (await client.post(started["url"] + "/cancel", content=b"force", headers=YAML)).status_code == 415


async def test_schedules_show_their_next_instants_by_path_or_name(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """In UTC, as many as requested; schedules that wait come first in the status."""
    waiting = msgspec.structs.replace(NIGHTLY, path="workflows/z.yml", name="z", next_at=None, waiting=(1_000,))
    harness.repositories.schedule_rows += [NIGHTLY, waiting]
    for name in ("backup", "workflows/backup.yml"):
        (row,) = (await client.get("/v1/schedules", params={"name": name, "next": 3})).json()["schedules"]
        assert row["next"] == ["2026-10-24T00:30:00.000Z", "2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]
    listed = (await client.get("/v1/schedules")).json()["schedules"]
    assert [(row["name"], len(row["next"]), len(row["waiting"])) for row in listed] == [("backup", 1, 0), ("z", 0, 1)]
    assert [row["name"] for row in (await client.get("/v1/status")).json()["schedules"]] == ["z", "backup"]
    assert (await client.get("/v1/schedules?name=nope")).status_code == 404
    assert (await client.get("/v1/schedules?next=21")).status_code == 400


async def test_definitions_are_started_by_path_or_name_with_inputs(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """The run has the repository and revision, and the start is in the audit trail."""
    harness.repositories.files["workflows/hello.yml"] = HELLO.encode()
    listed = (await client.get("/v1/definitions")).json()["definitions"]
    assert [(row["path"], row["inputs"][0]["name"]) for row in listed] == [("workflows/hello.yml", "who")]
    for name in ("workflows/hello.yml", "hello", "workflows%2Fhello.yml"):
        response = await client.post(f"/v1/definitions/{name}/run", json={"inputs": {"who": name}})
        assert response.status_code == 201, response.text
        run = (await client.get(response.json()["url"])).json()
        assert (run["repository"], run["revision"], run["trigger"]["kind"]) == ("ops", "a" * 40, "manual")
        assert harness.audit()[-1].facts == {"run": run["id"]}
    assert (await client.post("/v1/definitions/nope/run")).status_code == 404
    assert (await client.get("/v1/definitions/..%2f..%2fetc%2fpasswd")).status_code == 404


async def test_repositories_are_synced_by_name(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """For an unknown name the answer lists the configured repositories."""
    harness.repositories.repositories.append(
        RepositoryRow(name="ops", url="/r", is_ready=False, text="the remote is unreachable")
    )
    response = await client.post("/v1/repositories/ops/sync", params={"wait": "true"})
    assert (response.status_code, response.json()["status"]) == (202, "degraded")
    assert harness.repositories.synced == [("ops", True)]
    missing = await client.post("/v1/repositories/opps/sync")
    assert (missing.status_code, "ops" in missing.json()["detail"]) == (404, True)
    status = (await client.get("/v1/status")).json()
    assert status["status"] == "degraded"
    assert status["problems"] == ["repository ops: the remote is unreachable"]


async def test_a_server_is_a_problem_when_it_is_away_but_not_before_it_first_connects(
    harness: ApiHarness, client: httpx.AsyncClient
) -> None:
    """All servers are counted, and of many problems the first ones are shown."""
    row = AgentRow(
        fingerprint="SHA256:n", name="new", groups=("web",), is_connected=False, text="enrolled", is_new=True
    )
    harness.agents.agents.append(row)
    status = (await client.get("/v1/status")).json()
    assert (status["status"], status["problems"]) == ("healthy", [])
    assert (status["agents_connected"], status["agents_total"]) == (1, 2)

    for number in range(120):
        away = msgspec.structs.replace(
            row, fingerprint=f"SHA256:{number}", name=f"a{number:03}", text="away", is_new=False
        )
        harness.agents.agents.append(away)
    status = (await client.get("/v1/status")).json()
    assert status["status"] == "degraded"
    assert status["problems"][0] == "agent a000: away"
    assert status["problems"][20:] == ["and 100 more problems"]
    assert (status["agents_connected"], status["agents_total"], len(status["agents"])) == (1, 122, 100)


async def test_agents_are_enrolled_approved_and_revoked(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """With join tokens, and by fingerprints that contain a slash; each action is in the audit trail."""
    fingerprint = "SHA256:" + "a/b+" * 10 + "abc"
    harness.agents.waiting.append(
        PendingRow(fingerprint=fingerprint, name="db-1", groups=("db",), hostname="h", requested_at=5)
    )
    made = await client.post("/v1/agents/tokens", json={"groups": ["web"], "ttl": "2h", "uses": 3})
    assert made.status_code == 201
    assert (join_token.decode(made.json()["token"]).token_id, made.json()["address"]) == ("1", "tcp://127.0.0.1:7233")
    (row,) = (await client.get("/v1/agents/tokens")).json()["tokens"]
    assert (row["id"], row["groups"], row["uses"], row["created_by"]) == (made.json()["id"], ["web"], 3, "anonymous")
    listed = (await client.get("/v1/agents")).json()
    assert [row["fingerprint"] for row in listed["pending"]] == [fingerprint]
    path = f"/v1/agents/{fingerprint.replace('/', '%2F')}"
    approved = await client.post(f"{path}/approve", json={"groups": ["db", "db"]})
    assert (approved.status_code, approved.json()["groups"]) == (200, ["db"])
    assert (await client.post(f"{path}/revoke")).status_code == 200
    assert (await client.delete(path)).status_code == 404
    assert (await client.post("/v1/agents/web-1/revoke")).status_code == 200
    assert [fact.what for fact in harness.audit()] == [
        "create-join-token",
        "approve-agent",
        "revoke-agent",
        "revoke-agent",
    ]


async def test_agents_are_drained_moved_and_removed(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """By name; what has no effect on a pending agent is refused with the next step; each action is in the audit trail."""
    pending = "SHA256:" + "p" * 43
    harness.agents.waiting.append(
        PendingRow(fingerprint=pending, name="db-1", groups=("db",), hostname="h", requested_at=5)
    )
    kept = await client.post("/v1/agents/web-1/remove")
    assert (kept.status_code, kept.json()["code"]) == (409, "WF228")
    drained = (await client.post("/v1/agents/web-1/drain")).json()
    assert (drained["drained"], drained["drained_by"]) == (True, "anonymous")
    assert (await client.get("/v1/agents/web-1")).json() == drained
    assert (await client.post("/v1/agents/web-1/undrain")).json()["drained_at"] is None
    moved = await client.post("/v1/agents/web-1/groups", json={"groups": ["db", "mail", "db"]})
    assert moved.json()["groups"] == ["db", "mail"]
    for action in ("drain", "undrain", "groups", "remove"):
        refused = await client.post(f"/v1/agents/{pending}/{action}", json={"groups": ["db"]})
        assert (refused.status_code, refused.json()["code"]) == (409, "WF606")
        assert f"agents approve {pending}" in refused.json()["detail"]
        assert (await client.post(f"/v1/agents/zzz/{action}", json={"groups": ["db"]})).status_code == 404
    assert (await client.get(f"/v1/agents/{pending}")).status_code == 409
    assert (await client.get("/v1/agents/zzz")).status_code == 404
    await client.post("/v1/agents/web-1/drain")
    assert (await client.post("/v1/agents/web-1/remove")).json()["status"] == "removed"
    assert (await client.get("/v1/agents")).json()["agents"] == []
    assert [fact.what for fact in harness.audit()] == [
        "drain-agent",
        "undrain-agent",
        "set-agent-groups",
        "drain-agent",
        "remove-agent",
    ]


async def test_a_revoked_key_is_listed_until_it_is_removed(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """It is found by the name that its agent had, and by its fingerprint if the name is ambiguous."""
    assert (await client.get("/v1/agents/revoked")).json() == {"agents": [], "next": None}
    await client.post("/v1/agents/web-1/revoke")
    (row,) = (await client.get("/v1/agents/revoked")).json()["agents"]
    assert (row["name"], row["status"]) == ("web-1", "revoked")
    assert row["text"] == "revoked by anonymous; forget it: waterflowctl agents remove web-1"
    other = RevokedRow(fingerprint="SHA256:" + "o" * 43, name="web-1", revoked_at=1, revoked_by="ada")
    harness.agents.revoked_keys.append(other)
    ambiguous = await client.post("/v1/agents/web-1/remove")
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (409, "WF606")
    assert (await client.post(f"/v1/agents/{other.fingerprint}/remove")).status_code == 200
    assert (await client.post("/v1/agents/web-1/remove")).json()["fingerprint"] == row["fingerprint"]
    assert (await client.get("/v1/agents/revoked")).json()["agents"] == []


async def test_a_pending_agent_cannot_impersonate_another_one(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Under the name of a real fingerprint it is neither approved in the real agent's place nor shields it from revocation."""
    genuine, stranger = "SHA256:" + "g" * 43, "SHA256:" + "s" * 43
    harness.agents.waiting += [
        PendingRow(fingerprint=genuine, name="db-1", groups=("db",), hostname="h", requested_at=5),
        PendingRow(fingerprint=stranger, name="SHA256:gggggggggggg", groups=("db",), hostname="h", requested_at=6),
    ]
    for text in ("SHA256:gggggggggggg", "db-1", "SHA256:ssssssssssss"):
        refused = await client.post(f"/v1/agents/{text}/approve", json={"groups": ["db"]})
        assert (refused.status_code, "whole fingerprint" in refused.json()["detail"]) == (404, True)
    approved = await client.post(f"/v1/agents/{genuine}/approve", json={"groups": ["db"]})
    assert (approved.status_code, approved.json()["name"]) == (200, "db-1")
    harness.agents.waiting.append(
        PendingRow(fingerprint="SHA256:" + "t" * 43, name="db-1", groups=("db",), hostname="h", requested_at=7)
    )
    for text in ("SHA256:gggggggggggg", "db-1"):
        revoked = await client.post(f"/v1/agents/{text}/revoke")
        assert (revoked.status_code, revoked.json()["fingerprint"]) == (200, genuine)
        harness.agents.agents.append(
            AgentRow(fingerprint=genuine, name="db-1", groups=("db",), is_connected=True, text="connected")
        )


@pytest.mark.parametrize(
    "body",
    [{"groups": []}, {"groups": ["a b"]}, {"groups": ["all-servers"]}, {"groups": ["g"], "ttl": "never"}, {"groups": [1]},
     {"groups": ["g"], "ttl": 0}, {"groups": ["g"], "uses": 0}, {"groups": [f"g{n}" for n in range(33)]},
     {"groups": ["x" * 65]},
     {}],
)  # fmt: skip
async def test_an_invalid_join_token_request_is_a_400(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """A missing group, an invalid name and an invalid time are rejected."""
    assert (await client.post("/v1/agents/tokens", json=body)).status_code == 400


async def test_ready_is_503_once_the_daemon_stops(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """So that a load balancer notices the stop before the sockets close."""
    assert (await client.get("/ready")).status_code == 200
    harness.api.stop()
    assert (await client.get("/ready")).status_code == 503
    assert (await client.get("/health")).status_code == 200


async def test_status_lists_waiting_jobs_with_their_reasons(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """A job without a server is listed with its reason."""
    text = HOLDING.replace("runs-on: web", "runs-on: nobody")
    started = await start(client, text)
    status = (await client.get("/v1/status")).json()
    assert [(row["run"], row["job"]) for row in status["waiting"]] == [(started["id"], "a")]
    assert "nobody" in status["waiting"][0]["reason"]["text"]


async def test_agents_are_paged_by_name(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Lists in memory are paged by key too."""
    harness.agents.agents += [
        AgentRow(fingerprint=f"f{number}", name=f"n{number}", groups=(), is_connected=False, text="away")
        for number in range(5)
    ]
    first = (await client.get("/v1/agents", params={"limit": 4})).json()
    second = (await client.get("/v1/agents", params={"limit": 4, "cursor": first["next"]})).json()
    names = [row["name"] for row in first["agents"] + second["agents"]]
    assert names == ["n0", "n1", "n2", "n3", "n4", "web-1"]
    assert second["next"] is None
