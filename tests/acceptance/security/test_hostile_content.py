"""Input from strangers, with real processes: wherever an input is accepted it is data, evaluated once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import living
from tests.acceptance.cluster import Cluster, jobs_of
from tests.acceptance.conftest import MakeCluster
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TOKEN = "heron-4711-of-the-daemon"
#: The number of the step below that fails with the input, and how often the workflow prints the input in Base64.
FAILED, PRINTED = 9, 13

#: An input in each place of the language that accepts one, except those that decide where a job runs.
EVERYWHERE = """name: everywhere
on:
  workflow_dispatch:
    inputs: {evil: {type: string}, list: {type: string}, written: {type: string}}
vars: {var: "${{ inputs.evil }}"}
env: {TOP: "${{ inputs.evil }}"}
concurrency: "one at a time ${{ inputs.evil }}"
jobs:
  main:
    name: "job ${{ inputs.evil }}"
    runs-on: web
    if: inputs.evil != ''
    env: {JOB: "${{ inputs.evil }}"}
    outputs: {passed: "${{ steps.kept.outputs.text }}"}
    steps:
      - name: "step ${{ inputs.evil }}"
        env: {STEP: "${{ inputs.evil }}", VAR: "${{ vars.var }}"}
        run: |
          show() { printf '%s' "$1" | base64 -w 0; echo; }
          show "$TOP"; show "$JOB"; show "$STEP"; show "$VAR"
          show "${{ inputs.evil }}"; show '${{ inputs.evil }}'
          if [ -n ${{ inputs.evil }} ]; then echo words; fi
          for word in ${{ inputs.evil }}; do :; done
          cat <<END > here
          ${{ inputs.evil }}
          END
          show "$(cat here)"
      - id: kept
        uses: set-outputs
        with: {outputs: {text: "${{ inputs.evil }}"}}
      - run: printf '%s' "${{ steps.kept.outputs.text }}" | base64 -w 0
      - uses: log
        with: {message: "log ${{ inputs.evil }}"}
      - uses: file/write
        with: {path: "${{ inputs.written }}", content: "${{ inputs.evil }}"}
      - uses: loop
        with:
          items: "${{ fromJSON(inputs.list) }}"
          steps: [{run: 'printf %s "${{ item }}" | base64 -w 0'}]
      - uses: condition
        with:
          if: contains(inputs.evil, inputs.evil)
          then: [{run: echo then}]
      - uses: ./steps/show
        with: {text: "${{ inputs.evil }}"}
      - continue-on-error: true
        working-directory: "${{ inputs.evil }}"
        run: echo never
      - continue-on-error: true
        uses: fail
        with: {message: "failed ${{ inputs.evil }}"}
      - env: {TOKEN: "${{ secrets.TOKEN }}", BESIDE: "${{ inputs.evil }}"}
        run: printf 'with a secret %s\\n' "$BESIDE"
  after:
    needs: main
    runs-on: web
    strategy: {matrix: {text: "${{ fromJSON(inputs.list) }}"}}
    env: {PASSED: "${{ needs.main.outputs.passed }}"}
    steps:
      - run: printf '%s' "$PASSED" | base64 -w 0
      - run: printf '%s' "${{ matrix.text }}" | base64 -w 0
  called:
    uses: ./workflows/called.yml
    with: {text: "${{ inputs.evil }}"}
"""

CALLED = """on: {workflow_call: {inputs: {text: {type: string}}}}
jobs:
  inner:
    runs-on: web
    steps: [{run: 'printf %s "${{ inputs.text }}" | base64 -w 0'}]
"""

SHOW = """inputs: {text: {required: true}}
steps: [{run: 'printf %s "${{ inputs.text }}" | base64 -w 0'}]
"""

#: A job's group, its environment and its timeout can be texts with an input as well.
NOWHERE = """on: {workflow_dispatch: {inputs: {evil: {type: string}}}}
jobs:
  group:
    runs-on: "${{ inputs.evil }}"
    start-timeout-minutes: 0.001
    steps: [{run: echo never}]
