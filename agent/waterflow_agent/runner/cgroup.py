"""A control group per step, where the machine lends this process a part of the tree (version 2, unified or hybrid).

Rules
- Only a subtree that is ours: marked as delegated by systemd, or owned by our own user, or, for root, on a machine where
  no systemd keeps the tree. Anything else means no control groups at all, which is a normal state.
- Everything lies below one directory named after the data directory, and every process in it is in a leaf, as a group
  with controllers may not hold processes of its own.
- A step's processes are born in its group; a move after the birth would miss what the child has forked by then. So the
  runner itself stands in an unused group, the *doorway*: what it spawns is born there, and then the runner steps on
  into another unused group. The kernel lets the first move after a while wait for a grace period (8 ms here, the next
  ones take 10 µs), so the step to the next doorway is put off until the loop has time, or the next start needs it.
- A group that was found empty is used again: making one costs more than moving into it. One with limits is not.
- Controllers are switched on for the first step with limits, not before: a group that hands controllers on takes no
  processes of its own, so a service manager could not start a new runner while a step of a killed one is still there.
- `cgroup.kill` ends a group at one stroke, fork bombs included.
"""

from __future__ import annotations

import os

#: How systemd marks a delegated group.
_DELEGATED_MARKS = ("trusted.delegate", "user.delegate")
_SYSTEMD_RUNS = "/run/systemd/system"
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
#: Unused groups kept; each costs the kernel some memory.
_UNUSED_MAX = 64
_PREFIX = "step-"


class StepGroup:
    """The control group of one step."""

    __slots__ = ("_tree", "has_limits", "path")

    def __init__(self, path: str, tree: GroupTree) -> None:
        self.path = path
        self.has_limits = False
        self._tree = tree

    def limit(self, pids_max: int | None, memory_bytes_max: int | None) -> None:
        """Set bounds; raises `OSError` when a bound is asked for that this machine's delegation does not offer."""
        for name, value in (("pids.max", pids_max), ("memory.max", memory_bytes_max)):
            if value is not None:
                self.has_limits = True
                self._tree.switch_on_controllers()
                _write(f"{self.path}/{name}", str(value))

    def processes(self) -> set[int]:
        """Numbers of all processes in the group and in groups that the step made below it, but for this one."""
        found: set[int] = set()
        for path, _, _ in os.walk(self.path):
            try:
                with open(f"{path}/cgroup.procs", encoding="ascii") as file:
                    found.update(int(line) for line in file)
            except OSError:
                continue
        found.discard(os.getpid())
        return found

    @property
    def is_vacant(self) -> bool:
        """Whether no living process but this one is in the group or below it."""
        if not self._tree.stands_in(self):
            return b"populated 0" in _read(f"{self.path}/cgroup.events")
        return not _has_groups_below(self.path) and _read(f"{self.path}/cgroup.procs").split() == [b"%d" % os.getpid()]

    def kill(self) -> None:
        """Kill every process in the group at once; does nothing on kernels before 5.14 (the caller signals each)."""
        try:
            if self._tree.stands_in(self):
                self._tree.step_home()
            _write(f"{self.path}/cgroup.kill", "1")
        except OSError:
            return

    def release(self) -> None:
        """The step is over: the group is used again, or removed, once it is empty."""
        self._tree.release(self)

    def remove(self) -> bool:
        """Remove the group and what the step made below it; False when the kernel refuses, as a process lives in it."""
        for path, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                return False
        return True


class GroupTree:
    """This runner's part of the tree; one per data directory."""

    __slots__ = ("_base", "_doorway", "_home", "_is_used", "_number", "_origin", "_released", "_top", "_unused")

    def __init__(self, base: str, origin: str, label: str) -> None:
        """Build the part below `base` and move into its leaf; raises `OSError` when the kernel refuses."""
        self._base, self._origin = base, origin
        self._top = f"{base}/waterflow-{label}"
        self._home = f"{self._top}/runner"
        for path in (self._top, self._home):
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
        _write(f"{self._home}/cgroup.procs", "0")
        self._number = 0
        #: The group this process stands in, None at home; `_is_used` when a step was born there.
        self._doorway: StepGroup | None = None
        self._is_used = False
        self._unused: list[StepGroup] = []
        self._released: list[StepGroup] = []

    @property
    def is_ready(self) -> bool:
        """Whether this process stands in a group that no step has."""
        return self._doorway is not None and not self._is_used

    def make_ready(self) -> None:
        """Step into an unused group, which may take milliseconds; raises `OSError`."""
        if self.is_ready:
            return
        while True:
            is_new = not self._unused
            group = self._make() if is_new else self._unused.pop()
            try:
                _write(f"{group.path}/cgroup.procs", "0")
            except FileNotFoundError:
                # Somebody tidied up empty groups; a new one that is not there is another matter.
                if is_new:
                    raise
                continue
            self._doorway, self._is_used = group, False
            return

    def take(self) -> StepGroup:
        """The group in which everything is born that this process spawns until it calls `make_ready`. Raises `OSError`."""
        self.make_ready()
        assert self._doorway is not None
        self._is_used = True
        return self._doorway

    def switch_on_controllers(self) -> None:
        """Have groups of steps take limits, as far as this machine delegates that; setting a limit tells if it does not."""
        for path in (self._base, self._top):
            for controller in ("+pids", "+memory"):
                try:
                    _write(f"{path}/cgroup.subtree_control", controller)
                except OSError:
                    continue

    def stands_in(self, group: StepGroup) -> bool:
        """Whether this process is in `group` now."""
        return self._doorway is group

    def step_home(self) -> None:
        """Stand where no step's processes are born or killed; raises `OSError`."""
        if self._doorway is not None:
            _write(f"{self._home}/cgroup.procs", "0")
            if not self._is_used:
                self._unused.append(self._doorway)
            self._doorway, self._is_used = None, False

    def release(self, group: StepGroup) -> None:
        """Take back the group of a step that is over."""
        if group is self._doorway and not group.has_limits and group.is_vacant:
            # Nobody has to move: the next step may be born here. So short steps, one after another, cost nothing.
            self._is_used = False
            return
        self._released.append(group)
        still: list[StepGroup] = []
        for one in self._released:
            if one is self._doorway or not one.is_vacant:
                still.append(one)
            elif one.has_limits or len(self._unused) >= _UNUSED_MAX or _has_groups_below(one.path):
                if not one.remove():
                    still.append(one)
            else:
                self._unused.append(one)
        self._released = still

    def leftovers(self) -> list[StepGroup]:
        """The groups that an earlier runner made."""
        names = [name for name in os.listdir(self._top) if name.startswith(_PREFIX)]
        self._number = max((int(name[len(_PREFIX) :]) for name in names if name[len(_PREFIX) :].isdigit()), default=0)
        return [StepGroup(f"{self._top}/{name}", self) for name in names]

    def close(self) -> None:
        """Go back to where this process came from and remove what is empty."""
        try:
            _write(f"{self._origin}/cgroup.procs", "0")
        except OSError:
            return
        for path, _, _ in os.walk(self._top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                continue

    def _make(self) -> StepGroup:
        self._number += 1
        group = StepGroup(f"{self._top}/{_PREFIX}{self._number}", self)
        os.mkdir(group.path)
        return group


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


def _has_groups_below(path: str) -> bool:
    # A group's link count is 2 plus the groups below it.
    return os.stat(path).st_nlink > 2


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65_536)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
