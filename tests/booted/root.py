"""A root directory in which this machine's systemd boots with the product's units, made within a second and without
downloads.

`/usr` is this machine's own, read-only, with an extra layer of links to the programs; `/etc`, `/var` and `/opt` are new
and belong to the root directory. The product is in `/opt/waterflow`, as `docs/operations.md` installs it: a virtual
environment of the Python that runs the tests, with copies of both packages and the dependencies of this environment. So
only the unit files decide what the services can access, and the booted systemd is the one of the machine that the tests
run on, whichever version that is.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import uuid
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "systemd"
PACKAGES = {"waterflowd": REPOSITORY / "waterflowd", "waterflow_agent": REPOSITORY / "agent" / "waterflow_agent"}
PROGRAMS = {
    "waterflowd": "waterflowd.__main__",
    "waterflowctl": "waterflowd.ctl.main",
    "waterflow-agent": "waterflow_agent.cli",
}
#: Where this environment's Python and its dependencies appear inside.
_PYTHON, _DEPENDENCIES = "/opt/python", "/opt/dependencies"
#: Where the tests of this repository appear inside, with the settings of pytest.
SUITE = "/opt/suite"
_FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "shadow": "root:*:19000::::::\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "hosts": "127.0.0.1 localhost\n",
    "hostname": "booted\n",
}


class Root:
    """The directory below `folder`, and what has to be mounted over it at boot."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "root"
        self._usr = folder / "usr"
        base = Path(sys.base_prefix).resolve()
        self._python = None if base.is_relative_to("/usr") else base
        self._make_system()
        self._install()
        self._install_units()

    @property
    def layers(self) -> list[str]:
        """Returns the arguments of `systemd-nspawn`."""
        binds = [
            f"--bind-ro={sysconfig.get_path('purelib')}:{_DEPENDENCIES}",
            f"--bind-ro={REPOSITORY / 'tests'}:{SUITE}/tests",
        ]
        if self._python is not None:
            binds.append(f"--bind-ro={self._python}:{_PYTHON}")
        return [f"--overlay-ro=/usr:{self._usr}:/usr", *binds]

    def inside(self, path: str) -> Path:
        """Returns the file of the root directory that has this path inside."""
        return self.path / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file and creates its parent directories."""
        target_path = self.inside(path)
        target_path.parent.mkdir(parents=True, exist_ok=True)
        target_path.write_text(text)
        target_path.chmod(mode)

    @property
    def packages(self) -> Path:
        """Returns where the packages are installed."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.inside("/opt/waterflow/lib") / version / "site-packages"

    def _make_system(self) -> None:
        for name in ("dev", "etc", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"):
            (self.path / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_symlink():
                (self.path / name).symlink_to(f"usr/{name}")
        for name, text in _FILES.items():
            self.write(f"/etc/{name}", text)
        self.inside("/etc/shadow").chmod(0o600)
        # Without a machine id, systemd would take this for a first boot and enable everything it finds in /usr.
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        shutil.copy("/usr/lib/os-release", self.inside("/etc/os-release"))
        shutil.copy("/etc/ld.so.cache", self.inside("/etc/ld.so.cache"))
        # Links to the authorities in /usr, without private keys.
        shutil.copytree("/etc/ssl", self.inside("/etc/ssl"), symlinks=True, ignore=shutil.ignore_patterns("private"))
        # Mask the image's own services; only systemd, journald and the product's services are booted.
        self.link("/etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target")
        for unit in ("systemd-logind.service", "systemd-user-sessions.service", "dbus.service", "dbus.socket"):
            self.link(f"/etc/systemd/system/{unit}", "/dev/null")
        for unit in ("getty.target", "remote-fs.target", "systemd-udevd.service", "systemd-networkd.socket"):
            self.link(f"/etc/systemd/system/{unit}", "/dev/null")

    def link(self, path: str, target: str) -> None:
        """Creates a symbolic link."""
        target_path = self.inside(path)
        target_path.parent.mkdir(parents=True, exist_ok=True)
        target_path.symlink_to(target)

    def _install(self) -> None:
        home = Path(_PYTHON if self._python is not None else sys.base_prefix) / "bin"
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.write("/opt/waterflow/pyvenv.cfg", f"home = {home}\ninclude-system-site-packages = false\n")
        self.link("/opt/waterflow/bin/python3", f"{home}/{name}")
        self.packages.mkdir(parents=True)
        (self.packages / "dependencies.pth").write_text(f"{_DEPENDENCIES}\n")
        self.write(f"{SUITE}/pyproject.toml", (REPOSITORY / "pyproject.toml").read_text())
        for package, source in PACKAGES.items():
            copy_package(source, self.packages / package)
        (self._usr / "bin").mkdir(parents=True)
        for program, module in PROGRAMS.items():
            text = f"#!/opt/waterflow/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
            self.write(f"/opt/waterflow/bin/{program}", text, 0o755)
            (self._usr / "bin" / program).symlink_to(f"/opt/waterflow/bin/{program}")
        self._install_libraries()

    def _install_libraries(self) -> None:
        """Lets a Python with its own shared library find it by its old path, before others of the same name."""
        if self._python is not None:
            directory = self._usr / "lib" / (sysconfig.get_config_var("MULTIARCH") or "")
            directory.mkdir(parents=True)
            for library in (self._python / "lib").glob("libpython3.*.so.*"):
                shutil.copy(library, directory / library.name)

    def _install_units(self) -> None:
        for unit in sorted(UNITS.glob("*.service")):
            shutil.copy(unit, self.inside("/etc/systemd/system"))
        (self.inside("/etc/sysusers.d")).mkdir()
        shutil.copy(UNITS / "sysusers.d" / "waterflow.conf", self.inside("/etc/sysusers.d"))
        (self.inside("/etc/tmpfiles.d")).mkdir()
        shutil.copy(UNITS / "tmpfiles.d" / "waterflow-agent.conf", self.inside("/etc/tmpfiles.d"))
        # As docs/operations.md says for a location other than /usr.
        self.write(
            "/etc/systemd/system/waterflow-runner.service.d/place.conf",
            "[Service]\nExecStart=\nExecStart=!/opt/waterflow/bin/python3 -P -m waterflow_agent.runner"
            " --data-dir /var/lib/waterflow-agent/runner --user waterflow-agent"
            " --users-from /etc/waterflow/agent.toml\n",
        )


def copy_package(source: Path, target: Path) -> None:
    """Copies a package with its compiled files, but without files that are being written right now."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc.*"))
