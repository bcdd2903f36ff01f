"""A Docker engine of the tests, with its own data: without a network, so that it needs no rights on the machine's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.patience import PATIENCE_S, wait_until

_STARTS_MAX = 5
PROGRAMS = ("dockerd", "docker", "containerd", "busybox")


class EngineUnavailableError(Exception):
    """No engine can be started here."""


class DockerEngine:
    """An engine that can be started, stopped, and killed together with everything that it runs, as by a power failure."""

    def __init__(self, log: Path, *options: str) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if os.geteuid() != 0 or missing:
            raise EngineUnavailableError(", ".join(missing) or "not root")
        # The path of a unix socket must be short.
        self.folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/wf-docker-XXXXXX"], text=True).strip())
        # Users of steps may have to reach the socket, which has permissions of its own.
        self.folder.chmod(0o711)
        self.address = f"unix://{self.folder}/d.sock"
        self.environment = os.environ | {"DOCKER_HOST": self.address}
        self._log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: str) -> str:
        """Runs the program `docker`; returns what it prints."""
        return subprocess.check_output(["docker", *arguments], env=self.environment, text=True).strip()

    def _launch(self) -> None:
        folder = self.folder
        argv = [
            *("dockerd", "--host", self.address, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false", "--ip-forward=false"),
            *("--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs", *self._options),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start(self) -> None:
        """Starts the engine, and waits until it answers. Raises `EngineUnavailableError` if that is impossible."""
        for _ in range(_STARTS_MAX):
            self._launch()
            if wait_until(self._has_started, "the engine to answer or to end") == "yes":
                return
            # On a busy machine it gives up too early: it waits only some seconds for a process of its own.
        raise EngineUnavailableError(self._log.read_text(errors="replace")[-600:])

    def _has_started(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            return "no"
        done = subprocess.run(["docker", "version"], env=self.environment, capture_output=True, check=False)
        return "yes" if done.returncode == 0 else ""

    def stop(self) -> None:
        """Stops the engine and everything that it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """Kills the engine and everything that it runs; nothing is cleaned up."""
        process, self._process = self._process, None
        assert process is not None
        containers = self("ps", "--quiet").split()
        inside = self("inspect", "--format", "{{.State.Pid}}", *containers).split() if containers else []
        process.kill()
        process.wait()
        for pid in [*self._helpers(), *map(int, inside)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._helpers(), "the engine's processes to be gone")

    def _helpers(self) -> list[int]:
        """Returns the processes that belong to this engine, by its folder in their command lines."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{self.folder}/exec".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Stops the engine and removes its data."""
        self.stop()
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if mount.split()[1].startswith(str(self.folder)):
                subprocess.run(["umount", "--lazy", mount.split()[1]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
