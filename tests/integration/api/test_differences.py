"""What differs between two runs: against the last good one, or any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.integration.api.clients import client_of
from tests.unit.artifacts.harness import attempt, new_store, put, reader_of
from waterflow_agent.errors import Retryable
from waterflowd.admin.ports import CommitRow
from waterflowd.artifacts.records import Removal
from waterflowd.model.ids import RunId
from waterflowd.testing.api import ApiHarness

FILE = """
on: {workflow_dispatch: {inputs: {size: {type: number, default: 1}}}}
vars: {color: red}
jobs:
  a:
    runs-on: web
    steps:
      - run: print fine
      - id: apply
        env: {SIZE: "${{ inputs.size }}"}
        run: |
          print 12:00:01 applying 42 as 8440f31ab2
          print size ${SIZE}x
"""
BROKEN = FILE + "          exit 2\n"


class MemoryRevisions:
    """Commits and files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.problem: Retryable | None = None

    async def commits(self, repository: str, newest: str, oldest: str) -> tuple[list[CommitRow], bool] | None:
        if self.problem is not None:
            raise self.problem
        revisions = list(self.files)
        if revisions.index(oldest) > revisions.index(newest):
            return None
        between = revisions[revisions.index(oldest) + 1 : revisions.index(newest) + 1]
        return [CommitRow(id=found, author="Ada", subject="raise size") for found in reversed(between)], False

    async def file(self, repository: str, revision: str, path: str) -> bytes | None:
        return self.files.get(revision)


async def _start(harness: ApiHarness, client: httpx.AsyncClient, revision: str, text: str, **body: Any) -> str:
    harness.repositories.files["workflows/x.yml"] = text.encode()
    harness.repositories.revision = revision
    assert isinstance(harness.services.revisions, MemoryRevisions)
    harness.services.revisions.files[revision] = text.encode()
    started = await client.post("/v1/definitions/workflows/x.yml/run", json=body)
    assert started.status_code == 201, started.text
    run: str = started.json()["id"]
    await harness.completed(run)
    return run


async def test_a_failed_run_is_compared_with_the_last_good_one() -> None:
    """Commits, the file, inputs, steps, and the first line that differs when times, ids and numbers are set aside."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.services.revisions = revisions = MemoryRevisions()
        harness.connect("web-1", "web")
        await _start(harness, client, "a" * 40, FILE)
        good = await _start(harness, client, "b" * 40, FILE)
        failed = await _start(
            harness, client, "c" * 40, BROKEN.replace("42", "43"), inputs={"size": 7}, vars={"color": "blue"}
        )
        found = (await client.get(f"/v1/runs/{failed}/diff")).json()
        assert (found["against"]["id"], sorted(found["unknown"])) == (good, ["artifacts", "log"])
        assert found["commits"] == [{"id": "c" * 40, "author": "Ada", "subject": "raise size"}]
        assert found["file"].splitlines()[:2] == [
            f"--- workflows/x.yml@{'b' * 10}",
            f"+++ workflows/x.yml@{'c' * 10}",
        ]
        assert "+          exit 2" in found["file"]
        assert found["inputs"] == [{"name": "size", "before": 1, "after": 7}]
        assert found["vars"] == [{"name": "color", "before": "red", "after": "blue"}]
        assert found["servers"] == {"added": [], "gone": []}
        assert [(step["place"], step["before"], step["after"]) for step in found["steps"]] == [
            ("a/apply", "success", "failure")
        ]
        assert found["log"] is None
        assert "does not differ" in found["unknown"]["log"], "only numbers differ"
        revisions.problem = Retryable("WF506", "the objects cannot be read")
        other = await _start(harness, client, "d" * 40, BROKEN.replace("print size", "print weight"))
        found = (await client.get(f"/v1/runs/{other}/diff", params={"against": failed})).json()
        assert found["log"] == {"place": "a/apply", "line": 2, "before": "size 7x", "after": "weight 1x"}
        assert (found["commits"], found["unknown"]["commits"]) == (None, "the objects cannot be read")


INSPECT = """
name: inspect
on: {workflow_dispatch: {inputs: {kernel: {default: "6.1"}, bad: {default: none}, columns: {default: x}}}}
jobs:
  inspect:
    runs-on: {group: web, target: each}
    report:
      columns: {Kernel: "${{ steps.facts.outputs.kernel }}", COLUMN: x}
    steps:
      - id: facts
        run: output kernel=${{ inputs.kernel }}
      - if: agent.name == inputs.bad
        run: exit 3
