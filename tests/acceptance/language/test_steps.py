"""The workflow language with real processes: what steps get, their outputs, how they end, and nested steps.

One cluster with two servers serves all tests. `PLACE` in a workflow is the test's own folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import living
from tests.acceptance.cluster import Cluster, is_running, jobs_of, run_to_end
from tests.patience import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """One cluster for all tests."""
    return shared_cluster


def ends(cluster: Cluster, run: str) -> dict[str, str]:
    """Returns the conclusion of each step by `JOB/STEP`, including inner steps."""
    return {
        f"{event['job']}/{event['step']}": event["conclusion"]
        for event in cluster.events(run)
        if event["type"] == "step-completed"
    }


# Input and output of steps ----------------------------------------------------------------------------------------------


MIXED = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          for n in $(seq 300); do if (( n % 3 )); then echo $n; else echo $n >&2; fi; done
"""


def test_a_script_keeps_the_order_of_both_streams(cluster: Cluster) -> None:
    """Two pipes have no common order, so one is used for both."""
    run = cluster.start(MIXED)
    assert cluster.wait_for(run)["conclusion"] == "success"
    assert cluster.lines(run, 300) == [str(number) for number in range(1, 301)]


LEFT_BEHIND = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          sleep 600 > /dev/null 2>&1 &
          echo $!
          echo $! > pid
          until [ "$(cat /proc/$!/comm)" = sleep ]; do sleep 0.01; done
      - run: kill -0 "$(cat pid)" && echo alive
"""


def test_a_process_that_a_step_leaves_behind_runs_until_the_job_ends(cluster: Cluster) -> None:
    """The next step finds it; the log of its step and that of the agent name it."""
    run = cluster.start(LEFT_BEHIND)
    assert cluster.wait_for(run)["conclusion"] == "success"

    pid, named, alive = cluster.lines(run, 3)
    assert named.startswith(f"waterflow: still running until the job ends: {pid} (sleep, ")
    assert alive == "alive"
    wait_until(lambda: not is_running(int(pid)), "the process to end with the job")


MASKED = """jobs:
  a:
    runs-on: web
    steps:
      - id: first
        run: |
          TOKEN=hunter22-$RANDOM$RANDOM
          echo "$TOKEN" > token
          echo "::add-mask::$TOKEN"
          echo "::group::Use $TOKEN"
          echo "token=$TOKEN" >> "$GITHUB_OUTPUT"
      - run: |
          echo "later $(cat token) ${{ steps.first.outputs.token }}"
          echo "::warning file=a.c::see $(cat token)"
"""


def test_a_value_that_a_step_masks_is_masked_in_all_later_steps(cluster: Cluster) -> None:
    """In the output, in groups and messages, and in outputs of steps."""
    run = cluster.start(MASKED)
    found = cluster.wait_for(run)
    assert found["conclusion"] == "success"
    assert found["jobs"][0]["steps"][1]["attempts"][0]["annotations"] == ["##[warning]a.c: see ***"]

    masked, group, note, later, warning = cluster.lines(run, 5)
    assert (masked, group) == ("::add-mask::***", "##[group]Use ***")
    assert "in its place: token; a file in $RUNNER_TEMP" in note
    assert (later, warning) == ("later *** ***", "##[warning]a.c: see ***")
    assert "hunter22" not in str(cluster.events(run))


LAYERS = """env: {LAYER: workflow, WORKFLOW: w, BASE: "${{ vars.app.name }}"}
vars: {app: {name: shop, ports: [80, 443]}, first: "${{ vars.app.ports[0] }}"}
defaults: {run: {shell: sh, working-directory: sub}}
jobs:
  a:
    runs-on: web
    env: {LAYER: job, JOB: "${{ env.WORKFLOW }}j"}
    defaults: {run: {working-directory: other}}
    steps:
      - {run: mkdir sub other, working-directory: .}
      - run: echo "$(basename $PWD) ${BASH_VERSION:-no bash} $LAYER $JOB $BASE ${{ vars.first }} ${{ vars.app.ports[1] }}"
      - shell: python
        working-directory: sub
        env: {LAYER: step}
        run: import os; print(os.path.basename(os.getcwd()), os.environ["LAYER"], os.environ["JOB"])
      - shell: cat {0}
        run: of a template
      - run: |
          echo "LATER=from a step" >> "$GITHUB_ENV"
          echo "PATH=/nowhere" >> "$WATERFLOW_ENV"
          echo "JOB=by a step" >> "$WATERFLOW_ENV"
      - run: echo "$LATER, $JOB, $LAYER, ${{ env.LATER }}"
