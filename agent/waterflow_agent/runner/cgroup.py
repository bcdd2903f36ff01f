"""A control group for each step, where the machine delegates a part of the tree to this process (version 2, unified or hybrid).

Rules
- Only a delegated subtree is used: marked by systemd, or owned by our user, or, for root, on a machine without systemd.
  Otherwise there are no control groups, which is a normal state.
- Everything is below one directory named after the data directory, and every process is in a leaf, because a group with
  controllers may not contain processes.
- A step's processes start in its group; moving them later would miss what the child has forked by then. So the runner itself is
  in an unused group, the *start group*: its children start there, and then the runner moves into another unused group. The
  kernel delays the first move after a while by a grace period (8 ms here, the next ones take 10 µs), so the move to the next
  start group is postponed until the loop has time, or the next start needs it.
- An empty group is reused, because creating one costs more than moving into it. Its limits stay, so it is reused for steps with
  the same limits; most steps have the default ones.
- Controllers are enabled for the first step with limits, not before. A group with enabled controllers accepts no processes, so
  a service manager must first end what a killed runner has left (`KillMode=mixed`).
- The groups belong to the user of the runner, so a step of another user can neither leave its group nor enter another one.
- `cgroup.kill` kills a whole group at once, including fork bombs.
"""

from __future__ import annotations

import os

from waterflow_agent.runner.limits import AppliedLimits, Controllers, read, write

#: How systemd marks a delegated group.
_DELEGATED_MARKS = ("trusted.delegate", "user.delegate")
_SYSTEMD_RUNS = "/run/systemd/system"
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
#: Unused groups kept; each costs the kernel some memory.
_UNUSED_MAX = 64
_PREFIX = "step-"


class StepGroup:
    """The control group of one step."""

    __slots__ = ("_tree", "applied", "path")

    def __init__(self, path: str, tree: GroupTree) -> None:
        self.path = path
        self.applied = AppliedLimits({})
        self._tree = tree

    def limit(self, wanted: dict[str, int]) -> None:
        """Set limits for good. Raises `OSError` for a limit that this machine cannot enforce."""
        if wanted:
            self._tree.enable_controllers()
            self.applied = self._tree.controllers.apply(wanted, self.path)

    @property
    def has_limits(self) -> bool:
        """Whether any limit is set."""
        return bool(self.applied.limits)

    def processes(self) -> set[int]:
        """Return the numbers of all processes in the group and in groups below it, except this process."""
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
        """Whether no living process except this one is in the group or below it."""
        if not self._tree.is_in(self):
            return b"populated 0" in read(f"{self.path}/cgroup.events")
        return not _has_groups_below(self.path) and read(f"{self.path}/cgroup.procs").split() == [b"%d" % os.getpid()]

    def kill(self) -> None:
        """Kill every process in the group at once. Does nothing before Linux 5.14; the caller signals each process too."""
        try:
            if self._tree.is_in(self):
                self._tree.move_home()
            write(f"{self.path}/cgroup.kill", "1")
        except OSError:
            return

    def release(self) -> None:
        """Return the group of an ended step; it is reused or removed once it is empty."""
        self._tree.release(self)

    def remove(self) -> bool:
        """Remove the group and the groups below it. Returns False when the kernel refuses, because a process is in it."""
        for path, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                return False
        return self.applied.remove()


