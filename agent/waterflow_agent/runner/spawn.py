"""Starting a process: own session, stdin from /dev/null, stdout and stderr through pipes, nothing else inherited.

`posix_spawn` shares memory with the child until its exec (like vfork), so the cost of a start does not depend on the size of
this process. It has no option for the working directory, so the runner changes its own and goes back: it has one thread and
needs no working directory. All other descriptors are closed at the exec, because Python opens them so.
"""

from __future__ import annotations

import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import StartRequest

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

    def spawn(self, request: StartRequest, mark: tuple[str, str]) -> Spawned:
        """Start the requested process with `mark` (name and value) in its environment. Raises `SpawnFailed`."""
        environment = {_bytes(name): _bytes(value) for name, value in request.env.items()}
        environment[mark[0].encode()] = _bytes(mark[1])
        argv = [_bytes(argument) for argument in request.argv]
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
        descriptors: list[int] = []
        try:
            descriptors += os.pipe()
            descriptors += os.pipe()
            stdout, stdout_end, stderr, stderr_end = descriptors
            os.set_blocking(stdout, False)
            os.set_blocking(stderr, False)
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
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        os.close(stdout_end)
        os.close(stderr_end)
        return Spawned(pid, stdout, stderr)


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
