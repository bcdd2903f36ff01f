"""Attacked processes: daemon and agents under strace, with faults at chosen system calls, while runs start."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.acceptance.cluster import Cluster
from tests.attack.injection import Fault, is_alive, started_with
from tests.attack.judge import Judge, workflow
from tests.patience import PATIENCE_S, wait_until

GOOD = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: log\n        with: {message: fine}\n"


class Arena(Cluster):
    """See the file's docstring."""

    def __init__(self, folder: Path) -> None:
        self.daemon_dir = folder / "daemon"
        #: Data directories of agents that are not in the cluster's folder.
        self.agent_places: dict[str, Path] = {}
        super().__init__(folder)
        self.markers = folder / "markers"
        self.judge = Judge(self, self.markers)
        self._keys = itertools.count()
        #: Put in front of the command of the next process.
        self._wrapper: list[str] = []

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """Writes the cluster's configuration, with the data directory that is attacked."""
        super().write_config(repositories, agents)
        text = self.config.read_text()
        self.config.write_text(text.replace(f'"{self.folder / "daemon"}"', f'"{self.daemon_dir}"'))

    # Processes --------------------------------------------------------------------------------------------------------

    def spawn(self, module: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a process as the cluster does, with the fault of `started_under`."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                cwd=self.folder,
            )

    @contextlib.contextmanager
    def started_under(self, fault: Fault) -> Iterator[None]:
        """Applies the fault to processes that are started inside the block."""
        self._wrapper = started_with(fault)
        try:
            yield
        finally:
            self._wrapper = []

    def spawn_daemon(self) -> subprocess.Popen[bytes]:
        """Starts the daemon without waiting for it."""
        self._drop_client()
        self._daemon = self.spawn(self.daemon_module, "run", "--config", str(self.config), log=self.log)
        return self._daemon

    @property
    def daemon_process(self) -> subprocess.Popen[bytes]:
        """Returns the daemon's process."""
        assert self._daemon is not None
        return self._daemon

    def spawn_agent(self, name: str) -> subprocess.Popen[bytes]:
        """Starts an agent without waiting for it."""
        config = self.folder / f"{name}.toml"
        self._agents[name] = self.spawn(self.agent_module, "run", "--config", str(config), log=self.agent_log(name))
        return self._agents[name]

    def agent_dir(self, name: str) -> Path:
        """Returns the agent's data directory."""
        return self.agent_places.get(name, super().agent_dir(name))

    def close(self) -> None:
        """Closes the cluster, and removes the control groups of killed runners, which nothing else would remove."""
        super().close()
        for config in self.folder.glob("*.toml"):
            runner = os.path.realpath(self.agent_dir(config.stem) / "runner")
            _remove_groups(f"waterflow-{hashlib.sha256(os.fsencode(runner)).hexdigest()[:12]}")

    def configure_agent(self, name: str, *groups: str, slots: int = 4) -> None:
        """Writes an agent's configuration, with a token for one use."""
        token = self.folder / f"{name}.token"
        token.write_text(self.token(*groups) + "\n")
        (self.folder / f"{name}.toml").write_text(
            f'name = "{name}"\njoin-token-file = "{token}"\nslots = {slots}\ndata-dir = "{self.agent_dir(name)}"\n'
        )

    def agent_rows(self) -> list[dict[str, Any]]:
        """Returns the agents as the API shows them, up to a hundred."""
        rows: list[dict[str, Any]] = self.api("GET", "/v1/agents", params={"limit": 100}).json()["agents"]
        return rows

    def is_daemon_ready(self) -> bool:
        """Returns whether the daemon answers, without failing the test if it does not."""
        try:
            return self.api("GET", "/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def lose_agent(self, name: str) -> None:
        """Kills the agent with `kill -9`, and waits until the daemon no longer gives it work."""
        self.kill_agent(name)
        wait_until(lambda: name not in self.connected(), f"the daemon to notice that {name} is gone")

    def runner_pid(self, name: str) -> int:
        """Returns the process id of the agent's step runner."""
        return wait_until(lambda: self._find_runner(name), f"the runner of {name}")

    def _find_runner(self, name: str) -> int | None:
        runner_directory = os.fsencode(str((self.agent_dir(name) / "runner").resolve()))
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"waterflow_agent.runner" in arguments and runner_directory in arguments and is_alive(int(entry.name)):
                return int(entry.name)
        return None

    def steps(self) -> set[int]:
        """Returns the processes of steps, found by the variable that the runner sets in their environment."""
        mark = b"WATERFLOW_ATTEMPT_DIRECTORY=" + os.fsencode(self.folder)
        found = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                    found.add(int(entry.name))
        return found

    def api_by_socket(self, method: str, path: str, **options: object) -> httpx.Response:
        """Sends a request over the unix socket, as the administrator of the machine."""
        if self._client is None:
            with socket.socket(socket.AF_UNIX) as probe:
                # If nothing listens, the client would leave its socket to the garbage collector.
                try:
                    probe.connect(str(self.socket))
                except OSError as error:
                    raise httpx.ConnectError(str(error)) from error
            transport = httpx.HTTPTransport(uds=str(self.socket))
            self._client = httpx.Client(transport=transport, base_url="http://localhost", timeout=PATIENCE_S)
        return self._client.request(method, path, **options)  # type: ignore[arg-type]

    def freeze(self, pid: int) -> None:
        """Stops a process with SIGSTOP."""
        os.kill(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        """Continues a process with SIGCONT."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    # Runs -------------------------------------------------------------------------------------------------------------

    def key(self) -> str:
        """Returns a new idempotency key for a start."""
        return f"key-{next(self._keys)}"

    def post(self, key: str, text: str | None = None) -> str | None:
        """Starts a run under a key; returns the answered id, or None if there was no answer."""
        headers = {"content-type": "application/yaml", "idempotency-key": key}
        content = (text or workflow(self.markers)).encode()
        try:
            answer = self.api("POST", "/v1/runs", content=content, headers=headers)
        except httpx.HTTPError:
            self._drop_client()
            return None
        if answer.status_code in (503, 507):
            return None
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def has_ended(self, run: str) -> bool:
        """Returns whether the daemon answers that the run has completed."""
        try:
            return bool(self.api("GET", f"/v1/runs/{run}").json()["status"] == "completed")
        except httpx.HTTPError:
            self._drop_client()
            return False

    def count_runs(self) -> int:
        """Returns the number of runs that the daemon knows."""
        rows, cursor = 0, None
        while True:
            page = self.api("GET", "/v1/runs", params={"limit": 100, **({"cursor": cursor} if cursor else {})}).json()
            rows += len(page["runs"])
            cursor = page["next"]
            if cursor is None:
                return rows

    def latency_s(self, text: str = GOOD) -> float:
        """Returns how many seconds a small run takes from start to completion."""
        began = time.monotonic()
        self.wait_for(self.start(text))
        return time.monotonic() - began


def _remove_groups(name: str) -> None:
    """Removes the empty control group of this name, below this process's group or at the top."""
    own = [line.split(":", 2)[2].lstrip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        for directory in {root, *(root / path for path in own)}:
            for folder, _, _ in os.walk(directory / name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def memory_bytes(pid: int, field: str = "RssAnon") -> int:
    """Returns a figure of the process's memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of process {pid}")


def descriptors(pid: int) -> int:
    """Returns how many files the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Peak:
    """The largest value of a figure during a block, read at each call of `look`."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self.before = self.highest = read()

    def look(self) -> bool:
        """Reads the figure once; always returns false, so that it can be part of the condition of a `wait_until`."""
        self.highest = max(self.highest, self._read())
        return False

    @property
    def growth(self) -> int:
        """Returns how far the largest value is above the first one."""
        return self.highest - self.before
