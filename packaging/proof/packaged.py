"""A booted Debian on which the packages are installed with dpkg, as an administrator would do it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path

from tests.booted import machine as booted
from tests.patience import wait_until

PATIENCE_S = 180.0
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
_numbers = itertools.count()
#: Added to the daemon's configuration. Agents connect to loopback, because the machine has no other network.
CONFIG = '\n[agents]\naddress = "127.0.0.1"\n[[repositories]]\nname = "ops"\nurl = "/srv/ops.git"\n'


class PackagedRoot:
    """A root directory unpacked from an archive; the interface of `tests.booted.root.Root`."""

    layers: tuple[str, ...] = ()

    def __init__(self, path: Path, archive: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(
            ["tar", "--extract", f"--file={archive}", f"--directory={path}", "--exclude=./dev/*"], check=True
        )

    def inside(self, path: str) -> Path:
        """The path on this machine of a path inside the root directory."""
        return self.path / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file and creates its parent directories."""
        location = self.inside(path)
        location.parent.mkdir(parents=True, exist_ok=True)
        location.write_text(text)
        location.chmod(mode)

    @property
    def brought(self) -> Path:
        """The directory from which deb packages are installed."""
        location = self.inside("/srv/packages")
        location.mkdir(parents=True, exist_ok=True)
        return location

    def bring(self, packages: Path) -> None:
        """Copies deb packages into the directory from which they are installed."""
        for file in packages.glob("*.deb"):
            shutil.copy(file, self.brought)


class PackagedMachine(booted.Machine):
    """A booted Debian on which the packages are installed with dpkg."""

    root: PackagedRoot  # type: ignore[assignment]

    def __init__(self, folder: Path, root: PackagedRoot) -> None:
        self.root = root
        self._console = folder / "console"
        self._name = f"waterflow-packaged-{os.getpid()}-{next(_numbers)}"
        self._groups = [
            Path(location, self._name) for location in _HIERARCHIES if Path(location, "cgroup.procs").exists()
        ]
        self._process = None
        self.leader = 0

    def add(self, name: str, release: int = 1) -> str:
        """Installs or upgrades a package, and returns the output of dpkg."""
        (file,) = self.root.brought.glob(f"{name}_*-{release}_amd64.deb")
        return self.run("dpkg", "--force-confold", "--install", f"/srv/packages/{file.name}").stdout

    def join(self) -> None:
        """Enrolls the agent as the packages explain: creates a token, and writes it to the agent's token file."""
        configuration = self.root.inside("/etc/waterflow/waterflowd.toml")
        text = configuration.read_text().replace("[agents]\n", "")
        configuration.write_text(text + CONFIG)
        self.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "/srv/ops.git")
        self.systemctl("restart", "waterflowd")
        token = self.run("waterflowctl", "agents", "tokens", "create", "--group", "web").stdout
        target = "/etc/waterflow/join-token"
        self.run("install", "-m", "600", "-o", "waterflow-agent", "/dev/stdin", target, stdin=token)
        wait_until(self.is_connected, "the agent to be connected", PATIENCE_S)

    def push(self, name: str, workflow: str) -> None:
        """Commits a workflow and pushes it."""
        if not self.root.inside("/srv/clone").exists():
            self.run("git", "clone", "--quiet", "/srv/ops.git", "/srv/clone")
        self.root.write(f"/srv/clone/workflows/{name}.yml", workflow)
        git = ("git", "-C", "/srv/clone", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        self.run(*git, "add", "--all")
        self.run(*git, "commit", "--quiet", "--message=Change")
        self.run(*git, "push", "--quiet", "origin", "HEAD:main")

    def is_active(self, unit: str) -> bool:
        """Whether a unit is active."""
        return self.show(unit, "ActiveState") == "active"

    def exposure(self, unit: str) -> float:
        """The exposure level of a unit according to `systemd-analyze security`; 0 is safest."""
        message = self.run("systemd-analyze", "security", "--no-pager", unit).stdout
        (line,) = [line for line in message.splitlines() if "Overall exposure level" in line]
        return float(line.split(":")[1].split()[0])

    def close(self) -> None:
        """Ends the machine at once."""
        with contextlib.suppress(ProcessLookupError):
            super().close()
