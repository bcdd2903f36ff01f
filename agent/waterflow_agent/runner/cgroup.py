"""A control group per step, where the machine lends this process a part of the tree (version 2, unified or hybrid).

Rules
- Only a subtree that is ours: marked as delegated by systemd, or owned by our own user, or, for root, on a machine where
  no systemd keeps the tree. Anything else means no control groups at all, which is a normal state.
- Everything lies below one directory named after the data directory; the runner itself moves into its leaf `runner`, as
  a group with controllers may not hold processes of its own.
- A step's processes are born in its group: the runner, which has one thread, enters the group, spawns and leaves again
  (16 µs; a move of the child after its birth would miss what the child has forked by then).
- `cgroup.kill` ends a group at one stroke, fork bombs included. A group that can be removed is empty: that is the check.
"""

from __future__ import annotations

import os

#: How systemd marks a delegated group.
_DELEGATED_MARKS = ("trusted.delegate", "user.delegate")
_SYSTEMD_RUNS = "/run/systemd/system"
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class StepGroup:
    """The control group of one step."""

    __slots__ = ("_home", "path")

    def __init__(self, path: str, home: str) -> None:
        self.path = path
        self._home = home

    def limit(self, pids_max: int | None, memory_bytes_max: int | None) -> None:
        """Set bounds; raises `OSError` when a bound is asked for that this machine's delegation does not offer."""
        for name, value in (("pids.max", pids_max), ("memory.max", memory_bytes_max)):
            if value is not None:
                _write(f"{self.path}/{name}", str(value))

    def enter(self) -> None:
        """Move this process into the group, so that what it spawns is born there."""
        _write(f"{self.path}/cgroup.procs", "0")

    def leave(self) -> None:
        """Move this process back to its own group."""
        _write(f"{self._home}/cgroup.procs", "0")

    def processes(self) -> set[int]:
        """Numbers of all processes in the group and in groups that the step made below it."""
        found: set[int] = set()
        for path, _, _ in os.walk(self.path):
            try:
                with open(f"{path}/cgroup.procs", encoding="ascii") as file:
                    found.update(int(line) for line in file)
            except OSError:
                continue
        found.discard(os.getpid())
        return found

    def kill(self) -> None:
        """Kill every process in the group at once; does nothing on kernels before 5.14 (the caller signals each)."""
        try:
            # Had leaving failed after the spawn, this process would kill itself.
            self.leave()
            _write(f"{self.path}/cgroup.kill", "1")
        except OSError:
            return

    def remove(self) -> bool:
        """Remove the group; False when a process still lives in it."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return self._remove_below()
        return True

    def _remove_below(self) -> bool:
        if self.processes():
            return False
        for path, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                return False
        return True


class GroupTree:
    """This runner's part of the tree; one per data directory."""

    __slots__ = ("_home", "_origin", "_top")

    def __init__(self, base: str, origin: str, label: str) -> None:
        """Build the part below `base` and move into its leaf; raises `OSError` when the kernel refuses."""
        self._origin = origin
        self._top = f"{base}/waterflow-{label}"
        self._home = f"{self._top}/runner"
        for path in (self._top, self._home):
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
        _write(f"{self._home}/cgroup.procs", "0")
        for path in (base, self._top):
            for controller in ("+pids", "+memory"):
                try:
                    _write(f"{path}/cgroup.subtree_control", controller)
                except OSError:
                    # Only the limits of a step need controllers; asking for one says so then.
                    continue

    def create(self, name: str) -> StepGroup:
        """A new group for the attempt `name`; raises `OSError`."""
        group = StepGroup(f"{self._top}/step-{name}", self._home)
        os.mkdir(group.path)
        return group

    def find(self, name: str) -> StepGroup | None:
        """The group that an earlier runner made for the attempt `name`."""
        path = f"{self._top}/step-{name}"
        return StepGroup(path, self._home) if os.path.isdir(path) else None

    def close(self) -> None:
        """Go back to where this process came from and remove what is empty."""
        try:
            _write(f"{self._origin}/cgroup.procs", "0")
            os.rmdir(self._home)
            os.rmdir(self._top)
        except OSError:
            return


def find_tree(label: str) -> GroupTree | None:
    """The tree for the data directory that `label` stands for, or None where nothing is delegated to this process."""
    own = _own_group()
    if own is None:
        return None
    mount, path = own
    origin = mount + path.rstrip("/")
    for base in (origin, os.path.dirname(origin)):
        # systemd's DelegateSubgroup= puts the process into a leaf below the delegated group.
        if len(base) >= len(mount) and _is_delegated(base):
            try:
                return GroupTree(base, origin, label)
            except OSError:
                return None
    return None


def _own_group() -> tuple[str, str] | None:
    mount = next((mount for mount in _MOUNTS if os.path.exists(f"{mount}/cgroup.controllers")), None)
    if mount is None:
        return None
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                path = line[3:].rstrip("\n")
                return None if ".." in path else (mount, path)
    return None


def _is_delegated(path: str) -> bool:
    if not os.access(f"{path}/cgroup.procs", os.W_OK) or not os.access(path, os.W_OK):
        return False
    for mark in _DELEGATED_MARKS:
        try:
            if os.getxattr(path, mark) == b"1":
                return True
        except OSError:
            continue
    if os.geteuid() == 0:
        return not os.path.isdir(_SYSTEMD_RUNS)
    return os.stat(path).st_uid == os.geteuid()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
