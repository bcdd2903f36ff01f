"""Workflows of several files with real processes: called workflows and composite steps, started by a push."""

from __future__ import annotations

import pytest

from tests.acceptance.cluster import Cluster, jobs_of
from tests.patience import wait_until

pytestmark = pytest.mark.slow

MAIN = """on: push
vars: {who: outer}
jobs:
  first:
    runs-on: web
    outputs: {at: "${{ steps.deploy.outputs.at }}"}
    steps:
      - id: deploy
        uses: ./steps/deploy
        with: {target: "${{ vars.who }}"}
      - run: echo "got ${{ steps.deploy.outputs.at }}"
  called:
    needs: first
    uses: ./workflows/reusable/roll.yml
    with: {target: "${{ needs.first.outputs.at }}", count: 2}
    secrets: {TOKEN: "${{ secrets.OUTER }}"}
  after:
    needs: called
    runs-on: web
    steps:
      - run: echo "after ${{ needs.called.outputs.result }} ${{ needs.called.result }}"
"""

DEPLOY = """name: Deploy
inputs:
  target: {required: true}
  port: {default: '80'}
outputs:
  at: {value: "${{ steps.put.outputs.at }}"}
steps:
  - id: put
    run: |
      echo "put ${{ inputs.target }} $WATERFLOW_JOB $WATERFLOW_STEP"
      echo "at=${{ inputs.target }}:${{ inputs.port }}" >> "$WATERFLOW_OUTPUT"
  - uses: ./steps/check
"""

CHECK = """steps:
  - uses: loop
    with: {items: [1, 2], steps: [{run: 'echo "check ${{ item }} $WATERFLOW_STEP"'}]}
"""

ROLL = """on:
  workflow_call:
    inputs:
      target: {type: string, required: true}
      count: {type: number}
    secrets:
      TOKEN: {required: true}
    outputs:
      result: {value: "${{ jobs.put.outputs.said }}"}
jobs:
  put:
    runs-on: web
    outputs: {said: "${{ steps.say.outputs.said }}"}
    steps:
      - id: say
        env: {TOKEN: "${{ secrets.TOKEN }}"}
        run: |
          echo "$WATERFLOW_JOB ${{ inputs.target }} ${{ inputs.count * 2 }} ${#TOKEN}"
          echo "said=done-${{ inputs.target }}" >> "$GITHUB_OUTPUT"
  each:
    needs: put
    runs-on: {group: web, target: each}
    steps: [{run: 'echo "$WATERFLOW_JOB"'}]
"""


def test_a_push_starts_a_workflow_of_several_files(empty_cluster: Cluster) -> None:
    """Nested composite steps and a called workflow with inputs, secrets and outputs come from one commit."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.daemon_environment["WATERFLOW_SECRET_OUTER"] = "twelve chars"
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.add_agent("web-2", "web")
    revision = cluster.push(
        clone,
        {
            "workflows/main.yml": MAIN,
            "workflows/reusable/roll.yml": ROLL,
            "steps/deploy/step.yml": DEPLOY,
            "steps/check/step.yml": CHECK,
        },
    )
    row = wait_until(lambda: next(iter(cluster.api("GET", "/v1/runs").json()["runs"]), None), "the run")
    found = cluster.wait_for(row["id"])

    assert found["conclusion"] == "success", found
    assert (found["path"], found["revision"]) == ("workflows/main.yml", revision)
    assert sorted(cluster.lines(row["id"], 8)) == [
        "after done-outer:80 success",
        "called/each[web-1]",
        "called/each[web-2]",
        "called/put outer:80 4 12",
        "check 1 deploy/2/1[0]/1",
        "check 2 deploy/2/1[1]/1",
        "got outer:80",
        "put outer first deploy/put",
    ]
    assert {"first", "called", "called/put", "called/each", "called/each[web-2]", "after"} <= set(jobs_of(found))
    assert len(cluster.api("GET", "/v1/runs").json()["runs"]) == 1, "what is only called is not started"

    cluster.kill_daemon()
    cluster.start_daemon()
    assert jobs_of(cluster.run(row["id"])) == jobs_of(found), "the log alone tells the same"
