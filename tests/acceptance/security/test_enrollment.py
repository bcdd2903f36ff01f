"""How servers join and leave the fleet: by token, by approval, and by revocation."""

from __future__ import annotations

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

SLEEPER = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: sleep 600\n"


def test_a_person_approves_a_fingerprint(empty_cluster: Cluster) -> None:
    """An agent without a token pins the server's key, shows its own fingerprint, and waits for its groups."""
    cluster = empty_cluster
    cluster.start_daemon()
    key = cluster.ctl("agents", "key").stdout.splitlines()[-1]
    (cluster.folder / "db-1.toml").write_text(
        f'name = "db-1"\nserver = "tcp://127.0.0.1:{cluster.work_port}"\n'
        f'enroll-server = "tcp://127.0.0.1:{cluster.enroll_port}"\nserver-key = "{key}"\ngroups = ["everything"]\n'
        f'data-dir = "{cluster.agent_dir("db-1")}"\n'
    )
    agent = cluster.spawn(
        "waterflow_agent", "run", "--config", str(cluster.folder / "db-1.toml"), log=cluster.agent_log("db-1")
    )
    [waiting] = wait_until(lambda: cluster.api("GET", "/v1/agents").json()["pending"], "the request")
    assert waiting["fingerprint"] in cluster.agent_log("db-1").read_text()
    assert waiting["groups"] == ["everything"]

    approved = cluster.ctl("agents", "approve", waiting["fingerprint"], "--group", "db-servers")

    assert approved.returncode == 0, approved.stderr
    wait_until(lambda: "db-1" in cluster.connected(), "the agent to connect")
    [row] = cluster.api("GET", "/v1/agents").json()["agents"]
    assert row["groups"] == ["db-servers"]
    agent.kill()
    agent.wait()


def test_a_token_enrolls_as_many_agents_as_it_allows(empty_cluster: Cluster) -> None:
    """By default that is one: a second agent is refused with a message and its own exit code."""
    cluster = empty_cluster
    cluster.start_daemon()
    text = cluster.ctl("agents", "tokens", "create", "--group", "web").stdout.splitlines()[-1]
    processes = []
    for name in ("one", "two"):
        token = cluster.folder / f"{name}.token"
        token.write_text(text)
        config = cluster.folder / f"{name}.toml"
        config.write_text(f'name = "{name}"\njoin-token-file = "{token}"\ndata-dir = "{cluster.agent_dir(name)}"\n')
        processes.append(cluster.spawn("waterflow_agent", "run", "--config", str(config), log=cluster.agent_log(name)))
        if name == "one":
            wait_until(lambda: "one" in cluster.connected(), "the first agent")

    assert processes[1].wait(PATIENCE_S) == 5
    assert "used up" in cluster.agent_log("two").read_text()
    assert not (cluster.folder / "one.token").exists()
    assert (cluster.folder / "two.token").exists()
    processes[0].kill()
    processes[0].wait()


def test_a_revoked_agent_is_disconnected_and_its_attempts_are_lost(cluster: Cluster) -> None:
    """It is revoked during a step; it ends with exit code 5, also when it is started again, and the run says what happened."""
    run = cluster.start(SLEEPER)
    wait_until(lambda: cluster.run(run)["jobs"][0]["status"] == "running", "the job to run")
    name = cluster.run(run)["jobs"][0]["agent"]

    assert cluster.ctl("agents", "revoke", name).returncode == 0

    wait_until(lambda: name not in cluster.connected(), "the cut")
    found = cluster.wait_for(run)
    assert found["conclusion"] == "lost"
    assert "revoked by" in found["jobs"][0]["steps"][0]["reason"]["text"]
    assert cluster.agent_process(name).wait(PATIENCE_S) == 5
    cluster.launch_agent(name)
    assert cluster.agent_process(name).wait(PATIENCE_S) == 5
    assert (
        f"tcp://127.0.0.1:{cluster.work_port}: the server refused this agent's key"
        in cluster.agent_log(name).read_text()
    )
    displayed = cluster.agent("status", "--data-dir", str(cluster.agent_dir(name)))
    assert displayed.returncode == 4
    assert f"refused by tcp://127.0.0.1:{cluster.work_port}" in displayed.stderr