"""

HOSTILE = {
    "a quote and a command": "'; touch PLACE/pwn #",
    "a double quote and a command": '"; touch PLACE/pwn; "',
    "substitutions": "$(touch PLACE/pwn)`touch PLACE/pwn`",
    "words of a script": "x ]; then touch PLACE/pwn; fi; [ x",
    "the end of a here-document": "x\nEND\ntouch PLACE/pwn\n#",
    "a secret's expression": "${{ secrets.TOKEN }}",
    "an expression in an expression": "${{ '${{ secrets.TOKEN }}' }} ${{ fromJSON('1') }}",
    "the placeholder of a secret in the log": "\ue0f0TOKEN\ue0f1",
    "more of the file": 'x"\n      - run: touch PLACE/pwn',
    "a way out": "../../../../../../etc",
    "a place on the server": "/etc",
    "formats": "%s%n%999999d {0} \\x41 \\",
    "markup and escapes": "<script>alert(1)</script>\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\r\u202e",
}


@pytest.fixture(scope="module")
def hostile_cluster(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """A daemon with a repository and a secret, and an agent."""
    cluster = make_cluster(tmp_path_factory.mktemp("hostile"))
    try:
        _fill(cluster)
        yield cluster
    finally:
        cluster.close()


def _fill(cluster: Cluster) -> None:
    cluster.daemon_environment["WATERFLOW_SECRET_TOKEN"] = TOKEN
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    (cluster.folder / "place").mkdir()
    files = {
        "workflows/everywhere.yml": EVERYWHERE,
        "workflows/called.yml": CALLED,
        "workflows/nowhere.yml": NOWHERE,
        "steps/show/step.yml": SHOW,
    }
    cluster.push(clone, files)
    wait_until(lambda: len(cluster.api("GET", "/v1/definitions").json()["definitions"]) == 3, "the files", PATIENCE_S)
    rows = cluster.api("GET", "/v1/definitions").json()["definitions"]
    assert [row["errors"] for row in rows if row["errors"]] == []


def _start(cluster: Cluster, path: str, **inputs: str) -> str:
    answer = cluster.api("POST", f"/v1/definitions/{path}/run?repository=ops", json={"inputs": inputs})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _decoded(lines: list[str]) -> list[str]:
    """Decodes the lines that are Base64; skips all others."""
    found = []
    for line in lines:
        try:
            found.append(base64.b64decode(line, validate=True).decode())
        except ValueError:
            continue
    return found


def _steps(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs_of(found).values() for step in job.get("steps", ())]


def test_an_input_is_data_everywhere_and_is_evaluated_once(hostile_cluster: Cluster) -> None:
    """Scripts, environment, parameters, outputs, loops, matrices, calls, composite steps and names keep the text."""
    cluster, directory = hostile_cluster, hostile_cluster.folder / "place"
    for number, (name, text) in enumerate(HOSTILE.items()):
        value = text.replace("PLACE", str(directory))
        written = directory / str(number)
        run = _start(cluster, "workflows/everywhere.yml", evil=value, list=json.dumps([value]), written=str(written))
        found = cluster.wait_for(run, PATIENCE_S)
        assert found["conclusion"] == "success", (name, found["reason"], _steps(found), cluster.lines(run))
        _comes_out_unchanged(cluster, run, value)
        assert written.read_bytes().decode() == value, name
        assert found["jobs"][0]["outputs"] == {"passed": value}, name
        assert "never" not in cluster.lines(run), f"{name}: a step ran elsewhere than in its job's directory"
        failed = found["jobs"][0]["steps"][FAILED]["reason"]["text"]
        assert "failed " in failed
        assert failed.isprintable(), name
        assert not living.found(cluster.folder, "**/pwn"), name
        _shows_no_secret(cluster, run)
        _shows_no_escapes(cluster, run)


def _comes_out_unchanged(cluster: Cluster, run: str, value: str) -> None:
    wait_until(
        lambda: len(_decoded(cluster.lines(run))) >= PRINTED, f"the output of all steps for {value!r}", PATIENCE_S
    )
    # A here-document and a substitution drop the value's trailing newlines.
    assert [text for text in _decoded(cluster.lines(run)) if text not in (value, value.rstrip("\n"))] == []


def _shows_no_escapes(cluster: Cluster, run: str) -> None:
    for command in ("logs", "show", "why"):
        reported = cluster.ctl(command, run).stdout
        assert reported
        assert not any(mark in reported for mark in ("\x1b]", "\x07", "\r", "\u202e")), command


def _shows_no_secret(cluster: Cluster, run: str) -> None:
    paths = (f"/v1/runs/{run}", f"/v1/runs/{run}/events", f"/v1/runs/{run}/logs")
    assert [path for path in paths if TOKEN in cluster.api("GET", path).text] == []
    assert living.holding(cluster.folder / "daemon", TOKEN.encode()) == []


@pytest.mark.parametrize("name", ["a quote and a command", "a secret's expression", "a way out", "markup and escapes"])
def test_a_hostile_input_in_runs_on_is_an_unknown_group(hostile_cluster: Cluster, name: str) -> None:
    """The input is taken as an ordinary group name, and no agent has this group."""
    cluster = hostile_cluster
    place = cluster.folder / "place"
    value = HOSTILE[name].replace("PLACE", str(place))
    run = _start(cluster, "workflows/nowhere.yml", evil=value)
    found = cluster.wait_for(run, PATIENCE_S)
    assert found["conclusion"] in ("failure", "timed-out")
    assert not (place / "pwn").exists()
    _shows_no_secret(cluster, run)


def test_the_result_of_an_expression_is_not_evaluated_again(cluster: Cluster) -> None:
    """The result of the outer expression is not evaluated again, and no secret is requested."""
    step = """- run: "echo '${{ '${{ secrets.TOKEN }}' }}'\""""
    run = cluster.start(f"jobs:\n  a:\n    runs-on: web\n    steps:\n      {step}\n")
    assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "success"
    assert cluster.lines(run, 1) == ["${{ secrets.TOKEN }}"]