"""


async def test_reports_differ_in_columns_rows_and_cells() -> None:
    """Rows of servers that only one run has, and cells with their values; the result is a cell of each row."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.services.revisions = MemoryRevisions()
        harness.connect("web-1", "web")
        harness.connect("web-2", "web")
        first = await _start(harness, client, "a" * 40, INSPECT.replace("COLUMN", "Old"))
        harness.connect("web-3", "web")
        second = await _start(
            harness, client, "b" * 40, INSPECT.replace("COLUMN", "New"), inputs={"kernel": "6.2", "bad": "web-2"}
        )
        third = await _start(
            harness, client, "c" * 40, INSPECT.replace("COLUMN", "New"), inputs={"kernel": "6.2", "bad": "web-2"}
        )

        (report,) = (await client.get(f"/v1/runs/{second}/diff", params={"against": first})).json()["reports"]
        assert report == {
            "job": "inspect",
            "columns": {"added": ["New"], "gone": ["Old"]},
            "rows": {"added": ["web-3"], "gone": []},
            "cells": [
                {"row": "web-1", "column": "Kernel", "before": "6.1", "after": "6.2"},
                {"row": "web-2", "column": "result", "before": "success", "after": "failure"},
                {"row": "web-2", "column": "Kernel", "before": "6.1", "after": "6.2"},
            ],
            "cells_total": 3,
        }
        assert (await client.get(f"/v1/runs/{third}/diff", params={"against": second})).json()["reports"] == []
        sent = (
            await client.post("/v1/runs", json={"yaml": "jobs: {a: {runs-on: web, steps: [{run: exit 0}]}}"})
        ).json()
        await harness.completed(sent["id"])
        (report,) = (await client.get(f"/v1/runs/{first}/diff", params={"against": sent["id"]})).json()["reports"]
        assert report["rows"] == {"added": ["web-1", "web-2"], "gone": []}
        assert (report["columns"]["added"], report["cells"]) == (["Kernel", "Old"], [])


async def test_all_reports_together_list_a_bounded_number_of_cells() -> None:
    """The total says how many there are."""
    matrix = "strategy: {matrix: {n: '${{ range(60) }}'}}, report: {columns: {A: '${{ vars.v }}'}}"
    job = f"{{runs-on: web, {matrix}, steps: [{{run: exit 0}}]}}"
    text = f"name: many\nvars: {{v: VALUE}}\njobs: {{a: {job}, b: {job}}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        runs = []
        for value in ("a", "b"):
            run = (await client.post("/v1/runs", json={"yaml": text.replace("VALUE", value)})).json()["id"]
            await harness.completed(run)
            runs.append(run)
        found = (await client.get(f"/v1/runs/{runs[1]}/diff")).json()["reports"]
        assert [(len(report["cells"]), report["cells_total"]) for report in found] == [(60, 60), (40, 60)]


