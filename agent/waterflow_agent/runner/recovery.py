"""Recovery after the runner itself was killed: settles the steps that it held.

They were its children and wrote into its pipes, so a new runner can neither get their exit status nor read their output. Each
attempt that was started and has no result is therefore `lost`. Its remaining processes are killed first: a lost attempt must
not keep running. A process is only killed when it certainly belongs to the attempt: it has the recorded number and start time
in the same boot, or is in its session or in the attempt's control group, or has its mark. The process numbers in a copy of the
directory belong to another runner and are ignored. What ended attempts have left behind is killed, too: nothing would end it
with its job. It has the mark of an attempt in this directory, which may be forgotten already.
"""

from __future__ import annotations

import os
import select
import signal
import time

from waterflow_agent.clock import Clock
from waterflow_agent.runner import processes, protocol, service, users
from waterflow_agent.runner.attempt_directory import AttemptDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.cgroup import GroupTree, StepGroup
    from waterflow_agent.runner.processes import Process
    from waterflow_agent.runner.users import User, Users

#: Killed processes end within milliseconds, or are stuck in the kernel and cannot be waited for.
_PATIENCE_S = 5.0


def recover(root: str, tree: GroupTree | None, allowed: Users) -> list[str]:
    """Settle every attempt below `root` that has no result. Returns the names of all attempts, which then have one.

    Raises `OSError` when a result cannot be written: then the runner must not start.
    """
    ended: list[str] = []
    open_ones: list[AttemptDirectory] = []
    for name in sorted(filter(protocol.is_name, os.listdir(root))):
        directory = AttemptDirectory(root, name)
        record = directory.read_record()
        if record is None:
            continue
        if record.result is not None:
            ended.append(name)
        else:
            open_ones.append(directory)
    groups = tree.leftovers() if tree is not None else []
    leaders = {directory.path: _leader(directory, allowed) for directory in open_ones}
    are_gone = _kill_all(root, leaders, groups, [None, *allowed.all()])
    for directory in open_ones:
        _write_lost(directory, are_gone)
        ended.append(directory.name)
    return ended


def _leader(directory: AttemptDirectory, allowed: Users) -> int:
    """Return the number of the attempt's main process if it is still running, else 0."""
    record = directory.read_record()
    if record is None or record.spec is None or record.process is None:
        return 0
    if record.spec.get("boot_id") != processes.boot_id() or directory.is_copy(record):
        return 0
    pid, born_ms = record.process.get("pid"), record.process.get("born_ms")
    if not isinstance(pid, int) or pid <= 1 or not isinstance(born_ms, list) or len(born_ms) != 2:
        return 0
    name = record.spec.get("user")
    try:
        user = allowed.find(name) if isinstance(name, str) else None
    except users.UserRefused:
        # Its user is no longer allowed. Its control group, if it has one, still ends it.
        return 0
    with users.acting_as(user):
        process = processes.read_process(pid)
    return pid if process is not None and process.was_born_between(*born_ms) else 0


def _kill_all(root: str, leaders: dict[str, int], groups: list[StepGroup], owners: list[User | None]) -> bool:
    """Kill the processes of attempts, which have these users. Returns False when some are left after `_PATIENCE_S`."""
    give_up_at = time.monotonic() + _PATIENCE_S
    sessions = {pid for pid in leaders.values() if pid}
    while True:
        contained: set[int] = set()
        for group in groups:
            contained |= group.processes()
            group.kill()
        left: list[tuple[User | None, Process]] = []
        for owner in owners:
            with users.acting_as(owner):
                left += [(owner, one) for one in processes.all_processes() if _belongs(one, sessions, contained, root)]
        if not left:
            for group in groups:
                group.remove()
            return True
        if time.monotonic() > give_up_at:
            return False
        _kill_and_wait(left, give_up_at)


def _belongs(process: Process, sessions: set[int], contained: set[int], root: str) -> bool:
    return (
        process.session in sessions
        or process.group in sessions
        or process.pid in contained
        or os.path.dirname(processes.mark_of(process.pid) or "") == root
    )


def _kill_and_wait(left: list[tuple[User | None, Process]], give_up_at: float) -> None:
    poll = select.poll()
    pidfds: list[int] = []
    for owner, one in left:
        with users.acting_as(owner):
            pidfd = processes.send_signal(one, signal.SIGKILL)
        if pidfd >= 0:
            pidfds.append(pidfd)
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    waiting = set(pidfds)
    while waiting and time.monotonic() < give_up_at:
        for pidfd, _ in poll.poll(max(1, (give_up_at - time.monotonic()) * 1_000)):
            poll.unregister(pidfd)
            waiting.discard(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)


def _write_lost(directory: AttemptDirectory, are_gone: bool) -> None:
    record = directory.read_record()
    at = record.process.get("at") if record is not None and record.process is not None else None
    text = "the runner was killed while the step ran"
    if not are_gone:
        text += "; some of its processes could not be killed"
    result = service.lost_result(text, Clock().wall_ms(), at if isinstance(at, int) else None)
    directory.write_result(result | {"output_bytes": _spooled_bytes(directory)})


def _spooled_bytes(directory: AttemptDirectory) -> int:
    """Return the end of the spool, so that a reader knows when it has everything."""
    # Imported here, because it is needed only after a crash.
    from waterflow_agent.runner.spool import SpoolReader

    reader = SpoolReader(directory.output_path)
    end = 0
    while chunks := reader.read(end):
        end = chunks[-1].end
    return end
