"""The runner's entry point: `python -m waterflow_agent.runner --data-dir DIR [--detach] [--idle-exit-s N] [--no-cgroup]
[--user NAME] [--users-from FILE]`.

`--user` is for a runner that a service manager starts as root: it becomes this user, the agent's, and keeps the right to start
steps as other users. `--users-from` is the agent's configuration file, which lists them.

Exit status: 0 when it was stopped, 2 for wrong arguments or a directory that cannot be used, 3 when another runner
serves the directory. With `--detach` the command returns 0 as soon as the runner answers on `DIR/runner.sock`, and the
runner continues without a terminal or parent, and writes its log to `DIR/runner.log`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import sys

import waterflow_agent
from waterflow_agent.runner import cgroup, processes, recovery, service, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = (
    "usage: python -m waterflow_agent.runner --data-dir DIR [--detach] [--idle-exit-s N] [--no-cgroup] [--user NAME]"
    " [--users-from FILE]"
)
_WITH_VALUE = ("--data-dir", "--idle-exit-s", "--user", "--users-from")
#: Waiting connections; agents connect one at a time.
_BACKLOG = 8
#: The kernel's limit for the path of a unix socket, less its final NUL.
_SOCKET_PATH_BYTES_MAX = 107


class Options:
    """The command line. Raises `ValueError` with a message for the user."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.data_directory = ""
        self.is_detached = False
        self.uses_groups = True
        self.idle_exit_s: int | None = None
        self.user: str | None = None
        self.users_from: str | None = None
        rest = list(arguments)
        while rest:
            option, _, value = rest.pop(0).partition("=")
            if option in _WITH_VALUE and not value:
                if not rest:
                    raise ValueError(f"{option} needs a value")
                value = rest.pop(0)
            self._set(option, value)
        if not self.data_directory:
            raise ValueError("--data-dir is missing")

    def _set(self, option: str, value: str) -> None:
        if option == "--data-dir":
            self.data_directory = os.path.realpath(value)
        elif option == "--idle-exit-s":
            if not value.isdigit():
                raise ValueError(f"--idle-exit-s: {value!r} is not a number of seconds")
            self.idle_exit_s = int(value)
        elif option == "--user":
            self.user = value
        elif option == "--users-from":
            self.users_from = value
        elif option == "--detach":
            self.is_detached = True
        elif option == "--no-cgroup":
            self.uses_groups = False
        else:
            raise ValueError(f"unknown option {option!r}")


def main(arguments: Sequence[str]) -> int:
    """Run the runner; returns the exit status."""
    try:
        options = Options(arguments)
    except ValueError as error:
        print(f"waterflow-runner: {error}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        if options.user is not None:
            users.take_user(options.user)
    except (users.UserRefused, OSError) as error:
        print(f"waterflow-runner: cannot work as {options.user}: {error}", file=sys.stderr)
        return 2
    try:
        os.makedirs(options.data_directory, mode=0o700, exist_ok=True)
        os.chmod(options.data_directory, 0o700)
        if not _lock(options.data_directory):
            print(f"waterflow-runner: another runner serves {options.data_directory}", file=sys.stderr)
            return 3
        root = f"{options.data_directory}/attempts"
        os.makedirs(root, mode=0o700, exist_ok=True)
        listener = _listen(options.data_directory)
        if options.is_detached and _detach(options.data_directory):
            # The parent exits without cleanup: locks and sockets belong to the child.
            os._exit(0)
        _serve(options, root, listener)
    except OSError as error:
        print(f"waterflow-runner: cannot use {options.data_directory}: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(options: Options, root: str, listener: socket.socket) -> None:
    os.chdir("/")
    # Files of steps get the usual permissions, whatever the agent's umask was.
    os.umask(0o022)
    processes.become_reaper()
    label = hashlib.sha256(os.fsencode(options.data_directory)).hexdigest()[:12]
    tree = cgroup.find_tree(label) if options.uses_groups else None
    allowed = users.Users(options.users_from)
    ended = recovery.recover(root, tree, allowed)
    runner = service.RunnerService(
        root,
        listener,
        tree=tree,
        allowed=allowed,
        ended=ended,
        release=waterflow_agent.__version__,
    )
    _notify_systemd("READY=1")
    runner.run(idle_s=options.idle_exit_s)
    if tree is not None:
        tree.close()


def _lock(data_directory: str) -> bool:
    """Lock the directory for the life of this process. Returns False when another runner has locked it."""
    # The descriptor stays open on purpose, and a fork shares the lock.
    fd = os.open(f"{data_directory}/runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def _listen(data_directory: str) -> socket.socket:
    """Return the socket `runner.sock`, accessible to this user only. The lock makes it safe to replace an old one."""
    path = f"{data_directory}/runner.sock"
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o177)
    try:
        is_long = len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX
        listener.bind(f"/proc/self/fd/{directory}/runner.sock" if is_long else path)
    finally:
        os.umask(before)
        os.close(directory)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _detach(data_directory: str) -> bool:
    """Continue in a child in its own session, with its output in the log. Returns True in the parent."""
    if os.fork():
        return True
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(f"{data_directory}/runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for source in (null, log):
        if source > 2:
            os.close(source)
    return False


def _notify_systemd(state: str) -> None:
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.send(state.encode())
    except OSError as error:
        # The runner is ready nevertheless. systemd ends the unit if it misses the message, and logs that.
        print(f"waterflow-runner: cannot notify the service manager at {address}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
