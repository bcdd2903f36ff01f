"""Starting a process: own session, stdin from /dev/null, stdout and stderr through pipes, nothing else inherited.

The kernel does not say which of two pipes was written to first. So a process whose output is a text for people has one pipe for
both, and everything in it is standard output.

`posix_spawn` shares memory with the child until its exec (like vfork), so the cost of a start does not depend on the size of
this process. It has no option for the working directory, so the runner changes its own and goes back: it has one thread and
needs no working directory. The directory and the program are found with the permissions of the step's user. All other
descriptors are closed at the exec, because Python opens them so.

A process of another user is forked, because `posix_spawn` cannot change the user; the child runs no Python code. Once it has
the user, other processes of that user can stop it, even before its exec. So this process never waits for the exec: the child
reports a failure through a pipe that a successful exec closes (`PendingStart`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys

# What `subprocess` calls after it has waited for the exec of the previous one. The signature is that of Python 3.11 to 3.14.
from _posixsubprocess import fork_exec

from waterflow_agent.runner import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import StartRequest
    from waterflow_agent.runner.users import User

#: The search path of execvp without PATH in the environment.
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
#: Ignored signals stay ignored across exec, and Python ignores the first two.
_DEFAULT_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGTSTP,
)
#: Signals that stay ignored in a child of `fork_exec`, unless it restores the two that Python itself ignores.
_NEVER_IGNORED = _DEFAULT_SIGNALS[2:]
#: More than a child of `fork_exec` writes: `OSError:`, the error number, `:`, and a word.
_FAILURE_BYTES_MAX = 256


class SpawnFailed(Exception):
    """The process could not be started; the text is for people."""


class PendingStart:
    """A process that may not have reached its program yet."""

    __slots__ = ("_program", "_report", "_user", "fileno")

    def __init__(self, program: str, user: User, fileno: int) -> None:
        """`fileno` is the reading end (not blocking) of the pipe through which the child reports a failure."""
        self._program = program
        self._user = user
        self._report = b""
        self.fileno = fileno

    def outcome(self) -> str | None:
        """Return "" once the program runs or was killed before, why it does not run, or None as long as that is open."""
        try:
            # It is written in several pieces, and complete when the child has closed the pipe.
            while piece := os.read(self.fileno, _FAILURE_BYTES_MAX):
                self._report += piece
        except BlockingIOError:
            return None
        if not self._report:
            return ""
        number = int(self._report.split(b":")[1], 16)
        with users.acting_as(self._user):
            return _explain(self._program, OSError(number, os.strerror(number)))


class Spawned:
    """A process that was started, the reading ends of its pipes (not blocking), and its start if its outcome is open."""

    __slots__ = ("pending", "pid", "stderr", "stdout")

    def __init__(self, pid: int, stdout: int, stderr: int, pending: PendingStart | None = None) -> None:
        """`stderr` is -1 when it goes to the same pipe as `stdout`."""
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.pending = pending


class Spawner:
    """Starts processes; one per runner."""

    def __init__(self) -> None:
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in _NEVER_IGNORED:
            if signal.getsignal(number) is signal.SIG_IGN:
                # With a handler, a signal has its usual effect after the exec.
                signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def spawn(self, request: StartRequest, mark: tuple[str, str], user: User | None = None) -> Spawned:
        """Start the requested process as `user` with `mark` (name and value) in its environment. Raises `SpawnFailed`.

        The start of another user's process can still fail later, see `Spawned.pending`.
        """
        environment = {_bytes(name): _bytes(value) for name, value in request.env.items()}
        environment[mark[0].encode()] = _bytes(mark[1])
        argv = [_bytes(argument) for argument in request.argv]
        try:
            with users.acting_as(user):
                _enter(request)
                program = _find_program(argv[0], environment.get(b"PATH"))
            pipes = 1 if request.joins_output else 2
            if user is None:
                return self._start(program, argv, environment, pipes)
            return self._start_as(user, program, argv, environment, pipes)
        except OSError as error:
            raise SpawnFailed(_explain(request.argv[0], error)) from error
        finally:
            os.chdir("/")

    def _start(self, program: bytes, argv: list[bytes], environment: dict[bytes, bytes], pipes: int) -> Spawned:
        descriptors = _pipes(pipes)
        stdout, stdout_end = descriptors[:2]
        stderr, stderr_end = descriptors[2:4] if pipes > 1 else (-1, stdout_end)
        try:
            actions = [
                (os.POSIX_SPAWN_DUP2, self._null, 0),
                (os.POSIX_SPAWN_DUP2, stdout_end, 1),
                (os.POSIX_SPAWN_DUP2, stderr_end, 2),
            ]
            pid = os.posix_spawn(
                program,
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError:
            _close(descriptors)
            raise
        _close(descriptors[1::2])
        return Spawned(pid, stdout, stderr)

    def _start_as(
        self, user: User, program: bytes, argv: list[bytes], environment: dict[bytes, bytes], pipes: int
    ) -> Spawned:
        descriptors = _pipes(1 + pipes)
        failure, failure_end, stdout, stdout_end = descriptors[:4]
        stderr, stderr_end = descriptors[4:6] if pipes > 1 else (-1, stdout_end)
        # The last argument of older versions: whether vfork may be used, which is never the case with another user.
        more = () if sys.version_info >= (3, 14) else (False,)
        try:
            with users.acting_as_root():
                pid: int = fork_exec(
                    argv,
                    (program,),
                    False,  # close_fds: all are closed by the exec.
                    (),
                    None,  # type: ignore[arg-type]  # The working directory is this process's.
                    [name + b"=" + value for name, value in environment.items()],
                    self._null,
                    -1,
                    -1,
                    stdout_end,
                    -1,
                    stderr_end,
                    failure,
                    failure_end,
                    True,  # Restore the signals that Python ignores.
                    True,  # A session of its own.
                    -1,
                    user.gid,
                    user.groups,
                    user.uid,
                    -1,
                    None,  # type: ignore[arg-type]  # No code in the child.
                    *more,
                )
        except OSError:
            _close(descriptors)
            raise
        _close(descriptors[1::2])
        return Spawned(pid, stdout, stderr, PendingStart(argv[0].decode("utf-8", "surrogateescape"), user, failure))


def _enter(request: StartRequest) -> None:
    """Enter the working directory, with the permissions of the step. Raises `SpawnFailed`."""
    try:
        os.chdir(_bytes(request.cwd))
    except OSError as error:
        raise SpawnFailed(f"cannot enter the working directory {request.cwd}: {error.strerror}") from error
    # Compared after the change, so that no link can be exchanged in between.
    if request.within is not None and not f"{os.getcwd()}/".startswith(f"{os.path.realpath(request.within)}/"):
        raise SpawnFailed(f"working-directory: {request.cwd} is outside the job's directory")


def _pipes(count: int) -> list[int]:
    """Return pairs of reading (not blocking) and writing ends. Raises `OSError`; then none is open."""
    descriptors: list[int] = []
    try:
        for _ in range(count):
            descriptors += os.pipe()
            os.set_blocking(descriptors[-2], False)
    except OSError:
        _close(descriptors)
        raise
    return descriptors


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _find_program(name: bytes, search: bytes | None) -> bytes:
    """Return the path of `name` by the PATH of the step, as a shell would find it."""
    if b"/" in name:
        return name
    for directory in (search if search is not None else _DEFAULT_PATH.encode()).split(b":"):
        candidate = (directory or b".") + b"/" + name
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise FileNotFoundError(errno.ENOENT, "not found in PATH")


def _explain(program: str, error: OSError) -> str:
    if error.errno == errno.ENOENT and os.path.exists(program):
        return f"cannot start {program}: the interpreter in its first line does not exist"
    return f"cannot start {program}: {error.strerror}"


def _bytes(text: str) -> bytes:
    # Not os.fsencode: steps must not depend on the locale of the runner.
    return text.encode("utf-8", "surrogateescape")