"""


def test_environment_variables_and_defaults_override_by_layer(cluster: Cluster) -> None:
    """The layers are workflow, job and step; the job's `defaults.run` overrides the workflow's, key by key."""
    run, _ = run_to_end(cluster, LAYERS)

    assert cluster.lines(run, 5) == [
        "other no bash job wj shop 80 443",
        "sub step wj",
        "of a template",
        "waterflow: PATH in WATERFLOW_ENV is ignored: steps may not set this variable",
        "from a step, by a step, job, from a step",
    ]


FILES = """jobs:
  a:
    runs-on: web
    outputs: {kept: "${{ steps.failed.outputs.kept }}", lines: "${{ steps.names.outputs.lines }}"}
    steps:
      - id: names
        run: |
          test "$GITHUB_OUTPUT" = "$WATERFLOW_OUTPUT" -a "$GITHUB_STEP_SUMMARY" = "$WATERFLOW_SUMMARY"
          { echo "lines<<EOF"; echo one; echo two; echo EOF; } >> "$GITHUB_OUTPUT"
          echo "# Summary" >> "$GITHUB_STEP_SUMMARY"
      - id: failed
        continue-on-error: true
        run: echo "kept=all the same" >> "$WATERFLOW_OUTPUT"; exit 75
      - run: echo "${{ steps.failed.outcome }} ${{ steps.failed.conclusion }} ${{ steps.failed.exit-code }}"
      - id: hard
        run: echo "why=broken" >> "$WATERFLOW_OUTPUT"; exit 3
      - run: echo never
      - if: failure()
        run: echo "failed with ${{ steps.hard.outputs.why }}"
      - if: always()
        run: echo always
  b:
    needs: a
    if: always()
    runs-on: web
    steps: [{run: 'echo "${{ needs.a.result }} ${{ needs.a.outputs.kept }} ${{ needs.a.outputs.lines }}"'}]
  c:
    needs: a
    runs-on: web
    steps: [{run: echo never}]
"""


def test_outputs_survive_a_failed_step_and_always_steps_run(cluster: Cluster) -> None:
    """The step files have GitHub's names too; `continue-on-error`, `failure()` and `always()` work as documented."""
    run, jobs = run_to_end(cluster, FILES, conclusion="failure")

    assert cluster.lines(run, 5) == [
        "failure success 75",
        "failed with broken",
        "always",
        "failure all the same one",
        "two",
    ]
    assert [jobs[job]["conclusion"] for job in ("a", "b", "c")] == ["failure", "success", "skipped"]
    assert jobs["a"]["outputs"] == {"kept": "all the same", "lines": "one\ntwo"}


HOSTILE = '"; touch PLACE/owned; echo "$(touch PLACE/owned)`touch PLACE/owned`\' %s'


def test_an_expression_is_data_unless_interpolation_is_unsafe(cluster: Cluster, tmp_path: Path) -> None:
    """The script prints any value; with `unsafe-interpolation` the value is pasted and executed."""
    value = HOSTILE.replace("PLACE", str(tmp_path))
    workflow = {
        "vars": {"value": value, "command": "echo $((6 * 7))"},
        "jobs": {
            "a": {
                "runs-on": "web",
                "steps": [
                    {"run": 'echo "${{ vars.value }}"\nprintf "%s\\n" \'${{ vars.value }}\' "${{ vars.value }}"'},
                    {"shell": "sh", "run": "cat <<EOF\n${{ vars.value }}\nEOF"},
                    {"unsafe-interpolation": True, "run": "${{ vars.command }}"},
                ],
            }
        },
    }
    run, _ = run_to_end(cluster, json.dumps(workflow))

    assert cluster.lines(run, 5) == [*[value] * 4, "42"]
    assert not (tmp_path / "owned").exists()


def test_output_is_kept_up_to_its_limit(cluster: Cluster) -> None:
    """`output-max-bytes` keeps the beginning and the end, and a marker says how much is missing."""
    run, jobs = run_to_end(
        cluster,
        """jobs:
  a:
    runs-on: web
    steps:
      - output-max-bytes: 64KiB
        run: echo first; head -c 1000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo last
""",
    )

    attempt = jobs["a"]["steps"][0]["attempts"][0]
    assert attempt["output_dropped"] > 900_000
    lines = cluster.lines(run, 3)
    wait_until(lambda: cluster.lines(run)[-1] == "last", "the end of the output")
    lines = cluster.lines(run)
    assert lines[0] == "first"
    assert sum(map(len, lines)) < 70_000
    assert any("bytes" in line and "x" * 50 not in line for line in lines), [line[:80] for line in lines]


# Completion of steps ----------------------------------------------------------------------------------------------------


