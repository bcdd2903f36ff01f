"""A booted Debian on which the packages are installed by dpkg, as an administrator would."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path

from tests.acceptance.world import wait_until
from tests.booted import machine as booted

PATIENCE_S = 180.0
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
_numbers = itertools.count()
#: The daemon's, with one more table: where agents connect, for the machine has no network but its loopback.
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
        """A file of the root by the name that it has inside."""
        return self.path / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file, with the directories above it."""
        place = self.inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    @property
    def brought(self) -> Path:
        """Where debs are installed from."""
        place = self.inside("/srv/packages")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def bring(self, packages: Path) -> None:
        """Copies debs to where they are installed from."""
        for file in packages.glob("*.deb"):
            shutil.copy(file, self.brought)


class PackagedMachine(booted.Machine):
    """See the file's docstring."""

    root: PackagedRoot  # type: ignore[assignment]

    def __init__(self, folder: Path, root: PackagedRoot) -> None:
        self.root = root
        self._console = folder / "console"
        self._name = f"waterflow-packaged-{os.getpid()}-{next(_numbers)}"
        self._groups = [Path(place, self._name) for place in _HIERARCHIES if Path(place, "cgroup.procs").exists()]
        self._process = None
        self.leader = 0

    def add(self, name: str, release: int = 1) -> str:
        """Installs a package, or upgrades it, and gives what dpkg said."""
        (file,) = self.root.brought.glob(f"{name}_*-{release}_amd64.deb")
        return self.run("dpkg", "--force-confold", "--install", f"/srv/packages/{file.name}").stdout

    def join(self) -> None:
        """The two commands that the packages print: a token made by the daemon, put where the agent waits for it."""
        configuration = self.root.inside("/etc/waterflow/waterflowd.toml")
        text = configuration.read_text().replace("[agents]\n", "")
        configuration.write_text(text + CONFIG)
        self.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "/srv/ops.git")
        self.systemctl("restart", "waterflowd")
        token = self.run("waterflowctl", "agents", "token", "--group", "web").stdout
        target = "/etc/waterflow/join.token"
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
        """What `systemd-analyze security` thinks of a unit; 0 is safest."""
        said = self.run("systemd-analyze", "security", "--no-pager", unit).stdout
        (line,) = [line for line in said.splitlines() if "Overall exposure level" in line]
        return float(line.split(":")[1].split()[0])

    def close(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            super().close()
