"""Own nodes with real processes: from the repository, from the server, and everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster, jobs_of
from tests.patience import PATIENCE_S, wait_until
from tests.unit.test_own_node_files import files_of_page

pytestmark = pytest.mark.slow

HEAD = """\
from waterflow_agent.nodes.node import Context, Node, NodeFailure, Parameters


class Given(Parameters, kw_only=True):
    count: int = 1


class Own(Node[Given]):
    \"\"\"Does it.\"\"\"

    async def run(self, context, parameters):
"""


def node(*lines: str) -> str:
    """Returns a file with a node that executes these lines."""
    return HEAD + "".join(f"        {line}\n" for line in lines)


def first_run(cluster: Cluster, revision: str) -> str:
    """Returns the run that the push started."""
    row: dict[str, Any] = wait_until(
        lambda: next(iter(cluster.api("GET", f"/v1/runs?revision={revision}").json()["runs"]), None),
        "the run",
        PATIENCE_S,
    )
    return str(row["id"])


def versions(cluster: Cluster, run: str) -> list[str]:
    """Returns the versions of own nodes with which the run's attempts were sent."""
    found = [event for event in cluster.events(run) if event["type"] == "attempt-dispatched"]
    return [event["node_version"] for event in found if event.get("node_version")]


@pytest.fixture
def repository(empty_cluster: Cluster) -> Cluster:
    """A cluster with a watched repository and one agent of the group `web`."""
    empty_cluster.make_repository()
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web")
    return empty_cluster


def test_the_documented_node_runs_in_the_push_that_adds_it(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The class and the workflow of docs/own-nodes.md work unchanged when they are pushed together."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web-servers")
    files = files_of_page(tmp_path / "page")

    revision = cluster.push(
        clone, {"nodes/demo/greet.py": files["nodes/demo/greet.py"], "workflows/greet.yml": files["workflow"]}
    )

    run = first_run(cluster, revision)
    assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "success", cluster.run(run)
    assert cluster.lines(run, 3) == ["Hello Ada!", "Hello Ada!", "greeted Ada"]


def test_a_changed_node_applies_to_the_next_run_and_open_runs_keep_their_version(
    repository: Cluster, tmp_path: Path
) -> None:
    """The steps of an open run keep the node of its commit, also after a restart of the daemon and in a re-run."""
    cluster, gate = repository, tmp_path / "gate"
    workflow = (
        "on: push\njobs:\n  a:\n    runs-on: web\n    steps:\n      - {uses: shop/wait}\n      - {uses: shop/wait}\n"
    )
    waiting = [
        "import asyncio, pathlib",
        "print('begun')",
        f"while not pathlib.Path({str(gate)!r}).exists():",
        "    await asyncio.sleep(0.02)",
        "print('old')",
    ]
    first = cluster.push(cluster.clone, {"workflows/w.yml": workflow, "nodes/shop/wait.py": node(*waiting)})
    older = first_run(cluster, first)
    cluster.lines(older, 1)

    second = cluster.push(cluster.clone, {"nodes/shop/wait.py": node("print('new')")})
    newer = first_run(cluster, second)
    assert cluster.wait_for(newer, PATIENCE_S)["conclusion"] == "success"
    cluster.kill_daemon()
    cluster.start_daemon()
    gate.touch()

    assert cluster.wait_for(older, PATIENCE_S)["conclusion"] == "success", cluster.run(older)
    assert cluster.lines(older, 4) == ["begun", "old", "begun", "old"]
    assert cluster.lines(newer, 2) == ["new", "new"]
    assert len(set(versions(cluster, older))) == len(set(versions(cluster, newer))) == 1
    assert set(versions(cluster, older)) != set(versions(cluster, newer))
    answer = cluster.api("POST", f"/v1/runs/{older}/rerun", json={})
    assert answer.status_code == 201, answer.text
    again = str(answer.json()["id"])
    assert cluster.wait_for(again, PATIENCE_S)["conclusion"] == "success", cluster.run(again)
    assert set(versions(cluster, again)) == set(versions(cluster, older))


def test_a_repository_script_runs_as_of_the_run_s_commit(repository: Cluster) -> None:
    """It is executed by its first line, with arguments that are data, and with outputs; its mode does not matter."""
    script = (
        "#!/usr/bin/env python3\nimport os, sys\nprint(sys.argv[1:], os.environ['WHO'])\n"
        "open(os.environ['WATERFLOW_OUTPUT'], 'a').write('said=%s\\n' % sys.argv[1])\n"
    )
    workflow = (
        "on: push\njobs:\n  a:\n    runs-on: web\n    steps:\n"
        "      - {id: say, uses: exec/script, env: {WHO: you}, with: {path: scripts/say, args: ['${{ git.message }}', b]}}\n"
        '      - run: echo "it said ${{ steps.say.outputs.said }}"\n'
    )
    message = "a $(echo no) 'quote'"

    revision = repository.push(repository.clone, {"workflows/w.yml": workflow, "scripts/say": script}, message)
    run = first_run(repository, revision)

    assert repository.wait_for(run, PATIENCE_S)["conclusion"] == "success", repository.run(run)
    expected_message = repository.lines(run, 2)
    assert expected_message == [f"{[message, 'b']!r} you", f"it said {message}"]