TIMES = """jobs:
  a:
    runs-on: web
    steps:
      - id: rows
        continue-on-error: true
        timeout-minutes: 0.02
        uses: loop
        with:
          items: [1, 2]
          max-parallel: 2
          steps:
            - run: echo $$ > PLACE/new${{ item }}; mv PLACE/new${{ item }} PLACE/pid${{ item }}; exec sleep 300
      - id: both
        continue-on-error: true
        timeout-minutes: 0.01
        uses: parallel
        with: {branches: [[{run: 'true'}], [{uses: sleep, with: {duration: 1h}}]]}
      - id: one
        timeout-minutes: 0.01
        continue-on-error: true
        run: sleep 300
      - run: echo "${{ steps.rows.outcome }} ${{ steps.both.outcome }} ${{ steps.one.outcome }}"
"""


def test_a_step_with_inner_steps_has_its_own_timeout(cluster: Cluster, tmp_path: Path) -> None:
    """When the time is up, the processes inside are stopped, and the step has timed out."""
    run, _ = run_to_end(cluster, TIMES, tmp_path)

    assert cluster.lines(run, 1) == ["failure failure failure"], "as GitHub has no separate word for it"
    outcomes = {event["step"]: event["outcome"] for event in cluster.events(run) if event["type"] == "step-completed"}
    assert [outcomes[step] for step in ("rows", "both", "one")] == ["timed-out"] * 3
    pids = [int((tmp_path / f"pid{number}").read_text()) for number in (1, 2) if (tmp_path / f"pid{number}").exists()]
    assert not any(map(is_running, pids))


LOST = """jobs:
  fail:
    runs-on: lonely
    steps:
      - run: touch PLACE/fail; exec sleep 300
      - {if: always(), run: echo never mind}
  retry:
    runs-on: lonely
    steps:
      - on-lost: retry
        run: echo x >> PLACE/retry; test $(wc -l < PLACE/retry) = 2 || exec sleep 300
  policy:
    runs-on: lonely
    steps:
      - retry: {max-attempts: 2, initial-interval: 10ms, on: [lost]}
        run: echo x >> PLACE/policy; test $(wc -l < PLACE/policy) = 2 || exec sleep 300
  hold:
    runs-on: lonely
    steps:
      - on-lost: hold
        run: touch PLACE/hold; exec sleep 300
"""


def _runner_of(cluster: Cluster, agent: str) -> int | None:
    expected = os.fsencode(str((cluster.agent_dir(agent) / "runner").resolve()))
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"waterflow_agent.runner" in arguments and expected in arguments and is_running(int(entry.name)):
            return int(entry.name)
    return None


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_step_with_an_unknown_outcome_follows_on_lost(cluster: Cluster, tmp_path: Path) -> None:
    """`on-lost` gives `lost`, another attempt, or a wait for a person; the runner is killed to provoke each."""
    cluster.add_agent("lonely", "lonely")
    run = cluster.start(LOST.replace("PLACE", str(tmp_path)))
    wait_until(lambda: all((tmp_path / name).exists() for name in ("fail", "hold")), "the two that leave a file to run")
    # The file exists before its line is written.
    wait_until(
        lambda: all(_text(tmp_path / name) == "x\n" for name in ("retry", "policy")), "the two that count to run"
    )
    os.kill(wait_until(lambda: _runner_of(cluster, "lonely"), "the runner"), 9)

    def jobs() -> dict[str, Any]:
        return jobs_of(cluster.run(run))

    wait_until(
        lambda: [jobs()[job]["status"] for job in ("fail", "retry", "policy")] == ["completed"] * 3, "three of them"
    )
    found = jobs()
    assert [found[job]["conclusion"] for job in ("fail", "retry", "policy")] == ["lost", "success", "success"]
    assert (tmp_path / "retry").read_text() == (tmp_path / "policy").read_text() == "x\nx\n"
    assert (found["hold"]["steps"][0]["status"], found["hold"]["steps"][0]["reason"]["code"]) == ("waiting", "held")
    assert cluster.api("POST", f"/v1/runs/{run}/cancel").status_code in (200, 202)
    assert cluster.wait_for(run)["conclusion"] == "cancelled"


CANCELLED = """jobs:
  a:
    runs-on: web
    steps:
      - uses: loop
        with:
          items: [1, 2]
          max-parallel: 2
          steps:
            - stop: {signal: SIGINT, grace: 60s}
              run: |
                trap 'echo stopped; exit 1' INT
                echo $$ > PLACE/new${{ item }}; mv PLACE/new${{ item }} PLACE/pid${{ item }}
                while true; do sleep 0.05; done
            - run: echo never
            - if: always()
              run: echo "tidied ${{ item }}"
      - if: always()
        run: echo tidied
"""


