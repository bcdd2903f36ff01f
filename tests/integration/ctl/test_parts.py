"""The command line on runs with parts: trees, parts with brackets, approvals, and re-runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ctl.served import Server, started_id
from waterflowd.testing.awaiting import until

EACH = """\
name: roll
jobs:
  roll:
    runs-on: {group: web, target: each}
    steps:
      - id: one
        run: |
          print from ${{ agent.hostname }}
          exit ${{ agent.hostname == 'web-2' && 3 || 0 }}
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
          items: [x, y]
          as: letter
          steps:
            - {id: say, run: "print ${{ letter }}"}
"""
GATED = """\
name: gated
jobs:
  ask:
    runs-on: web
    steps:
      - {id: gate, uses: approval, with: {message: may it go on?}}
      - run: print on
"""
GATES = """\
name: gates
jobs:
  one: {runs-on: web, environment: {name: prod, approvers: ["uid:ME"]}, steps: [{run: print one}]}
  two: {runs-on: web, environment: {name: prod, approvers: ["uid:ME"]}, steps: [{run: print two}]}
""".replace("ME", str(os.getuid()))
FLAKY = """\
name: flaky
jobs:
  build: {runs-on: web, steps: [{id: make, run: print built}]}
  deploy:
    runs-on: web
    needs: build
    steps:
      - {id: prepare, run: print prepared}
      - {id: put, run: exit 1}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flow.yml"


def detached(server: Server, path: Path, text: str) -> str:
    path.write_text(text)
    return started_id(server.ctl("run", str(path), "--detach"))


def test_a_job_on_many_servers_lists_its_failures(server: Server, path: Path) -> None:
    """The tree has one instance per server; the failed one is shown with the next command, quoted for a shell."""
    assert server.harness is not None
    server.loop.call_soon_threadsafe(server.harness.connect, "web-2", "web")
    server.call(until(lambda: len(server.harness.agents.agents) == 2))  # type: ignore[union-attr]
    path.write_text(EACH)
    result = server.ctl("run", str(path))
    assert result.exit_code == 1, result.output
    assert "'roll[web-2]/one'" in result.output
    displayed = server.ctl("show", "roll").output
    assert "1/2 servers, 1 failure" in displayed
    assert "roll (web-1)" in displayed
    assert server.ctl("logs", "roll", "roll").output.splitlines() == [
        "roll[web-1]/one | from web-1",
        "roll[web-2]/one | from web-2",
    ]
    assert server.ctl("logs", "roll", "roll[web-2]/one").output == "from web-2\n"
    assert "the same on" not in server.ctl("logs", "roll", "--fold").output
    assert "roll[web-2]/one: failure" in server.ctl("why", "roll").output
    again = server.ctl("rerun", "roll", "--servers", "failed", "--dry-run")
    assert "will run: roll[web-2]\n" in again.output


def test_iterations_of_a_loop_are_in_the_tree_with_their_items(server: Server, path: Path) -> None:
    """The passes are in the tree and in the prefixes of output; a plain `watch` names the inner steps."""
    path.write_text(LOOP)
    result = server.ctl("run", str(path))
    assert result.exit_code == 0, result.output
    assert "a/all[0]/say" in result.output
    displayed = server.ctl("show", "looping").output
    assert "2/2 passes" in displayed
    assert "pass 2: y" in displayed
    assert server.ctl("logs", "looping", "a/all[1]").output == "a/all[1]/say | y\n"


def test_a_pending_approval_is_shown_by_every_command_and_can_be_given(server: Server, path: Path) -> None:
    """`show`, `why` and `status` name the approvers and the command to type; after the approval the run continues."""
    run = detached(server, path, GATED)
    assert server.harness is not None
    for command in (("show", run), ("why", run), ("status",)):
        output = server.ctl(*command).output
        assert "waiting for an approver: may it go on?" in output
        assert f"next: waterflowctl approve {run}" in output
    values = server.ctl("approve", run, "--comment", "fine")
    assert (values.exit_code, "approved ask/gate of gated #1" in values.output) == (0, True), values.output
    assert server.ctl("watch", run).exit_code == 0
    assert "fine" in server.ctl("events", run).output
    again = server.ctl("approve", run)
    assert (again.exit_code, "gated #1 has no pending approvals" in again.output) == (5, True)


def test_several_pending_approvals_need_a_part(server: Server, path: Path) -> None:
    """Without a part they are listed; with one, that job continues, and a rejection fails its job."""
    run = detached(server, path, GATES)
    both = server.ctl("approve", run)
    assert (both.exit_code, "one, two" in both.output) == (5, True)
    assert server.ctl("approve", run, "three").exit_code == 5
    assert server.ctl("approve", run, "one").exit_code == 0
    rejected = server.ctl("reject", run, "two", "--json")
    assert (rejected.exit_code, json.loads(rejected.stdout)["id"]) == (0, run)
    assert server.ctl("watch", run).exit_code == 1
    jobs = json.loads(server.ctl("show", run, "--json").stdout)["jobs"]
    assert [job["conclusion"] for job in jobs] == ["success", "failure"]


def test_a_rerun_lists_reused_jobs_and_exits_with_the_result(server: Server, path: Path) -> None:
    """Reused and re-run jobs are listed before the start; the new run names the old one."""
    path.write_text(FLAKY)
    server.ctl("run", str(path))
    old = json.loads(server.ctl("show", "flaky", "--json").stdout)["id"]
    again = server.ctl("rerun", old, "--failed")
    lines = again.output.splitlines()
    assert again.exit_code == 1
    assert lines[:3] == ["re-running flaky #1", "  reused: build", "  will run: deploy"]
    displayed = server.ctl("show", "flaky").output
    assert f"re-run of {old}, reused 1 job and 0 steps" in displayed
    assert "build  reused" in displayed
    middle = server.ctl("rerun", old, "--from", "put", "--detach", "--json")
    assert json.loads(middle.stdout)["reused"] == ["build", "deploy/prepare"]
    whole = server.ctl("rerun", old, "--dry-run")
    assert "reused: nothing" in whole.output
    assert server.ctl("rerun", old, "--from", "nope").exit_code == 5
    assert server.ctl("rerun", old, "--at", "abcdef").exit_code == 5
    assert server.ctl("rerun", old, "--failed", "--from", "put").exit_code == 5