def test_a_parameter_of_an_own_node_may_be_a_secret(empty_cluster: Cluster) -> None:
    """The node gets the value; its output and results are masked, and the log has only the reference."""
    cluster = empty_cluster
    cluster.make_repository()
    cluster.daemon_environment["WATERFLOW_SECRET_TOKEN"] = "a-secret-of-ours"
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    text = node("print(len(parameters.token), parameters.token)", "return {'said': f'<{parameters.token}>'}")
    workflow = (
        "on: push\njobs:\n  a:\n    runs-on: web\n    steps:\n"
        '      - {id: own, uses: shop/own, with: {token: "${{ secrets.TOKEN }}"}}\n'
        '      - run: echo "it gave ${{ steps.own.outputs.said }}"\n'
    )

    revision = cluster.push(
        cluster.clone, {"workflows/w.yml": workflow, "nodes/shop/own.py": text.replace("count: int = 1", "token: str")}
    )
    run = first_run(cluster, revision)

    assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "success", cluster.run(run)
    assert cluster.lines(run, 2) == ["16 ***", "it gave <***>"]
    assert "a-secret-of-ours" not in repr(cluster.events(run))


BROKEN = {
    "exits": (node("import os; os._exit(0)"), "exited without a result"),
    "crashes": (node("import ctypes; ctypes.string_at(0)"), "SIGSEGV"),
    "breaks": ("import nowhere_to_be_found\n", "nodes/bad/breaks.py:1: ModuleNotFoundError"),
    "two": (node("pass") + "\n\nclass Other(Own):\n    pass\n", "expected one node class, found Own, Other"),
    "raises": (node("raise KeyError('x')"), "KeyError: 'x'"),
    "fails": (node("raise NodeFailure('not today')"), "not today"),
    "wrong": (node("pass"), "with.count: expected a whole number"),
    "huge": (node("return {'a': 'x' * (2 << 20)}"), "outputs exceed the limit"),
    "deep": (node("a = []", "for _ in range(500): a = [a]", "return {'a': a}"), "nested more than 128 levels deep"),
    "large": (node("return {'a': 1 << 200}"), "more than 64 bits"),
    "late": (node("while True: pass"), "timed out after"),
}


def test_a_broken_node_fails_only_its_step(repository: Cluster) -> None:
    """Each job fails with its own reason; the agent process stays the same and executes the next job as well."""
    cluster = repository
    agent = cluster.agent_process("web-1").pid
    steps = {name: f"{{uses: bad/{name}}}" for name in BROKEN}
    steps["wrong"] = "{uses: bad/wrong, with: {count: '${{ git.branch }}'}}"
    steps["late"] = "{uses: bad/late, timeout-minutes: 0.05, stop: {grace: 1s}}"
    jobs = "".join(f"  {name}:\n    runs-on: web\n    steps:\n      - {step}\n" for name, step in steps.items())
    files = {f"nodes/bad/{name}.py": text for name, (text, _) in BROKEN.items()}

    revision = cluster.push(cluster.clone, {"workflows/w.yml": f"on: push\njobs:\n{jobs}", **files})
    run = first_run(cluster, revision)
    found = jobs_of(cluster.wait_for(run, PATIENCE_S))

    expected_message = {name: job["steps"][0]["attempts"][-1]["reason"]["text"] for name, job in found.items()}
    assert {name for name, (_, text) in BROKEN.items() if text not in expected_message[name]} == set(), expected_message
    assert cluster.agent_process("web-1").pid == agent
    assert cluster.agent_process("web-1").poll() is None
    after = cluster.start("jobs:\n  a:\n    runs-on: web\n    steps: [{run: echo fine}]\n")
    assert cluster.wait_for(after)["conclusion"] == "success"


def test_a_node_that_never_ends_is_cancelled(repository: Cluster) -> None:
    """A node that handles the signal can still print something; one that does not is killed."""
    cluster = repository
    hears = node(
        "import asyncio", "print('begun')", "try:", "    await asyncio.sleep(3600)", "finally:", "    print('bye')"
    )
    deaf = node("print('begun')", "while True: pass")
    workflow = (
        "on: push\njobs:\n  hears: {runs-on: web, steps: [{uses: x/hears, stop: {grace: 60s}}]}\n"
        "  deaf: {runs-on: web, steps: [{uses: x/deaf, stop: {grace: 1s}}]}\n"
    )
    revision = cluster.push(
        cluster.clone, {"workflows/w.yml": workflow, "nodes/x/hears.py": hears, "nodes/x/deaf.py": deaf}
    )
    run = first_run(cluster, revision)
    cluster.lines(run, 2)

    cluster.api("POST", f"/v1/runs/{run}/cancel", json={})

    found = cluster.wait_for(run, PATIENCE_S)
    assert found["conclusion"] == "cancelled", found
    assert {job["conclusion"] for job in jobs_of(found).values()} == {"cancelled"}
    assert sorted(cluster.lines(run, 4))[:3] == ["begun", "begun", "bye"]


