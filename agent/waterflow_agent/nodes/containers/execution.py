"""Runs one script in a running container: the main process of its step on the server.

    runner ──signal──▶ this process ──standard input──▶ watcher ──signal──▶ the script's process group in the container

Rules of this file:

- A signal that this process gets is passed to all processes of the script. If this process is killed, its connection ends: then
  the watcher kills them, so that nothing runs on after a timeout or a cancel. The watcher needs a shell only (`_WRAPPER`).
- The container sees a copy of the attempt's files, in a directory of the job. What the script has written is copied back. The
  container may do anything to that directory, so it is only entered through a descriptor, and links are not followed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import msgspec
from docker import errors
from docker.utils.socket import frames_iter

from waterflow_agent.nodes.containers import labels
from waterflow_agent.nodes.containers.removal import CONNECTION_ERRORS
from waterflow_agent.nodes.containers.request import PREFIX, PROBLEM, SEARCH_PATH, ExecutionRequest
from waterflow_agent.nodes.shell import DEFAULT_PATH
from waterflow_agent.nodes.step_files import RETURNED
from waterflow_agent.wire import messages

#: Docker makes an executed process the leader of its own session, so `$$` is its process group as well.
_WRAPPER = """exec 3<&0
(
  trap '' HUP INT QUIT TERM USR1 USR2
  while read -r name <&3; do kill -s "$name" -- "-$$"; done
  kill -0 "$$" && kill -s KILL -- "-$$"
) >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FAILURE_EXIT_CODE = 1
#: One byte more than is accepted, so that the agent notices and reports what is too large.
_COPIED_BYTES_MAX = max(messages.OUTPUTS_BYTES_MAX, messages.SUMMARY_BYTES_MAX) + 4096


def main(arguments: list[str]) -> int:
    """Run the script and return its exit code."""
    with open(arguments[0], "rb") as file:
        request = msgspec.json.decode(file.read(), type=ExecutionRequest)
    variables = {
        name.removeprefix(PREFIX): os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)
    }
    try:
        client = docker.from_env(timeout=None)
        container = client.containers.get(request.container)
        if container.status != "running":
            return _fail(request, f"the job's container is {container.status}, so no further script can run in it")
        _write_search_path(request, container)
        with shared_files(container.labels[labels.START], request.files) as (inside, directory):
            code = _execute(client.api, request, variables, inside)
            copy_back(directory, request.files)
        return code
    except errors.NotFound:
        return _fail(request, "the job's container no longer exists")
    except errors.APIError as error:
        return _fail(request, f"the Docker engine refused the script: {error.explanation or error}")
    except FilesError as error:
        return _fail(request, f"cannot copy the script's files between this server and the container: {error}")
    except (errors.DockerException, *CONNECTION_ERRORS) as error:
        return _fail(
            request, f"lost the connection to the Docker engine, so the outcome of the script is unknown: {error}"
        )


def _fail(request: ExecutionRequest, text: str) -> int:
    """Leave the problem for the agent, which would only see an exit code otherwise. Returns that."""
    print(f"waterflow: {text}", file=sys.stderr, flush=True)
    with open(f"{request.files}/{PROBLEM}", "w", encoding="utf-8", errors="replace") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    return _FAILURE_EXIT_CODE


def _write_search_path(request: ExecutionRequest, container: Any) -> None:
    """Leave the container's `PATH` for the agent, which puts the script's own directories in front of it."""
    found = dict(text.partition("=")[::2] for text in container.attrs["Config"]["Env"] or [])
    with open(f"{request.files}/{SEARCH_PATH}", "w", encoding="utf-8", errors="replace") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(found.get("PATH", DEFAULT_PATH))


def _execute(api: Any, request: ExecutionRequest, variables: Mapping[str, str], inside: str) -> int:
    """Run the script, copy its output, and return its exit code."""

    def moved(text: str) -> str:
        return text.replace(request.files, inside)

    created = api.exec_create(
        request.container,
        ["sh", "-c", _WRAPPER, "sh", *map(moved, request.argv)],
        stdin=True,
        environment={name: moved(value) for name, value in variables.items()},
        workdir=request.directory,
    )["Id"]
    connection = api.exec_start(created, socket=True)
    channel = getattr(connection, "_sock", connection)

    def forward(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):
            channel.sendall(f"{signal.Signals(number).name.removeprefix('SIG')}\n".encode())

    for number in _FORWARDED:
        signal.signal(number, forward)
    for _, chunk in frames_iter(connection, False):
        _write_all(chunk)
    code = api.exec_inspect(created)["ExitCode"]
    if code is None:
        return _fail(request, "lost the script's process in the container, so its outcome is unknown")
    return int(code)


def _write_all(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]


class FilesError(Exception):
    """The files of the script cannot be copied on this server; the text says why."""


@contextlib.contextmanager
def _copying() -> Iterator[None]:
    """Makes a `FilesError` of what the disk says: a lost connection to the engine is an `OSError` too."""
    try:
        yield
    except OSError as error:
        raise FilesError(error.strerror or str(error)) from error


@contextlib.contextmanager
def shared_files(start: str, files: str) -> Iterator[tuple[str, int]]:
    """Copy the attempt's files to a new directory that the container sees. Yields its path and a descriptor.

    Raises `FilesError`.
    """
    name = secrets.token_hex(8)
    inside = f"{start}/{name}"
    with _copying():
        directory = _new_directory(start, name)
    try:
        with _copying():
            _copy(files, directory, inside)
        yield inside, directory
    finally:
        os.close(directory)
        shutil.rmtree(inside, ignore_errors=True)


def _new_directory(start: str, name: str) -> int:
    above = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(above)


def _copy(files: str, directory: int, inside: str) -> None:
    # Scripts may run as any user of the container. On the server, other users cannot enter the directory above.
    os.fchmod(directory, 0o755)
    for entry in os.scandir(files):
        if entry.is_file(follow_symlinks=False) and entry.name not in ("request", SEARCH_PATH):
            with open(entry.path, "rb") as file:
                content = file.read().replace(files.encode(), inside.encode())
            _create(directory, entry.name, content, 0o666 if entry.name in RETURNED else 0o755)


def _create(directory: int, name: str, content: bytes, mode: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)


def copy_back(directory: int, files: str) -> None:
    """Copy what the script has written to the attempt's directory: regular files only, up to a limit.

    Raises `FilesError`.
    """
    with _copying():
        _copy_back(directory, files)


def _copy_back(directory: int, files: str) -> None:
    for name in RETURNED:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            # Removed, or replaced by a link: the step has written nothing.
            continue
        try:
            # Whatever else it may be by now is left alone.
            content = _read(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        with open(f"{files}/{name}", "wb") as file:
            file.write(content)


def _read(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read(_COPIED_BYTES_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
