"""Limits of a step, enforced by the controllers of its control group: memory, processes, processor time.

Rules
- A limit that the machine cannot enforce is never accepted silently: `Controllers.names` says what it can.
- Version 2 controllers are used where the machine delegates them. On a hybrid machine, whose controllers belong to version 1
  hierarchies, a runner of root uses those; there, a step's processes start in its groups because the runner enters them before
  the start and leaves them after it.
- The memory limit ends all processes of the step (`memory.oom.group`), or with version 1 the largest one. The limit for
  processes fails further forks, so the runner kills a step that has reached it. It gets an event of that; version 1 has none,
  so there the counters are read every `POLL_MS` while steps run.
- The counters of a group survive its step, so the next one compares with their values at its start.
"""

from __future__ import annotations

import os

#: Short enough that a fork bomb does not fill the log with error messages.
POLL_MS = 200
_ROOT = "/sys/fs/cgroup"
#: Of `cpu`: the kernel's default period.
_PERIOD_US = 100_000
#: The version 1 hierarchy of each limit.
_HIERARCHIES = {"memory": "memory", "processes": "pids", "cpu": "cpu"}
#: Names of files that set a limit, then the one of the counter, with its key.
_VERSION_2 = {"memory": ("memory.events", "oom_kill"), "processes": ("pids.events", "max")}
_VERSION_1 = {"memory": ("memory.oom_control", "oom_kill"), "processes": ("pids.events", "max")}
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("bytes", 1))


def sentence(name: str, value: int) -> str:
    """Return why a step that exceeded this limit was ended."""
    if name == "processes":
        return f"ended by the limit of {value} processes"
    return f"ended by the memory limit of {size_text(value)}"


def size_text(size: int) -> str:
    """Return a number of bytes in the largest unit that it reaches."""
    unit, factor = next((unit, factor) for unit, factor in _UNITS if size >= factor)
    return f"{round(size / factor, 1):g} {unit}"


class Controllers:
    """The controllers for limits that this process may use."""

    __slots__ = ("_delegated", "_homes", "_label")

    def __init__(self, base: str, label: str, *, with_version_1: bool) -> None:
        """`base` is the delegated group of version 2. Raises nothing: what cannot be read cannot be used."""
        available = read(f"{base}/cgroup.controllers").split()
        self._delegated = frozenset(name for name, of in _HIERARCHIES.items() if of.encode() in available)
        self._label = label
        #: The group of version 1 that this process is in, by limit.
        self._homes: dict[str, str] = {}
        if with_version_1:
            self._homes = {
                name: home
                for name, home in _own_groups().items()
                if name not in self._delegated and os.access(f"{home}/cgroup.procs", os.W_OK)
            }

    @property
    def names(self) -> frozenset[str]:
        """The limits that can be enforced."""
        return self._delegated | self._homes.keys()

    @property
    def delegated(self) -> list[str]:
        """The names of the version 2 controllers to enable."""
        return sorted(_HIERARCHIES[name] for name in self._delegated)

    def apply(self, limits: dict[str, int], path: str) -> AppliedLimits:
        """Set the limits of the step whose version 2 group is `path`. Raises `OSError`."""
        applied = AppliedLimits(dict(limits))
        for name, value in limits.items():
            if name in self._delegated:
                applied.groups[name] = path
                write_limit(path, name, value, is_version_1=False)
            elif name in self._homes:
                group = f"{self._homes[name]}/waterflow-{self._label}/{os.path.basename(path)}"
                os.makedirs(group, exist_ok=True)
                applied.groups[name] = group
                applied.homes[group] = self._homes[name]
                write_limit(group, name, value, is_version_1=True)
            else:
                raise OSError(0, f"this machine cannot enforce a limit for {name}")
        return applied

    def close(self) -> None:
        """Remove the version 1 groups, which are empty."""
        for home in set(self._homes.values()):
            for path, _, _ in os.walk(f"{home}/waterflow-{self._label}", topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    continue


class AppliedLimits:
    """The limits of one step, and the groups that enforce them."""

    __slots__ = ("_before", "groups", "homes", "limits")

    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits
        #: The group of each limit.
        self.groups: dict[str, str] = {}
        #: The groups of version 1, and where this process is otherwise.
        self.homes: dict[str, str] = {}
        self._before: dict[str, int] = {}

    def begin(self) -> None:
        """Enter the groups of version 1, and note the counters. Raises `OSError`."""
        self._before = {name: self._count(name) for name in self.groups}
        for group in self.homes:
            write(f"{group}/cgroup.procs", "0")

    def leave(self) -> None:
        """Leave the groups of version 1, after the start of the step. Raises `OSError`."""
        for home in self.homes.values():
            write(f"{home}/cgroup.procs", "0")

    def exceeded(self) -> str:
        """Return the sentence about the limit that the step has exceeded, or ""."""
        for name, before in self._before.items():
            if self._count(name) > before:
                return sentence(name, self.limits[name])
        return ""

    @property
    def must_be_polled(self) -> bool:
        """Whether nothing but the counter says that the limit for processes was reached."""
        return self.groups.get("processes", "") in self.homes

    def open_events(self) -> int:
        """Return a descriptor with an event (`EPOLLPRI`) for each fork that the limit prevents, or -1 without events."""
        if "processes" not in self.groups or self.must_be_polled:
            return -1
        fd = os.open(f"{self.groups['processes']}/pids.events", os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 4096)
        return fd

    def remove(self) -> bool:
        """Remove the groups of version 1. Returns False when the kernel refuses, because a process is in one."""
        for group in self.homes:
            try:
                os.rmdir(group)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def _count(self, name: str) -> int:
        group = self.groups[name]
        file, key = (_VERSION_1 if group in self.homes else _VERSION_2).get(name, ("", ""))
        if not file:
            return 0
        for line in read(f"{group}/{file}").splitlines():
            found, _, value = line.partition(b" ")
            if found == key.encode():
                return int(value)
        return 0


def write_limit(group: str, name: str, value: int, *, is_version_1: bool) -> None:
    """Set one limit of a group. Raises `OSError`."""
    if name == "processes":
        write(f"{group}/pids.max", str(value))
    elif name == "memory" and is_version_1:
        write(f"{group}/memory.limit_in_bytes", str(value))
        _write_if_exists(f"{group}/memory.memsw.limit_in_bytes", str(value))
    elif name == "memory":
        write(f"{group}/memory.max", str(value))
        _write_if_exists(f"{group}/memory.swap.max", "0")
        _write_if_exists(f"{group}/memory.oom.group", "1")
    elif is_version_1:
        write(f"{group}/cpu.cfs_period_us", str(_PERIOD_US))
        write(f"{group}/cpu.cfs_quota_us", str(value * _PERIOD_US // 100))
    else:
        write(f"{group}/cpu.max", f"{value * _PERIOD_US // 100} {_PERIOD_US}")


def read(path: str) -> bytes:
    """Return the content of a file of a control group; nothing when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65_536)
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write to a file of a control group. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _write_if_exists(path: str, text: str) -> None:
    try:
        write(path, text)
    except FileNotFoundError:
        return


def _own_groups() -> dict[str, str]:
    """Return the group of version 1 that this process is in, for each limit that has a hierarchy."""
    found: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for name, controller in _HIERARCHIES.items():
                if controller in controllers.split(",") and ".." not in path:
                    found[name] = f"{_ROOT}/{controllers}{path}".rstrip("/")
    return found