def test_a_cancel_stops_a_loop_and_still_runs_always_steps(cluster: Cluster, tmp_path: Path) -> None:
    """The processes inside get their signal and end; `always()` steps run, inside and afterwards."""
    run = cluster.start(CANCELLED.replace("PLACE", str(tmp_path)))
    wait_until(lambda: len(list(tmp_path.glob("pid*"))) == 2, "both passes to run")
    assert cluster.api("POST", f"/v1/runs/{run}/cancel").status_code == 202

    assert cluster.wait_for(run)["conclusion"] == "cancelled"
    assert sorted(cluster.lines(run, 5)) == ["stopped", "stopped", "tidied", "tidied 1", "tidied 2"]
    assert not any(is_running(int(path.read_text())) for path in tmp_path.glob("pid*"))


# Nested steps -----------------------------------------------------------------------------------------------------------


NESTED = """jobs:
  a:
    runs-on: web
    steps:
      - id: outer
        uses: loop
        with:
          items: [{n: 1}, {n: 2}]
          as: row
          max-parallel: 2
          steps:
            - id: both
              uses: parallel
              with:
                branches:
                  - - run: echo "$WATERFLOW_STEP ${{ row.n }}" >> PLACE/marks
                    - uses: sleep
                      with: {duration: 20ms}
                  - - uses: condition
                      with:
                        if: row.n == 2
                        then:
                          - id: inner
                            run: echo "$WATERFLOW_STEP" >> PLACE/marks; echo "n=${{ row.n }}" >> "$WATERFLOW_OUTPUT"
                        else: [{run: 'echo "$WATERFLOW_STEP" >> PLACE/marks'}]
      - id: count
        uses: loop
        with:
          while: loop.index < 3
          max-iterations: 9
          steps: [{run: echo x >> rounds}]
      - run: echo "$(wc -l < rounds) ${{ len(steps.outer.outputs.results) }}"
"""


def test_steps_nest_in_loops_conditions_and_branches(cluster: Cluster, tmp_path: Path) -> None:
    """Each inner step runs once, under its path, with the values of the surrounding loops."""
    run, _ = run_to_end(cluster, NESTED, tmp_path)

    marks = (tmp_path / "marks").read_text().splitlines()
    assert sorted(marks) == [
        "outer[0]/both[0]/1 1",
        "outer[0]/both[1]/1/1",
        "outer[1]/both[0]/1 2",
        "outer[1]/both[1]/1/inner",
    ]
    assert cluster.lines(run, 1) == ["3 2"]
    found = ends(cluster, run)
    assert (len(found), set(found.values())) == (16, {"success"})


def test_more_branches_and_iterations_than_slots_run_one_after_another(cluster: Cluster) -> None:
    """Whatever the file sets as `max-parallel`, one slot runs one step at a time, and nothing waits forever."""
    cluster.add_agent("tiny", "tiny", slots=1)
    run, _ = run_to_end(
        cluster,
        """jobs:
  a:
    runs-on: tiny
    steps:
      - uses: loop
        with: {items: "${{ range(12) }}", max-parallel: 10, steps: [{run: 'echo ${{ item }}'}]}
      - uses: parallel
        with:
          branches:
            - [{run: echo a}, {run: echo b}]
            - [{uses: parallel, with: {branches: [[{run: echo c}], [{run: echo d}]]}}]
""",
    )
    assert sorted(cluster.lines(run, 16)) == sorted([*map(str, range(12)), "a", "b", "c", "d"])


def test_ids_of_maximum_length_fit_every_path(cluster: Cluster) -> None:
    """Directories, process files and output paths can hold ids of the maximum length at the deepest nesting."""

    def nested(depth: int) -> list[dict[str, Any]]:
        if depth == 0:
            script = 'echo "has ${#WATERFLOW_STEP}"; seq 100001 115000; test "$PWD" = "$WATERFLOW_WORKSPACE"'
            return [{"id": "leaf".ljust(100, "z"), "run": script}]
        inner = {"items": [1], "as": f"i{depth}", "steps": nested(depth - 1)}
        return [{"id": f"k{depth}".ljust(100, "y"), "uses": "loop", "with": inner}]

    job = "j" * 100
    values = ["l" * 300, "ünï cödé/../..", "a/b", "a b"]
    workflow = {"jobs": {job: {"runs-on": "web", "strategy": {"matrix": {"of": values}}, "steps": nested(8)}}}
    run, jobs = run_to_end(cluster, json.dumps(workflow))

    assert len(jobs) == 1 + len(values)
    lines = cluster.lines(run, 4 * 15_001)
    assert lines.count("has 932") == 4
    assert lines.count("115000") == 4
    assert set(ends(cluster, run).values()) == {"success"}
    wait_until(lambda: not living.found(cluster.folder, f"agent-*/work/{run}/*"), "the directories to go")