async def test_artifacts_differ_in_names_and_files(tmp_path: Path) -> None:
    """Those with equal digests are left out; files are compared by size, unless they have been removed."""
    store = new_store(tmp_path)
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        runs = []
        for _ in range(2):
            started = await client.post("/v1/runs", json={"yaml": "jobs: {a: {runs-on: web, steps: [{run: exit 0}]}}"})
            runs.append(RunId(started.json()["id"]))
            await harness.completed(runs[-1])
        url = f"/v1/runs/{runs[1]}/diff"
        assert (await client.get(url)).json()["artifacts"] is None
        harness.services.artifacts = reader_of(store, harness.services.history, harness.clock)
        assert (await client.get(url)).json()["artifacts"] == []
        now = harness.clock.now()
        for run, files in zip(
            runs, ({"a": b"1", "b": b"22", "c": b"3"}, {"a": b"1", "b": b"2222", "d": b"4"}), strict=True
        ):
            put(store, "site", files, attempt(run), now=now)
            put(store, "same", {"x": b"x"}, attempt(run), now=now)
            put(store, "content", {"x": run[-1:].encode() + run.encode()}, attempt(run), now=now)
        put(store, "old", {"x": b"x"}, attempt(runs[0]), now=now)
        put(store, "new", {"x": b"xy"}, attempt(runs[1]), now=now)

        found = {changed["name"]: changed for changed in (await client.get(url)).json()["artifacts"]}
        assert sorted(found) == ["content", "new", "old", "site"]
        assert (found["old"]["after"], found["new"]["before"], found["new"]["after"]["bytes"]) == (None, None, 2)
        assert found["site"]["files"] == [
            {"path": "b", "before": 2, "after": 4},
            {"path": "c", "before": 1, "after": None},
            {"path": "d", "before": None, "after": 1},
        ]
        assert found["site"]["files_total"] == 3
        assert (found["site"]["before"]["files"], found["site"]["before"]["is_removed"]) == (3, False)
        assert (found["content"]["files"], found["content"]["files_total"]) == ([], 0)
        assert found["content"]["before"]["digest"] != found["content"]["after"]["digest"]

        record = store.find(runs[0], "site", now)
        assert record is not None
        store.records.write(
            runs[0], msgspec.structs.replace(record, removal=Removal(at=now, reason="deleted", by="ann"))
        )
        found = {changed["name"]: changed for changed in (await client.get(url)).json()["artifacts"]}
        assert (found["site"]["before"]["is_removed"], found["site"]["files"]) == (True, None)


async def test_what_cannot_be_had_is_null_with_a_sentence() -> None:
    """A workflow that was sent has no commits and no file; without a good run before it the answer is a 404."""
    workflow = "name: x\njobs: {a: {runs-on: web, steps: [{run: exit %d}]}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        runs = []
        for code in (0, 1):
            run = (await client.post("/v1/runs", json={"yaml": workflow % code})).json()["id"]
            await harness.completed(run)
            runs.append(run)
        found = (await client.get(f"/v1/runs/{runs[1]}/diff")).json()
        assert (found["commits"], found["file"], found["log"]) == (None, None, None)
        assert sorted(found["unknown"]) == ["artifacts", "commits", "file", "log"]
        assert found["steps"][0]["after"] == "failure"
        missing = await client.get(f"/v1/runs/{runs[0]}/diff")
        assert (missing.status_code, "name another run" in missing.json()["detail"]) == (404, True)
        assert (await client.get(f"/v1/runs/{runs[1]}/diff", params={"against": "zz"})).status_code == 404


async def test_workflows_that_were_sent_are_told_apart_by_their_names() -> None:
    """They have no file, so the last good run of one is not that of another with a different name."""
    workflow = "name: %s\njobs: {a: {runs-on: web, steps: [{run: exit 0}]}}"
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        runs = []
        for name in ("report", "deploy", "report"):
            run = (await client.post("/v1/runs", json={"yaml": workflow % name})).json()["id"]
            await harness.completed(run)
            runs.append(run)
        found = (await client.get(f"/v1/runs/{runs[2]}/diff")).json()
        assert found["against"]["id"] == runs[0]
        missing = await client.get(f"/v1/runs/{runs[1]}/diff")
        assert (missing.status_code, "no run of deploy" in missing.json()["detail"]) == (404, True)