def own_nodes(cluster: Cluster, agent: str) -> dict[str, dict[str, Any]]:
    """Returns what the daemon knows about an agent's own nodes."""
    rows = cluster.api("GET", "/v1/agents").json()["agents"]
    return {own["name"]: own for row in rows if row["name"] == agent for own in row["own_nodes"]}


def known(cluster: Cluster, agent: str, name: str, **fields: str) -> dict[str, Any]:
    """Returns the node once the daemon knows it with these fields."""
    return wait_until(
        lambda: (
            found
            if (found := own_nodes(cluster, agent).get(name))
            and all(found[key] == value for key, value in fields.items())
            else None
        ),
        f"{name} of {agent} with {fields}",
        PATIENCE_S,
    )


def replace(path: Path, text: str) -> None:
    """Replaces a file atomically, as the documentation asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_server_nodes_are_added_changed_broken_and_removed_without_a_restart(
    empty_cluster: Cluster, tmp_path: Path
) -> None:
    """A run waits for a named node until a server has it; a broken file is reported, and old nodes keep working."""
    cluster, path = empty_cluster, tmp_path / "nodes" / "local" / "hello.py"
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.add_agent("web-2", "web", settings=f'node-path = ["{tmp_path}/nodes"]')
    agent = cluster.agent_process("web-2").pid
    # Only the second of two steps needs the node: the job runs on a server that can execute both.
    workflow = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo first\n      - {uses: local/hello}\n"

    refused = cluster.api(
        "POST", "/v1/validate", content=workflow.encode(), headers={"content-type": "application/yaml"}
    )
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["code"], error["line"]) == ("WF114", 6)
    assert 'no server of group "web" has the node "local/hello"' in error["message"]

    # An offline server may have the node, so the run may wait for it.
    cluster.stop_agent("web-1")
    wait_until(lambda: "web-1" not in cluster.connected(), "web-1 to be away", PATIENCE_S)
    run = cluster.start(workflow)
    cluster.start_agent("web-1")
    reason = wait_until(
        lambda: next((job["reason"] for job in jobs_of(cluster.run(run)).values()), None), "a reason", PATIENCE_S
    )
    assert reason["code"] == "no-server-with-node"
    assert (reason["node"], 'has the node "local/hello"' in reason["text"]) == ("local/hello", True)

    replace(path, node("print('one')"))
    found = jobs_of(cluster.wait_for(run, PATIENCE_S))
    assert [step["attempts"][0]["agent"] for step in found["a"]["steps"]] == ["web-2", "web-2"]
    assert cluster.lines(run, 2) == ["first", "one"]
    one = known(cluster, "web-2", "local/hello", fault="")
    assert (one["origin"], versions(cluster, run)) == ("server", [one["version"]])

    replace(path, "import nowhere_to_be_found\n")
    broken = wait_until(
        lambda: found if (found := own_nodes(cluster, "web-2")["local/hello"])["fault"] else None, "a fault", PATIENCE_S
    )
    assert broken["version"] == one["version"]
    assert "hello.py:1: ModuleNotFoundError" in broken["fault"]
    displayed = cluster.ctl("agents").stdout
    assert "own nodes of web-2: local/hello" in displayed
    assert "web-2: node local/hello cannot be used" in displayed
    again = cluster.start(workflow)
    cluster.wait_for(again, PATIENCE_S)
    assert cluster.lines(again, 2) == ["first", "one"]

    replace(path, node("print('two')"))
    two = known(cluster, "web-2", "local/hello", fault="")
    assert two["version"] != one["version"]
    third = cluster.start(workflow)
    cluster.wait_for(third, PATIENCE_S)
    assert cluster.lines(third, 2) == ["first", "two"]
    listed = cluster.ctl("nodes", "local/hello").stdout
    assert "count" in listed
    assert "Does it." in listed

    path.unlink()
    wait_until(lambda: not own_nodes(cluster, "web-2"), "the node to be gone", PATIENCE_S)
    assert cluster.agent_process("web-2").pid == agent
    assert cluster.agent_process("web-2").poll() is None


def test_a_running_step_is_not_affected_when_its_server_announces_a_node(
    empty_cluster: Cluster, tmp_path: Path
) -> None:
    """The agent sends another `Hello`; running steps are not lost or repeated, and output is complete."""
    cluster, gate = empty_cluster, tmp_path / "gate"
    cluster.start_daemon()
    cluster.add_agent("web-1", "web", settings=f'node-path = ["{tmp_path}/nodes"]')
    script = f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; echo ended"
    run = cluster.start(f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: {script!r}\n")
    cluster.lines(run, 1)

    for number in range(3):
        replace(tmp_path / "nodes" / "local" / f"n{number}.py", node("pass"))
        known(cluster, "web-1", f"local/n{number}", fault="")
    gate.touch()

    found = cluster.wait_for(run, PATIENCE_S)
    assert found["conclusion"] == "success", found
    (step,) = jobs_of(found)["a"]["steps"]
    assert len(step["attempts"]) == 1
    assert cluster.lines(run, 2) == ["begun", "ended"]
