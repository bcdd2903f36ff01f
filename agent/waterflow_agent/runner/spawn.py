"""Starting a process: own session, stdin from /dev/null, stdout and stderr through pipes, nothing else inherited.

`posix_spawn` shares memory with the child until its exec (like vfork), so the cost of a start does not depend on the size of
this process. It has no option for the working directory, so the runner changes its own and goes back: it has one thread and
needs no working directory. All other descriptors are closed at the exec, because Python opens them so.

A process of another user is forked, because `posix_spawn` cannot change the user. The child takes the user first, so that the
working directory and the program are found with the permissions of that user, and reports a failure through a pipe that its
exec closes.
"""

from __future__ import annotations

import errno
import os
import signal

from waterflow_agent.runner import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

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
#: A sentence with a path.
_FAILURE_BYTES_MAX = 4096


class SpawnFailed(Exception):
    """The process could not be started; the text is for people."""


class Spawned:
    """A process that was started, and the reading ends of its pipes (not blocking)."""

    __slots__ = ("pid", "stderr", "stdout")

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr


class Spawner:
    """Starts processes; one per runner."""

    def __init__(self) -> None:
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def spawn(self, request: StartRequest, mark: tuple[str, str], user: User | None = None) -> Spawned:
        """Start the requested process as `user` with `mark` (name and value) in its environment. Raises `SpawnFailed`."""
        environment = {_bytes(name): _bytes(value) for name, value in request.env.items()}
        environment[mark[0].encode()] = _bytes(mark[1])
        argv = [_bytes(argument) for argument in request.argv]
        if user is not None:
            return self._start_as(user, request, argv, environment)
        try:
            os.chdir(_bytes(request.cwd))
        except OSError as error:
            raise SpawnFailed(f"cannot enter the working directory {request.cwd}: {error.strerror}") from error
        try:
            program = _find_program(argv[0], environment.get(b"PATH"))
            return self._start(program, argv, environment)
        except OSError as error:
            raise SpawnFailed(_explain(request.argv[0], error)) from error
        finally:
            os.chdir("/")

    def _start(self, program: bytes, argv: list[bytes], environment: dict[bytes, bytes]) -> Spawned:
        descriptors = _pipes(2)
        stdout, stdout_end, stderr, stderr_end = descriptors
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
        _close([stdout_end, stderr_end])
        return Spawned(pid, stdout, stderr)

    def _start_as(
        self, user: User, request: StartRequest, argv: list[bytes], environment: dict[bytes, bytes]
    ) -> Spawned:
        try:
            descriptors = _pipes(3)
            stdout, stdout_end, stderr, stderr_end, failure, failure_end = descriptors
            pid = os.fork()
        except OSError as error:
            raise SpawnFailed(_explain(request.argv[0], error)) from error
        if pid == 0:
            self._run_as(user, request, argv, environment, (stdout_end, stderr_end, failure_end))
        _close([stdout_end, stderr_end, failure_end])
        os.set_blocking(failure, True)
        text = os.read(failure, _FAILURE_BYTES_MAX)
        os.close(failure)
        if not text:
            return Spawned(pid, stdout, stderr)
        _close([stdout, stderr])
        os.waitpid(pid, 0)
        raise SpawnFailed(text.decode("utf-8", "replace"))

    def _run_as(
        self,
        user: User,
        request: StartRequest,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        ends: tuple[int, int, int],
    ) -> NoReturn:
        """Become the step, in the forked child. Nothing here may return or raise into the runner's code."""
        text = ""
        try:
            signal.set_wakeup_fd(-1)
            for number in _DEFAULT_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            users.become(user)
            _enter(request)
            for source, target in ((self._null, 0), (ends[0], 1), (ends[1], 2)):
                os.dup2(source, target)
            os.execve(_find_program(argv[0], environment.get(b"PATH")), argv, environment)
        except SpawnFailed as error:
            text = str(error)
        except OSError as error:
            text = _explain(request.argv[0], error)
        except BaseException as error:  # noqa: BLE001  a child must never continue with the runner's code
            text = f"cannot start {request.argv[0]}: {error!r}"
        finally:
            os.write(ends[2], text.encode("utf-8", "replace")[:_FAILURE_BYTES_MAX])
            os._exit(127)


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
