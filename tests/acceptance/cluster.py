"""A cluster of real processes: a daemon, agents and a Git repository, on loopback and in a separate folder.

Everything that a test starts is stopped with the cluster, including runners and steps; nothing else is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.patience import PATIENCE_S, wait_until
from tests.ports import Ports

#: Lets every workflow read every secret: the tests of other things do not care about rights.
EVERY_SECRET = """[[secrets.grants]]
secrets = ["*"]
repositories = ["*"]
without-repository = true
"""


class Cluster:
    """See the file's docstring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "d.sock"
        self.repository = folder / "ops.git"
        self.clone = folder / "clone"
        self.log = folder / "daemon.log"
        self.config = folder / "waterflowd.toml"
        self._ports = Ports(3)
        self.api_port, self.work_port, self.enroll_port = self._ports.numbers
        self._daemon: subprocess.Popen[bytes] | None = None
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        #: The module that is run as an agent; the benchmark measures inside it.
        self.daemon_module = "waterflowd"
        self.agent_module = "waterflow_agent"
        #: Additional environment variables of the daemon, such as secrets.
        self.daemon_environment: dict[str, str] = {}
        #: The grants of secrets in the configuration.
        self.grants = EVERY_SECRET
        #: The engine's lines of the configuration: keys without a table, and tables.
        self.engine = ("", "")
        self._client: httpx.Client | None = None
        self.write_config()

    # The daemon -------------------------------------------------------------------------------------------------------

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """Writes the daemon's configuration; `agents` are further lines of that table."""
        self.config.write_text(
            f"""data-dir = "{self.folder / "daemon"}"
{self.engine[0]}
[api]
listen = "127.0.0.1:{self.api_port}"
open = true
requests-per-second = 0
socket = "{self.socket}"
[agents]
listen = "tcp://127.0.0.1:{self.work_port}"
enroll-listen = "tcp://127.0.0.1:{self.enroll_port}"
{agents}
{repositories}
{self.grants}
{self.engine[1]}
"""
        )

    def environment(self) -> dict[str, str]:
        """Returns the environment of every process of the cluster, without the developer's settings."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            # A crash in native code says where.
            "PYTHONFAULTHANDLER": "1",
            "WATERFLOW_SERVER": f"unix:{self.socket}",
            **{
                name: value
                for name, value in os.environ.items()
                if name in ("VIRTUAL_ENV", "PYTHONPATH", "BENCH_INSTANTS")
            },
        }

    def spawn(self, module: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a module as a process of this cluster; its output goes to `log`."""
        more = self.daemon_environment if module == self.daemon_module else {}
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment(), **more},
                cwd=self.folder,
            )

    def start_daemon(self) -> None:
        """Starts the daemon and waits until it is ready."""
        self._daemon = self.spawn(self.daemon_module, "run", "--config", str(self.config), log=self.log)
        wait_until(self._is_ready, "the daemon to be ready")

    def start_with_two_agents(self) -> None:
        """Starts the daemon, and the agents `web-1` and `web-2` of the group `web`."""
        self.start_daemon()
        self.add_agent("web-1", "web")
        self.add_agent("web-2", "web")

    def _is_ready(self) -> bool:
        assert self._daemon is not None
        if (code := self._daemon.poll()) is not None:
            ended = f"exited with {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
            raise AssertionError(f"the daemon (process {self._daemon.pid}) {ended}:\n{self.log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            return self.api("GET", "/ready").status_code == 200
        return False

    @property
    def daemon_pid(self) -> int:
        """Returns the daemon's process id."""
        assert self._daemon is not None
        return self._daemon.pid

    def kill_daemon(self) -> None:
        """Kills the daemon with `kill -9`, and waits until it has exited."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self._drop_client()

    def stop_daemon(self) -> int:
        """Stops the daemon with SIGTERM; returns the exit code."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._drop_client()
        return self._daemon.wait(PATIENCE_S)

    # Agents -----------------------------------------------------------------------------------------------------------

    def token(self, *groups: str, uses: int = 1) -> str:
        """Creates a join token for these groups."""
        body = {"groups": list(groups), "ttl": "1h", "uses": uses}
        answer = self.api("POST", "/v1/agents/tokens", json=body)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["token"])

    def add_agent(
        self, name: str, *groups: str, slots: int = 4, labels: dict[str, str] | None = None, settings: str = ""
    ) -> None:
        """Enrolls an agent and waits until it is connected; `settings` are further lines of its configuration."""
        table = ", ".join(f'{key} = "{value}"' for key, value in (labels or {}).items())
        token = self.folder / f"{name}.token"
        token.write_text(self.token(*groups) + "\n")
        (self.folder / f"{name}.toml").write_text(
            f'name = "{name}"\njoin-token-file = "{token}"\nslots = {slots}\ndata-dir = "{self.agent_dir(name)}"\n'
            f"labels = {{ {table} }}\n{settings}\n"
        )
        self.start_agent(name)

    def agent_dir(self, name: str) -> Path:
        """Returns the agent's data directory."""
        return self.folder / f"agent-{name}"

    def start_agent(self, name: str) -> None:
        """Starts an agent that has been added, and waits until it is connected."""
        self.launch_agent(name)
        wait_until(lambda: name in self.connected(), f"agent {name} to be connected")

    def launch_agent(self, name: str) -> None:
        """Starts the process of an agent whose configuration exists."""
        config = self.folder / f"{name}.toml"
        self._agents[name] = self.spawn(self.agent_module, "run", "--config", str(config), log=self.agent_log(name))

    def agent_log(self, name: str) -> Path:
        """Returns the path of the agent's own log."""
        return self.folder / f"{name}.log"

    def kill_agent(self, name: str) -> None:
        """Kills the agent with `kill -9`; its runner and steps continue."""
        process = self._agents.pop(name)
        process.kill()
        process.wait()

    def stop_agent(self, name: str) -> None:
        """Stops the agent with SIGTERM, and waits until it has exited; its runner and steps continue."""
        process = self._agents.pop(name)
        process.terminate()
        process.wait(PATIENCE_S)

    def agent_process(self, name: str) -> subprocess.Popen[bytes]:
        """Returns the agent's process."""
        return self._agents[name]

    def connected(self) -> set[str]:
        """Returns the names of the connected agents."""
        rows = self.api("GET", "/v1/agents").json()["agents"]
        return {row["name"] for row in rows if row["status"] == "connected"}

    # The API ----------------------------------------------------------------------------------------------------------

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request over TCP, where this cluster's daemon needs no token."""
        if self._client is None:
            self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.api_port}", timeout=PATIENCE_S)
        return self._client.request(method, path, **options)

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def start(self, workflow: str) -> str:
        """Posts a workflow and returns the run's id."""
        answer = self.api(
            "POST", "/v1/workflows", content=workflow.encode(), headers={"content-type": "application/yaml"}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, run: str) -> dict[str, Any]:
        """Returns the run as the API shows it."""
        answer = self.api("GET", f"/v1/runs/{run}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, run: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Returns the run once it has completed."""

        def completed() -> dict[str, Any] | None:
            found = self.run(run)
            return found if found["status"] == "completed" else None

        return wait_until(completed, f"run {run} to end", patience_s)

    def events(self, run: str) -> list[dict[str, Any]]:
        """Returns the whole history of a run."""
        rows: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.api("GET", f"/v1/runs/{run}/events", params={"cursor": cursor} if cursor else {})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            rows += page["events"]
            if page["next"] is None:
                return rows
            cursor = page["next"]

    def lines(self, run: str, count: int | None = None) -> list[str]:
        """Returns what the run's steps printed; waits for `count` lines if it is set."""

        def read() -> list[str]:
            answer = self.api("GET", f"/v1/runs/{run}/logs")
            assert answer.status_code == 200, answer.text
            return [json.loads(line)["text"] for line in answer.text.splitlines()]

        if count is not None:
            wait_until(lambda: len(read()) >= count, f"{count} lines of run {run}")
        return read()

    # Git --------------------------------------------------------------------------------------------------------------

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Runs git with a test identity and without the settings of this machine."""
        environment = {
            **self.environment(),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }
        return subprocess.run(
            ["git", *arguments], cwd=cwd or self.folder, env=environment, check=True, capture_output=True, text=True
        ).stdout

    def make_repository(self) -> Path:
        """Creates a bare repository and a `clone` of it. The daemon watches it from its next start on."""
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.repository))
        self.git("clone", "--quiet", str(self.repository), str(self.clone))
        self.git("checkout", "--quiet", "-B", "main", cwd=self.clone)
        self.write_config(f'[[repositories]]\nname = "ops"\nurl = "{self.repository}"\n')
        return self.clone

    def push(self, clone: Path, files: dict[str, str], message: str = "change") -> str:
        """Commits the files and pushes; returns the commit."""
        for name, content in files.items():
            path = clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "--all", cwd=clone)
        self.git("commit", "--quiet", "--message", message, cwd=clone)
        self.git("push", "--quiet", "origin", "main", cwd=clone)
        return self.git("rev-parse", "HEAD", cwd=clone).strip()

    # Commands ---------------------------------------------------------------------------------------------------------

    def waterflowd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the daemon with the cluster's configuration."""
        return self._run("waterflowd", *arguments, "--config", str(self.config))

    def agent_status(self, name: str, *arguments: str) -> str:
        """What `waterflow-agent status` prints."""
        done = self._run("waterflow_agent", "status", "--config", str(self.folder / f"{name}.toml"), *arguments)
        return done.stdout + done.stderr

    def ctl(self, *arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Runs waterflowctl and waits for it."""
        return self._run("waterflowd.ctl", *arguments, timeout_s=timeout_s)

    def agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs waterflow-agent and waits for it."""
        return self._run(self.agent_module, *arguments)

    def _run(self, module: str, *arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    # Clean-up ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops all processes whose command line or working directory is in this cluster's folder."""
        self._drop_client()
        for process in (self._daemon, *self._agents.values()):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for _ in range(3):
            for pid in self._leftovers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._ports.close()

    def _leftovers(self) -> Iterator[int]:
        """Yields runners and steps: their working directory or their arguments are in the cluster's folder."""
        mark = os.fsencode(self.folder)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes()
                directory = os.fsencode(os.readlink(entry / "cwd"))
            except OSError:
                continue
            if mark in arguments or directory == mark or directory.startswith(mark + b"/"):
                yield int(entry.name)


def run_to_end(
    cluster: Cluster, workflow: str, directory: Path | None = None, conclusion: str = "success"
) -> tuple[str, dict[str, Any]]:
    """Runs a workflow, in which `PLACE` is a folder, to completion; returns the run's id and its jobs by id."""
    run = cluster.start(workflow.replace("PLACE", str(directory)))
    found = cluster.wait_for(run)
    assert found["conclusion"] == conclusion, (found["reason"], found["jobs"])
    return run, jobs_of(found)


def jobs_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the jobs of a run, or of a job, by id, with those that they expanded to."""
    return {name: job for top in found.get("jobs", ()) for name, job in [(str(top["id"]), top), *jobs_of(top).items()]}


def is_running(pid: int) -> bool:
    """Returns whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