class GroupTree:
    """The part of the tree that belongs to the runner of one data directory."""

    __slots__ = (
        "_base",
        "_home",
        "_is_used",
        "_limits",
        "_number",
        "_origin",
        "_released",
        "_start_group",
        "_top",
        "_unused",
        "controllers",
    )

    def __init__(self, base: str, origin: str, label: str, *, with_version_1: bool = False) -> None:
        """Create the part below `base` and move into its leaf. Raises `OSError` when the kernel refuses."""
        self._base, self._origin = base, origin
        self.controllers = Controllers(base, label, with_version_1=with_version_1)
        #: Those of the last step, which the next one probably has too.
        self._limits: dict[str, int] = {}
        self._top = f"{base}/waterflow-{label}"
        self._home = f"{self._top}/runner"
        for path in (self._top, self._home):
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
        write(f"{self._home}/cgroup.procs", "0")
        self._number = 0
        #: The group that this process is in, None at home; `_is_used` when a step was started there.
        self._start_group: StepGroup | None = None
        self._is_used = False
        self._unused: list[StepGroup] = []
        self._released: list[StepGroup] = []

    @property
    def is_ready(self) -> bool:
        """Whether this process is in a group without a step."""
        return self._start_group is not None and not self._is_used

    def make_ready(self) -> None:
        """Move into an unused group, which may take milliseconds. Raises `OSError`."""
        if self.is_ready:
            return
        while True:
            suitable = next((one for one in self._unused if one.applied.limits == self._limits), None)
            is_new = suitable is None
            if suitable is None:
                group = self._make()
            else:
                group = suitable
                self._unused.remove(suitable)
            try:
                write(f"{group.path}/cgroup.procs", "0")
            except FileNotFoundError:
                # An empty group was deleted by others. A missing new group is an error.
                if is_new:
                    raise
                continue
            self._start_group, self._is_used = group, False
            return

    def take(self, wanted: dict[str, int]) -> StepGroup:
        """Return the group, with these limits, in which all children start until `make_ready` is called. Raises `OSError`."""
        if self._start_group is not None and self._start_group.applied.limits != wanted:
            self.move_home()
        self._limits = wanted
        self.make_ready()
        assert self._start_group is not None
        self._is_used = True
        self._start_group.applied.begin()
        return self._start_group

    def enable_controllers(self) -> None:
        """Enable the delegated controllers for groups of steps. If one is missing, setting its limit fails."""
        for path in (self._base, self._top):
            for controller in self.controllers.delegated:
                try:
                    write(f"{path}/cgroup.subtree_control", f"+{controller}")
                except OSError:
                    continue

    def is_in(self, group: StepGroup) -> bool:
        """Whether this process is in `group` now."""
        return self._start_group is group

    def move_home(self) -> None:
        """Move to the group of the runner, where no step is started or killed. Raises `OSError`."""
        if self._start_group is not None:
            write(f"{self._home}/cgroup.procs", "0")
            if not self._is_used:
                self._unused.append(self._start_group)
            self._start_group, self._is_used = None, False

    def release(self, group: StepGroup) -> None:
        """Take back the group of an ended step."""
        if group is self._start_group and group.is_vacant:
            # No move is needed: the next step may start here. So a sequence of short steps costs nothing.
            self._is_used = False
            return
        self._released.append(group)
        still: list[StepGroup] = []
        for one in self._released:
            if one is self._start_group or not one.is_vacant:
                still.append(one)
            elif len(self._unused) >= _UNUSED_MAX or _has_groups_below(one.path):
                if not one.remove():
                    still.append(one)
            else:
                self._unused.append(one)
        self._released = still

    def leftovers(self) -> list[StepGroup]:
        """Return the groups that an earlier runner has left."""
        names = [name for name in os.listdir(self._top) if name.startswith(_PREFIX)]
        self._number = max((int(name[len(_PREFIX) :]) for name in names if name[len(_PREFIX) :].isdigit()), default=0)
        return [StepGroup(f"{self._top}/{name}", self) for name in names]

    def close(self) -> None:
        """Move back to the original group and remove empty groups."""
        try:
            write(f"{self._origin}/cgroup.procs", "0")
        except OSError:
            return
        for path, _, _ in os.walk(self._top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                continue
        self.controllers.close()

    def _make(self) -> StepGroup:
        self._number += 1
        group = StepGroup(f"{self._top}/{_PREFIX}{self._number}", self)
        os.mkdir(group.path)
        try:
            group.limit(self._limits)
        except OSError:
            group.remove()
            raise
        return group


def find_tree(label: str) -> GroupTree | None:
    """Return the tree for the data directory that `label` names, or None when nothing is delegated to this process."""
    own = _own_group()
    if own is None:
        return None
    mount, path = own
    origin = mount + path.rstrip("/")
    for base in (origin, os.path.dirname(origin)):
        # systemd's DelegateSubgroup= puts the process into a leaf below the delegated group.
        if len(base) >= len(mount) and _is_delegated(base):
            try:
                return GroupTree(base, origin, label, with_version_1=_owns_machine())
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
        return _owns_machine()
    return os.stat(path).st_uid == os.geteuid()


def _owns_machine() -> bool:
    """Whether this process may use any group: it is root's, and no service manager manages the groups."""
    return os.geteuid() == 0 and not os.path.isdir(_SYSTEMD_RUNS)


def _has_groups_below(path: str) -> bool:
    # A group's link count is 2 plus the groups below it.
    return os.stat(path).st_nlink > 2
