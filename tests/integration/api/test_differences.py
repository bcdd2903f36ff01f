"""What differs between two runs: against the last good one, or any other."""

from __future__ import annotations

from typing import Any

import httpx

from tests.integration.api.clients import client_of
from waterflow_agent.errors import Retryable
from waterflowd.admin.ports import CommitRow
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
        assert (found["against"]["id"], found["unknown"]) == (good, {"log": found["unknown"]["log"]})
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
        assert (found["commits"], found["unknown"]) == (None, {"commits": "the objects cannot be read"})


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
        assert sorted(found["unknown"]) == ["commits", "file", "log"]
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
