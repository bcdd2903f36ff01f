"""The judge: knows nothing but the public API and the marker files that steps leave behind.

Each step of the judged workflow appends `RUN JOB STEP ATTEMPT begin` to a file when it starts and the same with `end`
when it ends, and prints two lines. From these and from what the API says, the judge decides whether the promises were
kept:

- every id that was answered exists, and its run completes;
- no attempt started twice, every attempt that is called a success started and ended once, and refused attempts never
  started;
- the history of each run has no gap and one completion;
- the output of what succeeded is complete, in order, and without repetition.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

#: Shell steps of each job.
STEPS = 3


def workflow(markers: Path) -> str:
    """Two parallel jobs and one that needs both: shell steps with markers, a step inside the agent, an output."""
    return "jobs:\n" + _job("one", markers) + _job("two", markers) + _job("three", markers, "[one, two]")


def _job(name: str, markers: Path, needs: str = "[]") -> str:
    mark = '"$WATERFLOW_RUN_ID $WATERFLOW_JOB $WATERFLOW_STEP $WATERFLOW_ATTEMPT'
    steps = "".join(
        f"""      - id: s{number}
        run: |
          echo {mark} begin" >> {markers}
          echo "begin {name} {number}"
          sleep 0.03
          echo "kept={number}" >> "$WATERFLOW_OUTPUT"
          echo "end {name} {number}" >&2
          echo {mark} end" >> {markers}
"""
        for number in range(STEPS)
    )
    return (
        f"  {name}:\n    runs-on: web\n    needs: {needs}\n"
        f"    outputs: {{kept: '${{{{ steps.s{STEPS - 1}.outputs.kept }}}}'}}\n    steps:\n{steps}"
        f"      - uses: log\n        with: {{message: 'said {name}'}}\n"
    )


def _brief(event: dict[str, Any]) -> str:
    words = ("seq", "at", "type", "job", "step", "attempt", "epoch", "agent_name", "outcome", "conclusion")
    reason = event.get("reason", {}).get("text", "")
    return " ".join([*(str(event[word]) for word in words if word in event), reason])


class Judge:
    """Judges the runs of one cluster; `markers` is the file that the steps wrote."""

    def __init__(self, cluster: Cluster, markers: Path) -> None:
        self._cluster = cluster
        self._markers = markers

    def run(self, run: str, *, may_be_lost: bool = False) -> dict[str, Any]:
        """Waits until the run has completed and judges it; with `may_be_lost`, steps may be `lost` or skipped."""
        try:
            found = self._cluster.wait_for(run)
        except AssertionError as error:
            history = "\n".join(map(_brief, self.events(run)))
            agents = self._cluster.api("GET", "/v1/agents").text
            raise AssertionError(f"{error}: {agents}\n{history}") from None
        events = self.events(run)
        context = "\n".join(["", json.dumps(found["jobs"]), *map(_brief, events)])
        if not may_be_lost:
            assert found["conclusion"] == "success", f"the run ended {found['conclusion']}: {context}"
        self._judge_history(found, events, context)
        self._judge_markers(found, context, may_be_lost)
        self._judge_output(found, context)
        if found["conclusion"] == "success":
            for job in found["jobs"]:
                assert job["outputs"] == {"kept": str(STEPS - 1)}, context
        return found

    def events(self, run: str) -> list[dict[str, Any]]:
        """Returns the whole history of the run."""
        rows: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self._cluster.api("GET", f"/v1/runs/{run}/events", params={"cursor": cursor} if cursor else {})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            rows += page["events"]
            if page["next"] is None:
                return rows
            cursor = page["next"]

    def _judge_history(self, found: dict[str, Any], events: list[dict[str, Any]], context: str) -> None:
        assert [row["seq"] for row in events] == list(range(1, len(events) + 1)), f"a gap: {context}"
        assert found["seq"] == len(events), f"the run's position differs from its history: {context}"
        numbers = [row["log_seq"] for row in events]
        assert numbers == sorted(set(numbers)), f"out of order: {context}"
        times = [row["at"] for row in events]
        assert times == sorted(times), f"time runs backwards: {context}"
        ends = Counter((row["type"], row.get("job"), row.get("step"), row.get("attempt")) for row in events)
        for (kind, *_), count in ends.items():
            if kind in ("run-completed", "job-completed", "step-completed", "attempt-finished", "attempt-lost"):
                assert count == 1, f"{count} ends by {kind}: {context}"
        assert events[-1]["type"] == "run-completed", context
        dispatched = Counter(
            (row["job"], row["step"], row["attempt"]) for row in events if row["type"] == "attempt-dispatched"
        )
        assert all(count == 1 for count in dispatched.values()), f"an attempt was dispatched twice: {context}"

    def _judge_markers(self, found: dict[str, Any], context: str, may_be_lost: bool) -> None:
        marks = self._marks(found["id"])
        for job in found["jobs"]:
            for step in job["steps"]:
                if step["node"] != "shell":
                    continue
                attempts = [
                    (attempt, marks.pop((job["id"], step["id"], str(attempt["attempt"])), []))
                    for attempt in step["attempts"]
                ]
                for attempt, left in attempts:
                    assert left in ([], ["begin"], ["begin", "end"]), f"{step['id']}: {left}: {context}"
                    if attempt["outcome"] == "success":
                        assert left == ["begin", "end"], f"{job['id']}.{step['id']} succeeded with {left}: {context}"
                    elif attempt["outcome"] == "refused":
                        assert not left, f"{job['id']}.{step['id']} was refused and ran: {context}"
                    else:
                        assert may_be_lost, context
                        assert attempt["outcome"] in ("lost", None), f"neither lost nor a success: {context}"
        assert not marks, f"attempts that the history does not know began: {marks}: {context}"

    def _marks(self, run: str) -> dict[tuple[str, str, str], list[str]]:
        marks: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        lines = self._markers.read_text().splitlines() if self._markers.exists() else []
        for line in lines:
            of_run, job, step, attempt, word = line.split(" ")
            if of_run == run:
                marks[job, step, attempt].append(word)
        return marks

    def _judge_output(self, found: dict[str, Any], context: str) -> None:
        expected = self._expected(found)
        printed: dict[str, list[dict[str, Any]]] = {}

        def complete() -> bool:
            printed.clear()
            answer = self._cluster.api("GET", f"/v1/runs/{found['id']}/logs")
            assert answer.status_code == 200, answer.text
            for text in answer.text.splitlines():
                line = json.loads(text)
                printed.setdefault(f"{line['job']}.{line['step']}.{line['attempt']}", []).append(line)
            return all(len(printed.get(part, [])) >= len(lines) for part, lines in expected.items())

        wait_until(complete, f"the output of run {found['id']}; expected {expected}, there are {printed}")
        for part, lines in expected.items():
            texts = [line["text"] for line in printed[part]]
            assert texts == lines, f"{part} printed {texts}: {context}"

    def _expected(self, found: dict[str, Any]) -> dict[str, list[str]]:
        """Returns what each attempt that succeeded must have printed."""
        lines: dict[str, list[str]] = {}
        for job in found["jobs"]:
            for number, step in enumerate(job["steps"]):
                for attempt in step["attempts"]:
                    if attempt["outcome"] == "success":
                        name = job["id"]
                        texts = [f"begin {name} {number}", f"end {name} {number}"]
                        part = f"{name}.{step['id']}.{attempt['attempt']}"
                        lines[part] = texts if step["node"] == "shell" else [f"said {name}"]
        return lines
