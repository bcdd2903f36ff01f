"""A separate machine: systemd as process 1 in namespaces (systemd-nspawn), with a network that consists of its own
loopback.

Commands run inside by `nsenter`; API requests use its unix socket, whose path is reached through process 1's root. The
machine has its own control groups, and everything that runs in it ends with it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.booted.root import Root
from tests.patience import PATIENCE_S, wait_until

#: Mount points of control groups, new and old style; systemd uses those of the first and the last two.
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
#: Enters the control groups that are named before `--`, then executes the command after it.
_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit; shift; done; shift; exec "$@"'
#: The exit code with which systemd-nspawn leaves the reboot to its caller, as it does with `--keep-unit`.
_WANTS_TO_BE_STARTED_AGAIN = 133
#: Where systemd-nspawn keeps a directory for each machine, which it removes only from a tmpfs.
_PROPAGATION = Path("/run/systemd/nspawn/propagate")
_numbers = itertools.count()


class Machine:
    """See the file's docstring."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are further ones of systemd-nspawn."""
        self.root = Root(folder)
        self._options = options
        self._console = folder / "console"
        self._name = f"waterflow-booted-{os.getpid()}-{next(_numbers)}"
        self._groups = [
            Path(directory, self._name) for directory in _HIERARCHIES if Path(directory, "cgroup.procs").exists()
        ]
        self._process: subprocess.Popen[bytes] | None = None
        #: Process 1 of the machine, by its process id on the host.
        self.leader = 0

    # The machine ------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts the machine, and waits until systemd has started the enabled units."""
        for directory in self._groups:
            directory.mkdir(exist_ok=True)
        # The host's systemd assigns the control group; without a systemd, the one that was created here is kept.
        keeps_group = [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]
        options = ["--quiet", "--register=no", *keeps_group, "--private-network", "--link-journal=no", "--console=pipe"]
        nspawn = [
            "systemd-nspawn",
            *options,
            *self._options,
            f"--machine={self._name}",
            f"--directory={self.root.path}",
        ]
        doors = [f"{directory}/cgroup.procs" for directory in self._groups]
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", _ENTER, "sh", *doors, "--", *nspawn, *self.root.layers, "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self._await_boot()

    def reboot(self, *options: str) -> None:
        """Reboots the machine with the same disk; the options are those of `systemctl reboot`."""
        before = self.leader
        # A sudden reboot ends the command as well.
        self.run("systemctl", "reboot", *options, check=False)
        assert self._process is not None
        process = self._process
        wait_until(lambda: process.poll() is not None or self._find_leader() not in (0, before), "the end")
        if process.poll() == _WANTS_TO_BE_STARTED_AGAIN:
            self.boot()
        else:
            self._await_boot()

    def _await_boot(self) -> None:
        self.leader = wait_until(self._find_leader, "process 1")
        wait_until(self._is_up, "the machine to be up")

    def _find_leader(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"it does not boot: {self._console.read_text(errors='replace')[-4000:]}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return next((int(child) for child in children if _is_process_1(int(child))), 0)

    def _is_up(self) -> bool:
        # "degraded": a unit of the image fails in here; that is not for us to judge.
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def close(self) -> None:
        """Ends the machine at once, and removes its control groups."""
        if self._process is not None:
            if self.leader:
                with contextlib.suppress(ProcessLookupError):
                    # When process 1 ends, the kernel ends all others in its namespace, and systemd-nspawn cleans up
                    # afterwards.
                    os.kill(self.leader, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait(PATIENCE_S)
        for directory in self._groups:
            for folder, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        shutil.rmtree(_PROPAGATION / self._name, ignore_errors=True)

    # Commands ---------------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command inside as root, and waits for it."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/"]
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), *spaces, "--", *command],
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LANG": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended {done.returncode}: {done.stdout}{done.stderr}\n{self.journal()}")
        return done

    def systemctl(self, *arguments: str) -> None:
        """Runs systemctl, which has to succeed."""
        self.run("systemctl", *arguments)

    def show(self, unit: str, key: str) -> str:
        """Returns a property of a unit, as systemd reports it."""
        return self.run("systemctl", "show", f"--property={key}", "--value", unit).stdout.strip()

    def pid(self, unit: str) -> int:
        """Returns the process id of the unit's main process, as seen inside the machine; 0 if there is none."""
        return int(self.show(unit, "MainPID"))

    def kill(self, unit: str, name: str) -> None:
        """Sends a signal to the unit's main process."""
        self.systemctl("kill", "--kill-who=main", f"--signal={name}", unit)

    def change(self, unit: str, text: str) -> None:
        """Adds a drop-in to a unit, as `systemctl edit` would."""
        self.root.write(f"/etc/systemd/system/{unit}.service.d/of-the-test.conf", f"[Service]\n{text}\n")
        self.systemctl("daemon-reload")

    def journal(self) -> str:
        """Returns the journal of systemd and the services, for failure messages."""
        done = self.run("journalctl", "--no-pager", "--quiet", "--lines=80", "--output=short-monotonic", check=False)
        return done.stdout

    # The product ------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Installs the product as administrators do: users, configuration, repository, daemon, token, agent."""
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create", "waterflow-agent.conf")
        self.root.write("/etc/waterflow/waterflowd.toml", CONFIG)
        self.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "/srv/ops.git")
        self.systemctl("enable", "--now", "waterflowd.service")
        token = self.run("waterflowctl", "agents", "tokens", "create", "--group", "web").stdout
        self.root.write("/etc/waterflow/join-token", token, 0o600)
        self.run("chown", "waterflow-agent:", "/etc/waterflow/join-token")
        self.root.write("/etc/waterflow/agent.toml", 'name = "web-1"\njoin-token-file = "/etc/waterflow/join-token"\n')
        self.systemctl("enable", "--now", "waterflow-agent.service")
        wait_until(self.is_connected, "the agent to be connected")

    def is_connected(self) -> bool:
        """Returns whether the daemon reports its agent as connected, and the current agent process confirms it."""
        try:
            rows = self.api("GET", "/v1/agents")["agents"]
        except OSError:
            return False
        # The daemon's information may be about the previous agent process, and the agent's about the previous daemon.
        message = self.run("waterflow-agent", "status", "--json", check=False).stdout
        if [row["status"] for row in rows] != ["connected"] or not message:
            return False
        status = json.loads(message)
        return bool(status["is_connected"]) and status["pid"] == self.pid("waterflow-agent")

    def api(self, method: str, path: str, body: str = "", content_type: str = "application/json") -> Any:
        """Returns the answer to a request on the unix socket; it must succeed. Raises `OSError` if nothing answers."""
        connection = _Connection(f"/proc/{self.leader}/root/run/waterflow/waterflowd.sock")
        try:
            connection.request(method, path, body.encode(), {"content-type": content_type})
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the daemon left: {error!r}") from error
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text}"
        return json.loads(text) if answer.headers.get_content_type() == "application/json" else text

    def runs(self) -> list[dict[str, Any]]:
        """Returns the runs, newest first."""
        found: list[dict[str, Any]] = self.api("GET", "/v1/runs")["runs"]
        return found

    def start(self, workflow: str) -> str:
        """Posts a workflow and returns the run's id."""
        return str(self.api("POST", "/v1/workflows", workflow, "application/yaml")["id"])

    def wait_for(self, run: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Returns the run once it has completed; the daemon may be down in the meantime."""
        found: dict[str, Any] = {}

        def completed() -> bool:
            with contextlib.suppress(OSError):
                found.update(self.api("GET", f"/v1/runs/{run}"))
            return found.get("status") == "completed"

        try:
            wait_until(completed, f"run {run} to end", patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(found)}\n{self.journal()}") from None
        return found

    def lines(self, run: str) -> list[str]:
        """Returns what the run's steps printed."""
        return [json.loads(line)["text"] for line in self.api("GET", f"/v1/runs/{run}/logs").splitlines()]


#: The address of the daemon, also for agents: the machine has no other network.
CONFIG = """[agents]
listen = "tcp://127.0.0.1:7233"
enroll-listen = "tcp://127.0.0.1:7234"
[[repositories]]
name = "ops"
url = "/srv/ops.git"
"""


def _is_process_1(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        is_systemd = os.readlink(f"/proc/{pid}/exe").endswith("/systemd")
    except OSError:
        return False
    spaces = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return is_systemd and spaces.split()[1:][-1] == "1"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
