"""A private Docker engine in a separate network namespace. It neither uses nor changes this machine's Docker.

Its network has only a loopback interface, so images are built from imported and copied files, and ports cannot collide.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.patience import wait_until

PATIENCE_S = 120.0
_START = 'ip link set lo up && exec dockerd "$@"'


class Engine:
    """A private Docker engine in a separate network namespace."""

    def __init__(self) -> None:
        # The path of a Unix socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="wf-engine-", dir="/tmp"))
        self.socket = self.folder / "d.sock"
        self._log = (self.folder / "log").open("wb")
        options = [f"--{name}={self.folder}/{name}" for name in ("data-root", "exec-root", "pidfile")]
        options += [f"--host=unix://{self.socket}", "--exec-opt=native.cgroupdriver=cgroupfs"]
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", _START, "sh", *options],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def await_start(self) -> None:
        """Waits until the engine answers."""
        wait_until(
            lambda: self._has_ended() or not self.docker("version", check=False).returncode, "engine", PATIENCE_S
        )
        assert not self._has_ended(), (self.folder / "log").read_text()[-4000:]

    def _has_ended(self) -> bool:
        return self._process.poll() is not None

    def docker(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a `docker` command and waits for it."""
        done = subprocess.run(
            ["docker", *arguments],
            env=os.environ | {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert not (check and done.returncode), (
            f"docker {arguments} ended {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done

    def get(self, url: str) -> Any:
        """Sends a GET request in the engine's network, and returns the decoded JSON."""
        command = [
            "nsenter",
            f"--target={self._process.pid}",
            "--net",
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            url,
        ]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def close(self) -> None:
        """Stops the engine and its containers, and removes its files."""
        if not self._has_ended():
            containers = self.docker("ps", "--all", "--quiet", check=False).stdout.split()
            if containers:
                self.docker("rm", "--force", *containers, check=False)
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
