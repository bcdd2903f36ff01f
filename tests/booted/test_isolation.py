"""What a step can do to its agent, the runner and other steps, with the units as they are installed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.booted.machine import Machine
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

DATA = "/var/lib/waterflow-agent"
#: Each line is one attempt to reach the agent or the runner, and prints a line only if it succeeds.
ATTACKS = f"""set +e
for file in {DATA}/agent.key {DATA}/server.json {DATA}/status.json {DATA}/journal/journal.*; do
    cat "$file" >/dev/null 2>&1 && echo "read $file"
done
for folder in {DATA} {DATA}/work {DATA}/steps {DATA}/runner {DATA}/journal {DATA}/trees /run/waterflow-agent; do
    ls "$folder" >/dev/null 2>&1 && echo "listed $folder"
    (: >"$folder/intruder") 2>/dev/null && echo "wrote to $folder"
done
connect='import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])'
python3 -c "$connect" {DATA}/runner/runner.sock 2>/dev/null && echo "connected to the runner"
for process in /proc/[0-9]*; do
    grep -q waterflow_agent $process/cmdline 2>/dev/null || continue
    test "$(stat -c %U $process)" = "$(id -un)" && continue
    echo "sees ${{process#/proc/}}"
    cat $process/environ >/dev/null 2>&1 && echo "read the environment of ${{process#/proc/}}"
    kill -0 ${{process#/proc/}} 2>/dev/null && echo "may signal ${{process#/proc/}}"
done
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
find /sys/fs/cgroup -name cgroup.procs | while read group; do
    (echo $BASHPID >"$group") 2>/dev/null && echo "entered $group"
done
(mkdir "/sys/fs/cgroup$own/mine") 2>/dev/null && echo "made a control group"
setpriv --reuid 0 true 2>/dev/null && echo "became root"
setpriv --reuid waterflow-agent true 2>/dev/null && echo "became the agent"
true
"""
#: Leaves its session, forgets its mark, closes what it holds, and tries to write down the secrets of later steps.
GHOST = """set +e
cat >ghost.sh <<'end'
exec >/dev/null 2>&1 </dev/null
trap '' TERM HUP INT
while :; do
    find /sys/fs/cgroup -name cgroup.procs | while read group; do echo $$ >"$group"; done
    for process in /proc/[0-9]*; do tr '\\0' '\\n' <$process/environ | grep ^SPOIL= >>"$HOME/spoils"; done
    echo x >>"$HOME/alive"
    sleep 0.1
done
end
(setsid env -i HOME="$HOME" PATH="$PATH" bash ghost.sh &)
until test -e "$HOME/alive"; do sleep 0.1; done
"""


@pytest.fixture
def machine(shared_machine: Machine) -> Machine:
    """One machine for all tests, which end what they start."""
    return shared_machine


def workflow(script: str, *, job: str = "", step: str = "") -> str:
    """Returns a workflow of one step, with more lines for the job and for the step."""
    lines = "".join(f"          {line}\n" for line in script.strip().splitlines())
    return f"jobs:\n  a:\n    runs-on: web\n{job}    steps:\n      - shell: bash\n{step}        run: |\n{lines}"


def printed(machine: Machine, text: str) -> list[str]:
    """Returns what the step of the workflow prints; it has to succeed."""
    run = machine.start(text)
    found = machine.wait_for(run)
    assert found["conclusion"] == "success", f"{found['jobs']}: {machine.lines(run)}"
    return machine.lines(run)


def failure(machine: Machine, text: str) -> str:
    """Returns why the workflow's first step failed."""
    found = machine.wait_for(machine.start(text))
    assert found["conclusion"] == "failure", found["jobs"]
    return str(found["jobs"][0]["steps"][0]["reason"]["text"])


def counted(machine: Machine) -> int:
    """Returns how many processes steps have left behind, as the agent's status says."""
    said = machine.run("waterflow-agent", "status", "--json").stdout
    return int(json.loads(said)["leftovers"])


@contextlib.contextmanager
def step_users(machine: Machine, name: str) -> Iterator[None]:
    """Inside of the block, the agent's configuration allows jobs to run as this user."""
    config = machine.root.inside("/etc/waterflow/agent.toml")
    before = config.read_text()

    def configure(text: str) -> None:
        config.write_text(text)
        machine.systemctl("restart", "waterflow-agent.service")
        wait_until(machine.is_connected, "the agent to be connected")

    configure(f'{before}step-users = ["{name}"]\n')
    try:
        yield
    finally:
        configure(before)


def test_a_step_reaches_neither_the_agent_nor_the_runner(machine: Machine) -> None:
    """None of its attempts succeeds, and the agent keeps its session and its runner."""
    agent, runner = machine.pid("waterflow-agent"), machine.pid("waterflow-runner")

    assert printed(machine, workflow(ATTACKS)) == []

    assert (machine.pid("waterflow-agent"), machine.pid("waterflow-runner")) == (agent, runner)
    assert printed(machine, workflow(f"id -un; echo $HOME; pwd -P | grep -c ^{DATA}/")) == [
        "waterflow-step",
        "/var/lib/waterflow-step",
        "1",
    ]


def test_a_step_does_not_outlive_its_end(machine: Machine) -> None:
    """A process that hides, and tries to enter other control groups, is killed and counted before a later step has secrets."""
    home = machine.root.inside("/var/lib/waterflow-step")

    printed(machine, workflow(GHOST))
    alive = home / "alive"
    wait_until(lambda: machine.run("pgrep", "--full", "ghost.sh", check=False).returncode == 1, "the ghost to end")
    before = alive.stat().st_size
    printed(machine, workflow("sleep 0.5", step="        env: {SPOIL: loot}\n"))

    assert alive.stat().st_size == before
    assert not (home / "spoils").exists() or "loot" not in (home / "spoils").read_text()
    wait_until(lambda: counted(machine) > 0, "the status to count it")


def test_jobs_of_other_users_are_separate_and_their_directories_go(machine: Machine) -> None:
    """The configuration allows a user, a job chooses it, the files belong to it, and all is removed after the job."""
    machine.run("useradd", "--create-home", "--home-dir", "/srv/deploy", "deploy")
    refused = failure(machine, workflow("id -un", job="    user: deploy\n"))
    assert 'step-users = ["deploy"]' in refused
    script = """id -un
mkdir -p deep/er && touch deep/er/file && chmod 000 deep/er && ln -s /etc/passwd link
stat -c %U deep
echo "value=1" >>"$WATERFLOW_OUTPUT"
(umask 077; echo private >private)"""

    with step_users(machine, "deploy"):
        assert printed(machine, workflow(script, job="    user: deploy\n")) == ["deploy", "deploy"]

        assert "steps may not run as user root" in failure(machine, workflow("id", job="    user: root\n"))
        # An agent looks for such directories when it starts, and then once a minute.
        machine.systemctl("restart", "waterflow-agent.service")
        wait_until(lambda: machine.run("find", f"{DATA}/work", "-name", "er").stdout == "", "the directory to go")
    assert "root:" in machine.run("cat", "/etc/passwd").stdout


def test_root_needs_the_privileged_profile(machine: Machine) -> None:
    """A compromised agent, which asks for root, is refused by the runner."""
    with step_users(machine, "root"):
        assert failure(machine, workflow("id", job="    user: root\n")) == (
            "steps may not run as root; that needs the privileged profile of the units"
        )


def test_the_status_says_what_is_not_enforced(machine: Machine) -> None:
    """Users are separate; limits depend on the controllers that this machine delegates, and the status names them."""
    wait_until(lambda: "run as waterflow-step" in machine.run("waterflow-agent", "status").stdout, "the status")
    said = machine.run("waterflow-agent", "status").stdout
    controllers = machine.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split()
    assert "agent's own user" not in said
    assert ("no limits for" in said) == (not {"memory", "pids", "cpu"} <= set(controllers)), said
